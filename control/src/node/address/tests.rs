use super::*;
use crate::node::NodeErrorKind;

fn interface(name: &str, device: bool, addresses: &[&str]) -> Interface {
    Interface {
        name: name.into(),
        up: true,
        loopback: name == "lo",
        device,
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
    }
}

fn lo() -> Interface {
    interface("lo", true, &["127.0.0.1", "::1"])
}

fn machine(others: &[Interface]) -> Vec<Interface> {
    [&[lo()], others].concat()
}

/// A request that says no more than where to listen.
fn asked(listen: &str) -> Asked<'_> {
    Asked {
        listen,
        advertise: "",
        data_path: "",
        default_advertise: "",
    }
}

fn advertised(listen: &str, advertise: &str, machine: &[Interface]) -> Result<String, String> {
    of(
        Asked {
            advertise,
            ..asked(listen)
        },
        machine,
    )
}

fn of(asked: Asked<'_>, machine: &[Interface]) -> Result<String, String> {
    let addresses = for_init(asked, machine);
    let advertised = addresses.map(|found| found.advertise.unwrap().to_string());
    advertised.map_err(|error| {
        assert_eq!(error.kind, NodeErrorKind::Invalid);
        error.message
    })
}

const ANY: &str = "0.0.0.0:2377";

#[test]
fn the_only_address_is_advertised() {
    let eth0 = interface("eth0", true, &["198.18.0.1", "fe80::1"]);
    let docker0 = interface("docker0", false, &["172.17.0.1"]);
    let one = machine(&[eth0.clone(), docker0.clone()]);
    assert_eq!(advertised(ANY, "", &one).unwrap(), "198.18.0.1:2377");
    assert_eq!(advertised("0.0.0.0:99", "", &one).unwrap(), "198.18.0.1:99");
    let loopback = advertised("127.0.0.9:2377", "", &one).unwrap();
    assert_eq!(
        loopback, "198.18.0.1:2377",
        "no other node could come there"
    );
    let own = advertised("198.18.0.1:99", "", &one).unwrap();
    assert_eq!(own, "198.18.0.1:99");
    let named = advertised("127.0.0.9:2377", "127.0.0.9", &one).unwrap();
    assert_eq!(named, "127.0.0.9:2377");
    for (listen, said) in [
        ("127.0.0.9:2377", None),
        (ANY, None),
        ("198.18.0.1:99", Some("198.18.0.1:99")),
    ] {
        let joining = for_join(asked(listen), &one).unwrap().advertise;
        assert_eq!(joining, said.map(|said| said.parse().unwrap()), "{listen}");
    }
    // A namespace: a veth is not a device, and the engine's bridge does not count.
    let veth = interface("eth0", false, &["198.18.0.2"]);
    let namespace = machine(&[veth, docker0]);
    assert_eq!(advertised(ANY, "", &namespace).unwrap(), "198.18.0.2:2377");
    let v6 = machine(&[interface("eth0", true, &["2001:db8::1"])]);
    assert_eq!(advertised(ANY, "", &v6).unwrap(), "[2001:db8::1]:2377");
    let mut off = eth0;
    off.up = false;
    let error = advertised(ANY, "", &machine(&[off])).unwrap_err();
    assert_eq!(error, "could not find the system's IP address");
}

#[test]
fn several_addresses_are_an_error_that_names_them() {
    let two = machine(&[
        interface("eth0", true, &["198.18.0.1"]),
        interface("eth1", true, &["198.18.0.2"]),
    ]);
    assert_eq!(
        advertised(ANY, "", &two).unwrap_err(),
        "could not choose an IP address to advertise since this system has multiple addresses on different interfaces (198.18.0.1 on eth0 and 198.18.0.2 on eth1)"
    );
    let both = machine(&[interface("eth0", true, &["198.18.0.1", "198.18.0.2"])]);
    assert_eq!(
        advertised(ANY, "", &both).unwrap_err(),
        "could not choose an IP address to advertise since this system has multiple addresses on interface eth0 (198.18.0.1 and 198.18.0.2)"
    );
    assert_eq!(advertised(ANY, "eth1", &two).unwrap(), "198.18.0.2:2377");
    assert_eq!(advertised(ANY, "eth1:5", &two).unwrap(), "198.18.0.2:5");
    assert_eq!(
        advertised(ANY, "eth0", &both).unwrap_err(),
        "interface eth0 has more than one IPv4 address (198.18.0.1 and 198.18.0.2)"
    );
    let bare = machine(&[interface("eth2", true, &[])]);
    assert_eq!(
        advertised(ANY, "eth2", &bare).unwrap_err(),
        "interface eth2 has no usable IPv4 or IPv6 address"
    );
}

#[test]
fn addresses_that_nobody_can_use_are_refused() {
    let one = machine(&[interface("eth0", true, &["198.18.0.1"])]);
    let advertise = "advertise address must be a non-zero IP address or network interface (with optional port number)";
    for bad in ["0.0.0.0", "0.0.0.0:2377", "eth9", "198.18.0.1:port"] {
        assert_eq!(advertised(ANY, bad, &one).unwrap_err(), advertise, "{bad}");
    }
    assert_eq!(
        advertised("", "", &one).unwrap_err(),
        "invalid ListenAddr \"\": invalid empty address"
    );
    assert_eq!(
        advertised("eth9", "", &one).unwrap_err(),
        "listen address must be an IP address or network interface (with optional port number)"
    );
    assert_eq!(
        advertised("1.2.3.4:x", "", &one).unwrap_err(),
        "could not parse listen address 1.2.3.4:x"
    );
    let everywhere = Asked {
        data_path: "0.0.0.0",
        ..asked(ANY)
    };
    let data_path = for_init(everywhere, &one).unwrap_err();
    assert_eq!(
        data_path.message,
        "data path address must be a non-zero IP address or network interface (without a port number)"
    );
}

