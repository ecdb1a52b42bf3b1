//! What the programs tell and count of packets.

use super::bench::{
    ACK, Bench, CLIENT, DROP, METER, NODE, NODE_MAC, OTHER, PORT, SYN, TASK, TC_REDIRECT, TX,
    assert_passed,
};
use super::frames::{Tcp, answered, by_l2, later, routed};
use aya::maps::perf::{PerfEvent, PerfEventArray};
use skein_abi::ingress::LocalBackends;
use skein_abi::names::{MAP_CAPTURED, MAP_LOCAL_BACKENDS};
use skein_abi::sight::{
    EVENT_CLOSED, EVENT_DROPPED, EVENT_OPENED, LOST_DROPS, LOST_FLOWS, Meter, Record, SEEN_UPLINK,
    SEEN_XDP, Watch,
};
use skein_abi::verdict::Counter;
use skein_abi::{VNI_FORWARD, addr, mac};

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn a_flow_is_told_of_when_it_begins_and_when_it_ends() {
    const FIN: u8 = 1;
    const RST: u8 = 4;
    let mut bench = Bench::new();
    bench.use_l2();
    bench.tell(10);
    let request = Tcp::request(40_100);
    assert_eq!(bench.run(&request.received()).0, TX);
    let opened = bench.told();
    assert_eq!(opened.len(), 1, "{opened:?}");
    let (from, to) = (addr(CLIENT.into()), addr(NODE.into()));
    let record = opened[0];
    assert_eq!((record.event, record.place), (EVENT_OPENED, SEEN_XDP));
    assert_eq!((record.packet.src, record.packet.dst), (from, to));
    assert_eq!(record.packet.dport, PORT.to_be());
    assert_eq!((record.node, record.vni), (addr(OTHER.into()), VNI_FORWARD));
    assert_eq!((u32::from(record.meter), record.tcp_flags), (METER, SYN));
    assert_eq!(record.frame as usize, request.received().len());
    assert_ne!(record.at, 0);

    for packet in [later(request, ACK), later(request, ACK), request.received()] {
        assert_eq!(bench.run(&packet).0, TX);
    }
    assert_eq!(bench.told(), [], "a flow that goes on is not told of");
    assert_eq!(bench.run(&later(request, FIN | ACK)).0, TX);
    assert_eq!(bench.told(), [], "closed one way only");
    let answer = Tcp {
        flags: FIN | ACK,
        ..request.answer()
    };
    assert_eq!(bench.run_again(&by_l2(answer)).0, TX);
    let closed = bench.told();
    assert_eq!(closed.len(), 1, "{closed:?}");
    assert_eq!((closed[0].event, closed[0].flags), (EVENT_CLOSED, 1));
    assert_eq!(u32::from(closed[0].meter), METER);

    let reset = Tcp::request(40_101);
    for flags in [SYN, RST, RST] {
        assert_eq!(bench.run(&later(reset, flags)).0, TX);
    }
    let events: Vec<u8> = bench.told().iter().map(|record| record.event).collect();
    assert_eq!(events, [EVENT_OPENED, EVENT_CLOSED], "once");
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn a_flow_that_xdp_leaves_to_the_hook_behind_is_told_of_once() {
    let mut bench = Bench::new();
    bench.serve();
    bench.tell(10);
    let request = Tcp::request(40_102);
    let frame = request.received();
    assert_passed(&bench.run(&frame), &frame);
    assert_eq!(bench.run_tc(&frame).0, TC_REDIRECT);
    let told = bench.told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].to.dst, addr(TASK.into()));
    let meter = bench.meter();
    assert_eq!((meter.packets, meter.flows), ([1, 0], 1), "counted once");
    // Only tc, where there is no XDP.
    let frame = Tcp::request(40_103).received();
    assert_eq!(bench.run_tc(&frame).0, TC_REDIRECT);
    let told = bench.told();
    assert_eq!((told.len(), told[0].place), (1, SEEN_UPLINK));
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn drops_are_told_of_with_their_reason_and_a_flood_of_them_is_counted() {
    let mut bench = Bench::new();
    bench.tell(2);
    let answer = answered(Tcp::request(40_104));
    for _ in 0..5 {
        assert_eq!(bench.run(&answer).0, DROP);
    }
    let told = bench.told();
    assert_eq!(told.len(), 2, "{told:?}");
    let record = told[0];
    assert_eq!(record.event, EVENT_DROPPED);
    assert_eq!(record.reason, Counter::DropNoFlow as u32);
    assert_eq!(bench.lost()[LOST_DROPS as usize], 3);
    // Flows have a budget of their own.
    for port in 0..4 {
        bench.run(&Tcp::request(41_000 + port).received());
    }
    assert_eq!(bench.told().len(), 2);
    assert_eq!(bench.lost()[LOST_FLOWS as usize], 2);
    bench.watch(Watch::default());
    bench.run(&Tcp::request(41_100).received());
    assert_eq!(bench.told(), [], "nothing is to be told");
    assert_eq!(bench.lost()[LOST_FLOWS as usize], 2);
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn a_service_is_counted_where_its_tasks_are() {
    let mut bench = Bench::new();
    bench.serve();
    let request = Tcp::request(40_105);
    for flags in [SYN, ACK, ACK] {
        assert_eq!(bench.run_tc(&later(request, flags)).0, TC_REDIRECT);
    }
    let expected = Meter {
        packets: [3, 0],
        bytes: [3 * 46, 0],
        flows: 1,
    };
    assert_eq!(bench.meter(), expected);
    // Nobody is ready any more: who calls is refused.
    bench.put(MAP_LOCAL_BACKENDS, 0_u32, LocalBackends::default());
    assert_eq!(
        bench.run_tc(&Tcp::request(40_106).received()).0,
        TC_REDIRECT
    );
    assert_eq!(bench.metered_drops(Counter::DropNoTask), 1);
    assert_eq!(bench.meter(), expected);
}

/// Captured frames: the record in front of each, and its bytes.
fn captured(bench: &mut Bench, run: impl FnOnce(&mut Bench)) -> Vec<(Record, Vec<u8>)> {
    let map = bench.ebpf.take_map(MAP_CAPTURED).expect("a map");
    let mut events = PerfEventArray::try_from(map).expect("of that type");
    let cpus = aya::util::online_cpus().expect("CPUs");
    let mut buffers: Vec<_> = cpus
        .into_iter()
        .map(|cpu| events.open(cpu, Some(8)).expect("a buffer"))
        .collect();
    run(bench);
    let mut captured = Vec::new();
    for buffer in &mut buffers {
        buffer.for_each(|event| {
            if let PerfEvent::Sample { head, tail } = event {
                let bytes = [head, tail].concat();
                let (record, frame) = bytes.split_at(size_of::<Record>());
                // SAFETY: the programs have written one.
                let record = unsafe { record.as_ptr().cast::<Record>().read_unaligned() };
                captured.push((record, frame.to_vec()));
            }
        });
    }
    captured
}

#[test]
#[ignore = "kernel programs and network namespaces need root"]
fn packets_are_captured_while_the_lease_lasts() {
    let mut bench = Bench::new();
    let capture = Watch {
        capture_until: u64::MAX,
        capture_len: 65_000,
        ..Watch::default()
    };
    let (request, other) = (Tcp::request(40_107), Tcp::request(40_108));
    let answer = answered(Tcp::request(1));
    let captured = captured(&mut bench, |bench| {
        // The lease has ended long ago.
        bench.watch(Watch {
            capture_until: 1,
            ..capture
        });
        bench.run_again(&request.received());
        bench.watch(capture);
        assert_eq!(bench.run(&request.received()).0, TX);
        // Cut short, and of one port alone.
        bench.watch(Watch {
            capture_len: 40,
            capture_port: 40_108_u16.to_be(),
            ..capture
        });
        bench.run(&request.received());
        assert_eq!(bench.run_tc(&other.received()).0, TC_REDIRECT);
        bench.watch(capture);
        assert_eq!(bench.run(&answer).0, DROP);
    });
    let [(xdp, sent), (tc, cut), (dropped, whole)] = &captured[..] else {
        panic!("{captured:?}");
    };
    // As it leaves: in outer headers, which are told of.
    let len = request.received().len();
    assert_eq!(
        (xdp.outer, xdp.frame as usize, xdp.place),
        (50, len + 50, SEEN_XDP)
    );
    let from = mac(addr(NODE.into()));
    let expected = routed(&request.received(), [NODE_MAC, from]);
    assert_eq!(sent[50..][..len], expected);
    // As it came.
    assert_eq!((tc.outer, tc.frame as usize), (0, other.received().len()));
    assert_eq!(cut[..40], other.received()[..40]);
    assert!(cut.len() < 48, "{}", cut.len());
    assert_eq!(dropped.reason, Counter::DropNoFlow as u32);
    assert_eq!(whole[..answer.len()], answer);
}

/// What a packet costs, ns: `cargo test -p skein-dataplane --test uplink_xdp -- --ignored --nocapture cost`.
#[test]
#[ignore = "kernel programs and network namespaces need root; a figure, where nothing else runs"]
fn cost_of_a_packet() {
    const REPEAT: u32 = 200_000;
    const ROUNDS: usize = 7;
    let mut bench = Bench::new();
    bench.use_l2();
    let request = Tcp::request(40_109);
    let frame = later(request, ACK);
    bench.run(&request.received());
    bench.run(&frame);
    let told = Watch {
        record_cost: 1_000_000,
        record_burst: 1_000_000_000,
        ..Watch::default()
    };
    let capture = Watch {
        capture_until: u64::MAX,
        capture_len: 128,
        ..told
    };
    let unwanted = Watch {
        capture_port: 1,
        ..capture
    };
    let mut medians = Vec::new();
    for (what, watch) in [
        ("nothing is told", Watch::default()),
        ("flows are told", told),
        ("others are captured", unwanted),
        ("it is captured", capture),
    ] {
        bench.watch(watch);
        for (hook, is_xdp) in [("xdp", true), ("tc", false)] {
            let mut rounds: Vec<u32> = (0..ROUNDS)
                .map(|_| bench.repeat(&frame, is_xdp, REPEAT))
                .collect();
            rounds.sort_unstable();
            medians.push(rounds[ROUNDS / 2]);
            println!("{hook}, {what}: {} ns (of {rounds:?})", rounds[ROUNDS / 2]);
        }
    }
    // A packet of a known flow tells nothing: that somebody listens must be next to nothing to it, on any machine.
    let [silent, _, told, ..] = medians[..] else {
        panic!("{medians:?}");
    };
    assert!(silent > 0 && told < 2 * silent, "{medians:?}");
}
