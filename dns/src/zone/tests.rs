use super::*;
use hickory_proto::serialize::binary::BinDecodable as _;
use proptest::prelude::*;
use std::sync::LazyLock;

fn endpoint(service: &str, address: &str, names: &[&str]) -> Endpoint {
    Endpoint {
        service_id: service.into(),
        address: address.parse().unwrap(),
        names: names.iter().map(|&name| name.into()).collect(),
    }
}

fn service(id: &str, name: &str, vip: Option<&str>, aliases: &[&str]) -> Service {
    Service {
        id: id.into(),
        name: name.into(),
        vip: vip.map(|vip| vip.parse().unwrap()),
        aliases: aliases.iter().map(|&name| name.into()).collect(),
    }
}

/// `front` and `back` share a subnet; `web` is on both, with a VIP on each.
static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let front = Network {
        id: "n1".into(),
        name: "Front".into(),
        subnets: vec!["10.0.1.0/24".parse().unwrap()],
        services: vec![
            service("s1", "web", Some("10.0.1.2"), &["www", "shared"]),
            service("s2", "Api", None, &["shared"]),
            service("s3", "idle", Some("10.0.1.9"), &[]),
        ],
        endpoints: vec![
            endpoint("s1", "10.0.1.3", &["web.1.abc", "0123456789ab"]),
            endpoint("s1", "10.0.1.4", &["web.2.def", "box"]),
            endpoint("s2", "10.0.1.5", &["api.1.ghi"]),
            endpoint("s2", "10.0.1.6", &["api.2.jkl"]),
            endpoint("", "10.0.1.7", &["lonely"]),
        ],
    };
    let back = Network {
        id: "n2".into(),
        name: "back".into(),
        subnets: vec!["10.0.1.0/24".parse().unwrap()],
        services: vec![
            service("s1", "web", Some("10.0.1.20"), &[]),
            service("s3", "idle", Some("10.0.1.21"), &[]),
        ],
        endpoints: vec![
            endpoint("s1", "10.0.1.30", &["web.1.abc"]),
            endpoint("s3", "10.0.1.31", &["idle.1.mno"]),
        ],
    };
    Zone::new([front, back])
});

fn ask(networks: &[&str], name: &str, record: RecordType) -> Answer<'static> {
    let networks: Vec<_> = networks.iter().map(|&id| id.to_owned()).collect();
    ZONE.answer(&networks, name, record)
}

/// "-" for a name that does not exist, "?" for a foreign one.
fn addresses(networks: &[&str], name: &str) -> String {
    match ask(networks, name, RecordType::A) {
        Answer::NoSuchName => "-".into(),
        Answer::Foreign => "?".into(),
        Answer::Addresses(addresses) => {
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            addresses.join(" ")
        }
        answer => format!("{answer:?}"),
    }
}

#[test]
fn services_are_found_by_vip_or_by_their_tasks() {
    for (name, expected) in [
        ("web", "10.0.1.2"),
        ("www", "10.0.1.2"),
        ("tasks.web", "10.0.1.3 10.0.1.4"),
        ("tasks.www", "10.0.1.3 10.0.1.4"),
        ("api", "10.0.1.5 10.0.1.6"),
        ("tasks.api", "10.0.1.5 10.0.1.6"),
        ("shared", "10.0.1.2 10.0.1.5 10.0.1.6"),
        ("tasks.shared", "10.0.1.3 10.0.1.4 10.0.1.5 10.0.1.6"),
        ("web.1.abc", "10.0.1.3"),
        ("0123456789ab", "10.0.1.3"),
        ("lonely", "10.0.1.7"),
        ("idle", "-"),
        ("tasks.idle", "-"),
        ("nobody", "?"),
        ("example.org", "?"),
    ] {
        assert_eq!(addresses(&["n1"], name), expected, "{name}");
    }
}

#[test]
fn each_asker_sees_its_own_networks_in_their_order() {
    assert_eq!(addresses(&["n2"], "web"), "10.0.1.20");
    assert_eq!(addresses(&["n2"], "api"), "?");
    assert_eq!(addresses(&["n1", "n2"], "web"), "10.0.1.2");
    assert_eq!(addresses(&["n2", "n1"], "web"), "10.0.1.20");
    assert_eq!(addresses(&["n2", "n1"], "api"), "10.0.1.5 10.0.1.6");
    assert_eq!(
        addresses(&["n1", "n2"], "idle"),
        "10.0.1.21",
        "where it has a task"
    );
    assert_eq!(addresses(&[], "web"), "?");
    assert_eq!(addresses(&["unknown"], "web"), "?");
}

#[test]
fn a_network_in_the_name_leads_there_alone() {
    for (networks, name, expected) in [
        (&["n1", "n2"][..], "web.back", "10.0.1.20"),
        (&["n1", "n2"], "web.front", "10.0.1.2"),
        (&["n1", "n2"], "tasks.web.back", "10.0.1.30"),
        (&["n1", "n2"], "web.1.abc.back", "10.0.1.30"),
        (&["n1"], "web.back", "?"),
        (&["n1", "n2"], "api.back", "?"),
        (&["n1"], "idle.front", "-"),
    ] {
        assert_eq!(addresses(networks, name), expected, "{name}");
    }
}

#[test]
fn other_types_of_known_names_are_empty() {
    for record in [RecordType::AAAA, RecordType::MX, RecordType::TXT] {
        assert_eq!(ask(&["n1"], "web", record), Answer::Nothing);
        assert_eq!(ask(&["n1"], "nobody", record), Answer::Foreign);
        assert_eq!(ask(&["n1"], "idle", record), Answer::NoSuchName);
    }
}

#[test]
fn addresses_lead_to_the_first_name_and_never_leave() {
    fn name(networks: &[&str], name: &str) -> String {
        match ask(networks, name, RecordType::PTR) {
            Answer::Pointer(name) => Name::from_bytes(name).unwrap().to_string(),
            answer => format!("{answer:?}"),
        }
    }
    assert_eq!(name(&["n1"], "3.1.0.10.in-addr.arpa"), "web.1.abc.Front.");
    assert_eq!(
        name(&["n1", "n2"], "31.1.0.10.in-addr.arpa"),
        "idle.1.mno.back."
    );
    assert_eq!(name(&["n2"], "3.1.0.10.in-addr.arpa"), "NoSuchName");
    assert_eq!(name(&["n1"], "2.1.0.10.in-addr.arpa"), "NoSuchName", "VIP");
    assert_eq!(name(&["n1"], "1.2.0.10.in-addr.arpa"), "Foreign");
    for no_address in ["1.0.10", "0.3.1.0.10", "256.1.0.10", "x.1.0.10", ""] {
        let asked = format!("{no_address}.in-addr.arpa");
        assert_eq!(name(&["n1"], &asked), "Foreign", "{asked}");
    }
    assert_eq!(name(&[], "3.1.0.10.in-addr.arpa"), "Foreign");
    let other = ask(&["n1"], "3.1.0.10.in-addr.arpa", RecordType::A);
    assert_eq!(other, Answer::Nothing);
}

proptest! {
    #[test]
    fn no_name_breaks_the_zone(name in "(tasks[.])?[a-z0-9.]{0,12}(web|front|[.]in-addr[.]arpa)?") {
        for record in [RecordType::A, RecordType::PTR] {
            ask(&["n1", "n2"], &name, record);
        }
    }
}