#[test]
fn a_foreign_address_needs_one_to_listen_on() {
    let none = machine(&[]);
    let error = advertised(ANY, "203.0.113.1", &none).unwrap_err();
    assert!(error.starts_with("must specify a listening address because"));
    let one = machine(&[interface("eth0", true, &["198.18.0.1"])]);
    let foreign = advertised(ANY, "203.0.113.1", &one).unwrap();
    assert_eq!(foreign, "203.0.113.1:2377");
    let bound = advertised("198.18.0.1", "203.0.113.1", &none).unwrap();
    assert_eq!(bound, "203.0.113.1:2377");
}

#[test]
fn the_daemons_default_holds_where_the_request_says_nothing() {
    let two = machine(&[
        interface("eth0", true, &["198.18.0.1"]),
        interface("eth1", true, &["198.18.0.2"]),
    ]);
    let by = |default_advertise, advertise| Asked {
        advertise,
        default_advertise,
        ..asked(ANY)
    };
    let joining = |asked| for_join(asked, &two).unwrap().advertise;
    for (default, advertise, expected) in [
        ("eth1", "", "198.18.0.2:2377"),
        ("198.18.0.1", "", "198.18.0.1:2377"),
        ("eth1", "eth0:99", "198.18.0.1:99"),
    ] {
        assert_eq!(of(by(default, advertise), &two).unwrap(), expected);
        assert_eq!(joining(by(default, advertise)), expected.parse().ok());
    }
    // Before the address that it listens on.
    let listening = Asked {
        listen: "198.18.0.1:55",
        ..by("eth1", "")
    };
    assert_eq!(of(listening, &two).unwrap(), "198.18.0.2:55");
    for bad in ["eth9", "0.0.0.0", "198.18.0.1:2377"] {
        assert_eq!(
            of(by(bad, ""), &two).unwrap_err(),
            "default advertise address must be a non-zero IP address or network interface (without a \
             port number)"
        );
        assert_eq!(joining(by(bad, "")), None, "a join passes over it");
    }
}

#[test]
fn a_join_passes_over_what_it_cannot_use() {
    let none = machine(&[]);
    let unknown = Asked {
        advertise: "eth9",
        ..asked(ANY)
    };
    assert_eq!(for_join(unknown, &none).unwrap().advertise, None);
    let bound = for_join(asked("10.0.0.1"), &none).unwrap();
    assert_eq!(bound.advertise, Some("10.0.0.1:2377".parse().unwrap()));
    assert_eq!(remote_address("10.0.0.1").unwrap(), "10.0.0.1:2377");
    assert_eq!(
        remote_address("[2001:db8::1]:5").unwrap(),
        "[2001:db8::1]:5"
    );
    assert_eq!(remote_address("host:5").unwrap(), "host:5");
    let error = remote_address("").unwrap_err().message;
    assert_eq!(error, "invalid remoteAddr \"\": invalid empty address");
}

#[test]
fn data_path_ports_have_a_range() {
    assert_eq!(data_path_port(0).unwrap(), 4789);
    assert_eq!(data_path_port(49151).unwrap(), 49151);
    let error = data_path_port(80).unwrap_err();
    assert_eq!(error.kind, NodeErrorKind::Internal);
    assert_eq!(
        error.message,
        "Datapath port number is not in valid range (1024-49151) : 80"
    );
}

#[test]
fn an_address_that_its_interface_lost_gives_way_to_the_one_that_it_has() {
    let before = machine(&[
        interface("eth0", true, &["198.18.0.1", "2001:db8::1"]),
        interface("eth1", true, &["10.1.0.1"]),
    ]);
    let advertising = |advertise| Asked {
        advertise,
        ..asked(ANY)
    };
    let joining = |advertise| for_join(advertising(advertise), &before).unwrap();
    let joined = joining("198.18.0.1");
    assert_eq!(joined.interface.as_deref(), Some("eth0"));
    let own = joined.advertise.unwrap();
    assert_eq!(moved(own, "eth0", &before), None);
    let other = |addresses: &[&str]| {
        machine(&[
            interface("eth0", true, addresses),
            interface("eth1", true, &["10.1.0.1"]),
        ])
    };
    let now = moved(own, "eth0", &other(&["2001:db8::1", "198.18.0.9"]));
    assert_eq!(now, Some("198.18.0.9:2377".parse().unwrap()));
    // It has none yet, or it is not said which; and another interface is another way to the machine.
    for unclear in [&["2001:db8::1"][..], &[], &["198.18.0.9", "198.18.0.8"]] {
        assert_eq!(moved(own, "eth0", &other(unclear)), None, "{unclear:?}");
    }
    // It has come to another interface.
    let elsewhere = machine(&[
        interface("eth0", true, &["198.18.0.9"]),
        interface("bond0", true, &["198.18.0.1"]),
    ]);
    assert_eq!(moved(own, "eth0", &elsewhere), None);

    // What the machine does not have, or hears no other address by.
    assert_eq!(joining("203.0.113.7").interface, None);
    assert_eq!(
        for_join(asked("198.18.0.1:2377"), &before)
            .unwrap()
            .interface,
        None
    );
    let mut seen = joining("");
    assert_eq!((seen.advertise, seen.interface.as_deref()), (None, None));
    seen.advertise_own("10.1.0.1".parse().unwrap(), &before);
    assert_eq!(seen.interface.as_deref(), Some("eth1"));
    assert_eq!(seen.advertise, Some("10.1.0.1:2377".parse().unwrap()));
    let founder = for_init(advertising("eth1"), &before).unwrap();
    assert_eq!(founder.interface.as_deref(), Some("eth1"));
}
