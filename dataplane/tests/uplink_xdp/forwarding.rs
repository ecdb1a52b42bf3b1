//! What becomes of a packet: sent on, sent back, dropped, or left to the stack.

use super::bench::{
    Bench, CLIENT, CLIENT_MAC, DROP, FAR_CLIENT, FAR_DEVICE_MAC, FAR_MAC, NODE, NODE_MAC, OTHER,
    OTHER_MAC, PASS, PORT, REDIRECT, STRANGER, TASK, TC_OK, TC_REDIRECT, TC_SHOT, TUNNEL_MTU, TX,
    UNRESOLVED, VXLAN_PORT, assert_passed,
};
use super::frames::{Tcp, answered, by_l2, changed, checksum, ip_header, routed, seal, vxlan};
use nix::net::if_::if_nametoindex;
use skein_abi::ingress::{DEVICE_PAIR, DEVICE_XDP};
use skein_abi::names::MAP_DEVICES;
use skein_abi::segment::PROBE_ADDRESS;
use skein_abi::verdict::Counter;
use skein_abi::{VNI_FORWARD, VNI_OVERLAY_MIN, VNI_REPLY, addr, mac};

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn what_concerns_nobody_here_is_passed_on() {
    let mut bench = Bench::new();
    let request = Tcp::request(40_000);
    let unpublished = Tcp {
        dst: (NODE, 81),
        ..request
    };
    let elsewhere = Tcp {
        dst: (STRANGER, PORT),
        ..request
    };
    for frame in [
        unpublished.received(),
        elsewhere.received(),
        vec![0xff; 60],
        vec![0; 14],
    ] {
        assert_passed(&bench.run(&frame), &frame);
    }
    assert_eq!(bench.count(Counter::XdpSent), 0);
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn a_request_goes_to_the_node_of_the_task_in_vxlan() {
    let mut bench = Bench::new();
    let request = Tcp::request(40_001).received();
    let (code, sent) = bench.run_again(&request);
    assert_eq!(code, TX);

    let (outer, inner) = sent.split_at(50);
    // The node that the client came in by stands in the source.
    let from = mac(addr(NODE.into()));
    assert_eq!(inner, routed(&request, [NODE_MAC, from]));

    assert_eq!(outer[..12], [OTHER_MAC, NODE_MAC].concat());
    assert_eq!(outer[12..14], [0x08, 0x00]);
    let mut ip = ip_header(36 + request.len(), 64, 17, NODE, OTHER);
    // Like the kernel's own, it may be fragmented, under a number of its own.
    ip[4..6].copy_from_slice(&outer[18..20]);
    ip[6] = 0;
    seal(&mut ip);
    assert_eq!(outer[14..34], ip);
    let sport = u16::from_be_bytes([outer[34], outer[35]]);
    assert!(sport >= 49_152, "{sport}");
    assert_eq!(outer[36..38], VXLAN_PORT.to_be_bytes());
    assert_eq!(outer[38..40], (16 + request.len() as u16).to_be_bytes());
    let no_checksum_and_vni = [0, 0, 0x08, 0, 0, 0, 0, 0, VNI_FORWARD as u8, 0];
    assert_eq!(outer[40..], no_checksum_and_vni);

    // Decided twice, counted once.
    assert_eq!(bench.count(Counter::EntryForwarded), 1);
    assert_eq!(bench.count(Counter::XdpSent), 1);

    let (_, same_flow) = bench.run(&request);
    assert_eq!(same_flow[34..36], outer[34..36], "a flow keeps its order");
    let (_, other_flow) = bench.run(&Tcp::request(40_002).received());
    assert_ne!(other_flow[34..36], outer[34..36], "flows spread");
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn congestion_is_not_hidden() {
    let bench = Bench::new();
    // Congestion experienced: the inner packet keeps it, the outer one may get it anew (RFC 6040).
    let request = changed(&Tcp::request(40_003).received(), 15, 3);
    let (code, sent) = bench.run_again(&request);
    assert_eq!((code, sent[15], sent[65]), (TX, 2, 3));
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn an_answer_leaves_vxlan_and_goes_to_the_client() {
    let mut bench = Bench::new();
    let request = Tcp::request(40_004);
    assert_eq!(bench.run_again(&request.received()).0, TX);

    let answer = answered(request);
    let (code, sent) = bench.run_again(&answer);
    assert_eq!(code, TX);
    assert_eq!(sent, routed(&answer[50..], [CLIENT_MAC, NODE_MAC]));
    assert_eq!(bench.count(Counter::ReplyOut), 1);
    assert_eq!(bench.count(Counter::XdpSent), 2);
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn an_answer_leaves_by_another_device_that_has_xdp() {
    let mut bench = Bench::new();
    let request = Tcp {
        src: (FAR_CLIENT, 40_005),
        ..Tcp::request(0)
    };
    assert_eq!(bench.run_again(&request.received()).0, TX);
    let answer = answered(request);
    for _ in 0..2 {
        assert_passed(&bench.run(&answer), &answer);
    }
    let other = if_nametoindex("w0").expect("made");
    bench.put(MAP_DEVICES, other, DEVICE_XDP);
    let (code, sent) = bench.run_again(&answer);
    assert_eq!(code, REDIRECT);
    assert_eq!(sent, routed(&answer[50..], [FAR_MAC, FAR_DEVICE_MAC]));
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn the_other_end_of_a_veth_pair_is_told_of_each_frame() {
    let mut bench = Bench::new();
    let device = bench.device;
    bench.put(MAP_DEVICES, device, DEVICE_PAIR | DEVICE_XDP);
    let request = Tcp::request(40_010).received();
    assert_eq!(bench.run_again(&request).0, REDIRECT);
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn forged_and_late_answers_go_nowhere() {
    let mut bench = Bench::new();
    let request = Tcp::request(40_006);
    let unknown = answered(request);
    assert_eq!(bench.run(&unknown).0, DROP);
    assert_eq!(bench.count(Counter::DropNoFlow), 1);

    bench.run_again(&request.received());
    let forged = vxlan(STRANGER, VNI_REPLY, &unknown[50..]);
    assert_eq!(bench.run(&forged).0, DROP);
    assert_eq!(bench.count(Counter::DropNotMember), 1);
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn in_a_flood_answers_go_out_without_a_remembered_flow() {
    let mut bench = Bench::new();
    // No flow at all may be remembered: the first is a flood.
    bench.configure_with(0);
    let request = Tcp::request(40_009);
    let answer = answered(request);
    assert_eq!(bench.run(&answer).0, DROP, "nobody has called yet");
    assert_eq!(bench.run_again(&request.received()).0, TX);
    assert_eq!(bench.run_again(&answer).0, TX);
    assert_eq!(bench.count(Counter::DropNoFlow), 1);
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn what_the_stack_must_see_is_passed_on() {
    let mut bench = Bench::new();
    let request = Tcp::request(40_007);
    let of_len = |payload| Tcp { payload, ..request }.received();
    let whole = request.received();
    let answer = answered(request);
    let mut options = whole.clone();
    options.splice(34..34, [1, 1, 1, 0]);
    options[14] = 0x46;
    let mut damaged = answer.clone();
    damaged[24] ^= 1;
    let inner = |frame: &[u8]| vxlan(OTHER, VNI_REPLY, frame);
    let last_hop = Tcp { ttl: 1, ..request }.received();
    // From here on its neighbours are confirmed.
    assert_eq!(bench.run_again(&whole).0, TX);
    assert_eq!(bench.run_again(&answer).0, TX);
    let before = bench.count(Counter::XdpSent);
    for (what, frame) in [
        ("options", options),
        ("a first fragment", changed(&whole, 20, 0x20)),
        ("a later fragment", changed(&whole, 21, 8)),
        ("the end of its time to live", last_hop),
        ("too long in VXLAN", of_len(1_411)),
        ("for a task here", vxlan(OTHER, VNI_FORWARD, &whole)),
        ("of an overlay", vxlan(OTHER, VNI_OVERLAY_MIN, &whole)),
        ("a UDP checksum", changed(&answer, 41, 1)),
        ("congestion on its way", changed(&answer, 15, 3)),
        ("a damaged outer header", damaged),
        (
            "a fragment in VXLAN",
            inner(&changed(&answer[50..], 20, 0x20)),
        ),
        ("cut short", inner(&answer[50..80])),
    ] {
        let (code, after) = bench.run(&frame);
        assert_eq!(code, PASS, "{what}");
        assert_eq!(after, frame, "{what}");
    }
    assert_eq!(bench.count(Counter::XdpSent), before);
    assert_eq!(bench.run(&of_len(1_410)).0, TX, "it just fits");

    bench.publish(UNRESOLVED);
    let other_flow = Tcp::request(40_008).received();
    for _ in 0..2 {
        assert_passed(&bench.run(&other_flow), &other_flow);
    }
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn a_task_of_this_node_gets_its_packet_from_the_hook_behind() {
    let mut bench = Bench::new();
    bench.serve();
    let request = Tcp::request(40_009).received();
    assert_passed(&bench.run(&request), &request);
    assert_eq!(bench.count(Counter::EntryLocal), 0);

    let (code, after) = bench.run_tc(&request);
    assert_eq!(code, TC_REDIRECT);
    assert_eq!(after[30..34], TASK);
    assert_eq!(bench.count(Counter::EntryLocal), 1);
}

/// A request with options of TCP.
fn with_options(request: Tcp, options: &[u8]) -> Vec<u8> {
    let mut frame = request.received();
    frame.splice(54..54, options.iter().copied());
    frame[46] = 0x50 + ((options.len() as u8) << 2);
    let len = (frame.len() as u16 - 14).to_be_bytes();
    frame[16..18].copy_from_slice(&len);
    seal(&mut frame[14..34]);
    // TCP's own checksum, for what is checked below.
    frame[50..52].fill(0);
    let sum = tcp_checksum(&frame);
    frame[50..52].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Of the TCP header and what follows; 0 if the one that is there is right.
fn tcp_checksum(frame: &[u8]) -> u16 {
    let tcp = &frame[34..];
    let pseudo = [
        &frame[26..34],
        &[0, 6],
        &(tcp.len() as u16).to_be_bytes(),
        tcp,
    ]
    .concat();
    checksum(&pseudo)
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn segments_of_a_connection_are_to_fit() {
    let mut bench = Bench::new();
    let request = Tcp::request(40_012);
    assert_eq!(bench.run_again(&request.received()).0, TX);
    let mss = |mss: u16| [&[2, 4][..], &mss.to_be_bytes()].concat();
    for (announced, expected) in [(1_460, 1_410), (1_410, 1_410), (536, 536)] {
        let frame = with_options(request, &mss(announced));
        assert_eq!(tcp_checksum(&frame), 0);
        let (code, sent) = bench.run(&frame);
        assert_eq!(code, TX);
        assert_eq!(sent[106..108], u16::to_be_bytes(expected));
        assert_eq!(tcp_checksum(&sent[50..]), 0);
    }
    // Behind other options it is for the hook behind.
    let late = with_options(request, &[&[1, 1, 1, 1][..], &mss(1_460)].concat());
    assert_passed(&bench.run(&late), &late);
    let (code, sent) = bench.run_tc(&late);
    assert_eq!(code, TC_REDIRECT);
    assert_eq!(sent[60..62], 1_410_u16.to_be_bytes());
    assert_eq!(tcp_checksum(&sent), 0);
    // So does the other side hear of it.
    let inner = with_options(request.answer(), &mss(1_460));
    let answer = vxlan(OTHER, VNI_REPLY, &inner);
    let (code, sent) = bench.run_again(&answer);
    assert_eq!(code, TX);
    assert_eq!(sent[56..58], 1_410_u16.to_be_bytes());
    assert_eq!(tcp_checksum(&sent), 0);
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn who_sends_too_long_packets_is_told() {
    let mut bench = Bench::new();
    let of_len = |payload| {
        let request = Tcp::request(40_013);
        Tcp { payload, ..request }.received()
    };
    let (long, fitting) = (of_len(1_411), of_len(1_410));
    assert_passed(&bench.run(&long), &long);
    let (code, told) = bench.run_tc(&long);
    assert_eq!(code, TC_REDIRECT);
    assert_eq!(told.len(), 14 + 20 + 8 + 28);
    assert_eq!(told[14..34], {
        let mut ip = ip_header(56, 63, 1, NODE, CLIENT);
        ip[4..8].fill(0);
        seal(&mut ip);
        ip
    });
    let [high, low] = TUNNEL_MTU.to_be_bytes();
    assert_eq!(told[34..36], [3, 4], "fragmentation needed");
    assert_eq!(told[38..42], [0, 0, high, low]);
    assert_eq!(checksum(&told[34..]), 0);
    assert_eq!(told[42..], long[14..42]);
    assert_eq!(bench.count(Counter::DropTooBig), 1);

    let (code, sent) = bench.run_tc(&fitting);
    assert_eq!((code, sent.len()), (TC_REDIRECT, fitting.len()));
    let may_be_fragmented = changed(&long, 20, 0);
    let (code, sent) = bench.run_tc(&may_be_fragmented);
    assert_eq!((code, sent.len()), (TC_REDIRECT, long.len()));
}

/// An ICMP error from a router, about what is quoted.
fn error_about(quoted: &[u8], src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    let mut icmp = vec![3, 4, 0, 0, 0, 0, 5, 0];
    icmp.extend(quoted);
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [NODE_MAC, CLIENT_MAC].concat();
    frame.extend([0x08, 0x00]);
    frame.extend(ip_header(20 + icmp.len(), 64, 1, src, dst));
    frame.extend(icmp);
    frame
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn an_icmp_error_is_translated_inside_and_out() {
    let mut bench = Bench::new();
    bench.serve();
    let request = Tcp::request(40_014);
    assert_eq!(bench.run_tc(&request.received()).0, TC_REDIRECT);
    let answer = request.answer().received();
    for len in [28, 60] {
        let error = error_about(&answer[14..][..len.min(answer.len() - 14)], STRANGER, NODE);
        assert_passed(&bench.run(&error), &error);
        let (code, told) = bench.run_tc(&error);
        assert_eq!(code, TC_REDIRECT);
        assert_eq!(told.len(), error.len());
        assert_eq!(told[26..30], STRANGER, "who says it");
        assert_eq!(told[30..34], TASK);
        assert_eq!(checksum(&told[14..34]), 0);
        assert_eq!(checksum(&told[34..]), 0);
        let quoted = &told[42..];
        assert_eq!((&quoted[12..16], &quoted[16..20]), (&TASK[..], &CLIENT[..]));
        assert_eq!(checksum(&quoted[..20]), 0);
        assert_eq!(quoted[20..22], 80_u16.to_be_bytes());
        assert_eq!(quoted[22..24], 40_014_u16.to_be_bytes());
    }
    // About no flow, or for somebody else.
    let stray = error_about(&Tcp::request(1).answer().received()[14..42], STRANGER, NODE);
    assert_eq!(bench.run_tc(&stray).0, TC_SHOT);
    let other = error_about(&answer[14..42], STRANGER, OTHER);
    assert_eq!(bench.run_tc(&other), (TC_OK, other));
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn a_request_goes_by_l2_in_its_own_frame() {
    let mut bench = Bench::new();
    bench.use_l2();
    let request = Tcp::request(40_020).received();
    let expected = routed(&request, [OTHER_MAC, NODE_MAC]);
    assert_eq!(bench.run(&request), (TX, expected.clone()));
    let counts = [Counter::EntryForwarded, Counter::L2Sent, Counter::XdpSent];
    assert_eq!(counts.map(|counter| bench.count(counter)), [1, 1, 1]);
    assert_eq!(bench.run_tc(&request), (TC_REDIRECT, expected));
    assert_eq!(counts.map(|counter| bench.count(counter)), [2, 2, 1]);

    let last = Tcp {
        ttl: 1,
        ..Tcp::request(40_020)
    }
    .received();
    assert_passed(&bench.run(&last), &last);
    assert_eq!(bench.run_tc(&last).0, TC_SHOT);
    assert_eq!(bench.count(Counter::DropTtl), 1);

    // As narrow as VXLAN: another way may be needed at any time.
    let mss = |mss: u16| [&[2, 4][..], &mss.to_be_bytes()].concat();
    let opening = with_options(Tcp::request(40_021), &mss(1_460));
    for (code, sent) in [bench.run(&opening), bench.run_tc(&opening)] {
        assert!(matches!(code, TX | TC_REDIRECT), "{code}");
        assert_eq!(sent[56..58], 1_410_u16.to_be_bytes());
        assert_eq!(tcp_checksum(&sent), 0);
    }
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn an_answer_by_l2_goes_to_the_client() {
    let mut bench = Bench::new();
    bench.use_l2();
    let request = Tcp::request(40_022);
    assert_eq!(bench.run(&by_l2(request.answer())).0, DROP);
    assert_eq!(bench.count(Counter::DropNoFlow), 1);
    assert_eq!(bench.run(&request.received()).0, TX);
    let answer = by_l2(request.answer());
    let (code, sent) = bench.run_again(&answer);
    assert_eq!(code, TX);
    assert_eq!(sent, routed(&answer, [CLIENT_MAC, NODE_MAC]));
    let (code, sent) = bench.run_tc(&answer);
    assert_eq!((code, sent[22]), (TC_REDIRECT, 63));
    assert_eq!(bench.count(Counter::ReplyOut), 2);

    let forged = request.answer().frame([NODE_MAC, CLIENT_MAC]);
    assert_eq!(bench.run(&forged).0, DROP);
    assert_eq!(bench.run_tc(&forged).0, TC_SHOT);
    assert_eq!(bench.count(Counter::DropForged), 2);
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn a_task_here_gets_what_another_node_sends_by_l2() {
    let mut bench = Bench::new();
    bench.serve();
    bench.use_l2();
    let request = Tcp {
        dst: (OTHER, PORT),
        ..Tcp::request(40_023)
    };
    let forwarded = by_l2(request);
    assert_passed(&bench.run(&forwarded), &forwarded);
    let (code, after) = bench.run_tc(&forwarded);
    assert_eq!(code, TC_REDIRECT);
    assert_eq!((&after[26..30], &after[30..34]), (&CLIENT[..], &TASK[..]));
    assert_eq!(bench.count(Counter::Delivered), 1);

    // From nobody that may: it must not come to the stack, which would send it on.
    let forged = request.received();
    assert_eq!(bench.run(&forged).0, DROP);
    assert_eq!(bench.run_tc(&forged).0, TC_SHOT);
    assert_eq!(bench.count(Counter::DropForged), 2);
    let unpublished = Tcp {
        dst: (OTHER, 81),
        ..request
    };
    let unpublished = unpublished.received();
    assert_passed(&bench.run(&unpublished), &unpublished);
    assert_eq!(bench.run_tc(&unpublished), (TC_OK, unpublished));
}

/// A probe of the other node, or an answer to one.
fn probe(src: ([u8; 4], u16), dst: ([u8; 4], u16), macs: [[u8; 6]; 2]) -> Vec<u8> {
    let mut frame = macs.concat();
    frame.extend([0x08, 0x00]);
    frame.extend(ip_header(28, 64, 17, src.0, dst.0));
    frame.extend(src.1.to_be_bytes());
    frame.extend(dst.1.to_be_bytes());
    frame.extend([0, 8, 0, 0]);
    frame
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn probes_of_l2_are_answered_by_the_programs() {
    let mut bench = Bench::new();
    bench.use_l2();
    let client = (PROBE_ADDRESS.octets(), 0x8001);
    let asked = probe(client, (OTHER, VXLAN_PORT), [NODE_MAC, OTHER_MAC]);
    assert_passed(&bench.run(&asked), &asked);
    let expected = probe((OTHER, VXLAN_PORT), client, [OTHER_MAC, NODE_MAC]);
    assert_eq!(bench.run_tc(&asked), (TC_REDIRECT, expected));
    let heard = bench.heard();
    assert_eq!((heard.asked_port, heard.answered), (0x8001_u16.to_be(), 0));
    assert_ne!(heard.asked, 0);

    let answer = probe((NODE, VXLAN_PORT), client, [NODE_MAC, OTHER_MAC]);
    assert_eq!(bench.run(&answer).0, DROP);
    assert_eq!(bench.run_tc(&answer).0, TC_SHOT);
    let heard = bench.heard();
    assert_eq!(heard.answered_port, 0x8001_u16.to_be());
    assert_ne!(heard.answered, 0);

    let forged = probe(client, (OTHER, VXLAN_PORT), [NODE_MAC, CLIENT_MAC]);
    assert_eq!(bench.run_tc(&forged), (TC_OK, forged));
}
