//! Packets of all kinds, from everywhere, to nodes that believe anything of each other: every one comes to an end,
//! after two hops at most, and its answer after one.
#![no_main]

use libfuzzer_sys::{
    arbitrary::{Result, Unstructured},
    fuzz_target,
};
use skein_abi::{
    ICMP, SCTP, TCP, UDP, VNI_FORWARD, VNI_REPLY, VNI_SECOND_HOP,
    ingress::{DEVICE_TRANSLATE, MEMBER_UP, PUBLISHED_AFFINE, PUBLISHED_DSR, PUBLISHED_SNAT, PUBLISHED_TAKEN},
    overlay::OverlayKey,
};
use skein_packet::{
    Packet,
    testing::{
        cluster::{Cluster, Fate, INGRESS, Journey, SEGMENT, Task, mac_of, node_addr},
        node::{DNS_ADDR, LOCAL_ADDR, VXLAN_PORT},
        packets::{CLIENT, End, answer_to, error_about, fragments, ip, packet, ping, sized},
    },
};

const NODES: usize = 3;
/// Nodes that are named: those that there are, and one that is gone.
const NAMED: usize = NODES + 1;
/// The published port, and that of the tasks behind it.
const PORT: u16 = 80;
const TARGET: u16 = 8_080;
const FLOATING: End = (ip(198, 18, 1, 1), PORT);
/// The largest packets, bytes, in tunnels and on the way out.
const TUNNEL_MTU: u16 = 1_450;
const OUT_MTU: u16 = 1_400;
/// What is done to one cluster.
const STEPS_MAX: usize = 64;

struct World {
    cluster: Cluster,
    tasks: Vec<Task>,
    /// What tasks got, which they may answer.
    got: Vec<Journey>,
}

fuzz_target!(|bytes: &[u8]| {
    let mut u = Unstructured::new(bytes);
    // What is cut off in the middle of a step is no step.
    let _ = live(&mut u);
});

fn live(u: &mut Unstructured<'_>) -> Result<()> {
    let mut world = world(u)?;
    for _ in 0..STEPS_MAX {
        if u.is_empty() {
            break;
        }
        step(&mut world, u)?;
    }
    Ok(())
}

fn node(u: &mut Unstructured<'_>) -> Result<usize> {
    u.choose_index(NODES)
}

fn named(u: &mut Unstructured<'_>) -> Result<usize> {
    u.choose_index(NAMED)
}

fn world(u: &mut Unstructured<'_>) -> Result<World> {
    let mut cluster = Cluster::new(NODES);
    cluster.publish(0, PORT, TARGET);
    let mut tasks = Vec::new();
    for at in 0..NODES {
        for _ in 0..u.int_in_range(0..=2)? {
            tasks.push(cluster.ready_task(at, 0));
        }
    }
    let mode = *u.choose(&[0, 0, PUBLISHED_DSR, PUBLISHED_SNAT, PUBLISHED_AFFINE, PUBLISHED_TAKEN])?;
    cluster.set_mode(mode);
    for at in 0..NODES {
        for previous in [false, true] {
            let mut table = Vec::new();
            for _ in 0..u.int_in_range(0..=3)? {
                table.push(node_addr(named(u)?));
            }
            cluster.nodes[at].set_table(0, previous, table);
        }
        for other in 0..NODES {
            if u.ratio(1, 4)? {
                let down = *u.choose(&[0, MEMBER_UP])?;
                cluster.nodes[at].members.insert(node_addr(other), down);
            }
            if other != at {
                cluster.lease(at, other, u.arbitrary()?, u.arbitrary()?);
            }
        }
        let own = &mut cluster.nodes[at];
        own.locals.insert(FLOATING.0);
        own.config.tunnel_mtu = TUNNEL_MTU;
        own.out_mtu = *u.choose(&[u16::MAX, OUT_MTU])?;
        own.is_flooded = u.ratio(1, 8)?;
    }
    Ok(World {
        cluster,
        tasks,
        got: Vec::new(),
    })
}

fn end(world: &World, u: &mut Unstructured<'_>) -> Result<End> {
    let port = *u.choose(&[PORT, PORT, TARGET, 53, VXLAN_PORT, 40_000, 61_000, 0])?;
    let address = match u.int_in_range(0..=8)? {
        0 | 1 => CLIENT.0,
        2 | 3 => FLOATING.0,
        4 => node_addr(named(u)?),
        5 if !world.tasks.is_empty() => u.choose(&world.tasks)?.addr,
        6 => LOCAL_ADDR,
        7 => DNS_ADDR,
        _ => u.arbitrary()?,
    };
    Ok((address, port))
}

/// As a hook's parser would read it.
fn any_packet(world: &World, u: &mut Unstructured<'_>) -> Result<Packet> {
    let (from, to) = (end(world, u)?, end(world, u)?);
    let proto = *u.choose(&[TCP, TCP, UDP, SCTP])?;
    let whole = packet(proto, from, to, u.arbitrary()?);
    Ok(match u.int_in_range(0..=9)? {
        0 => ping(from.0, to.0, u.arbitrary()?),
        1 => error_about(&whole.tuple, end(world, u)?.0),
        2 => sized(&whole, u.arbitrary()?, u.arbitrary()?),
        3 => fragments(&whole, u.int_in_range(0..=3)?)[u.choose_index(2)?],
        4 => packet(*u.choose(&[ICMP, 47, 50, 255])?, (from.0, 0), (to.0, 0), 0),
        _ => whole,
    })
}

fn step(world: &mut World, u: &mut Unstructured<'_>) -> Result<()> {
    let at = node(u)?;
    let sent = any_packet(world, u)?;
    let (journey, hops_left) = match u.int_in_range(0..=13)? {
        0..=4 => (world.cluster.send(at, sent), 2),
        5 => (world.cluster.send_by_device(at, sent, DEVICE_TRANSLATE), 2),
        6 => (world.cluster.send_from_host(at, sent), 2),
        7 if !world.tasks.is_empty() => {
            let task = *u.choose(&world.tasks)?;
            let mut own = sent;
            // Others are not let out of a container.
            own.tuple.src = task.addr;
            own.sender = task.addr;
            (world.cluster.send_from_task(task, own), 2)
        }
        8 => {
            let kinds = [VNI_FORWARD, VNI_SECOND_HOP, VNI_REPLY, INGRESS, 0, 4];
            let vni = *u.choose(&kinds)?;
            let (remote, entry) = (node_addr(named(u)?), node_addr(named(u)?));
            let left = usize::from(vni == VNI_FORWARD);
            (world.cluster.tunnel(at, vni, remote, entry, sent), left)
        }
        9 => {
            let from = node(u)?;
            let device = *u.choose(&[SEGMENT, SEGMENT + 1])?;
            (world.cluster.frame_by(at, device, mac_of(from), sent), 2)
        }
        10 if !world.got.is_empty() => {
            let got = *u.choose(&world.got)?;
            let task = got.task();
            if !world.tasks.contains(&task) {
                return Ok(());
            }
            let answer = answer_to(&got.packet, u.arbitrary()?);
            (world.cluster.send_from_task(task, answer), 2)
        }
        11 => {
            world.cluster.advance(*u.choose(&[1_000_000, 10_000_000_000, 1 << 43])?);
            return Ok(());
        }
        12 if !world.tasks.is_empty() => {
            let task = *u.choose(&world.tasks)?;
            world.cluster.drain(task, 0);
            return Ok(());
        }
        13 if !world.tasks.is_empty() => {
            let nth = u.choose_index(world.tasks.len())?;
            let task = world.tasks.swap_remove(nth);
            world.cluster.remove(task, 0);
            let key = OverlayKey {
                vni: INGRESS,
                addr: task.addr,
            };
            assert!(!world.cluster.nodes[at].locations.contains_key(&key));
            return Ok(());
        }
        _ => return Ok(()),
    };
    let reset_hops = journey.reset_hops.unwrap_or(0);
    assert!(journey.hops - reset_hops <= hops_left, "{sent:?}: {journey:?}");
    assert!(reset_hops <= 1, "{sent:?}: {journey:?}");
    let is_passed_on = journey.by_l2 > 0 && matches!(journey.end, Fate::Passed(_));
    assert!(!is_passed_on, "its stack would send it back: {journey:?}");
    let is_got = matches!(journey.end, Fate::Task(_)) && journey.packet.is_error == 0;
    if is_got && journey.reset_hops.is_none() && journey.too_big == 0 {
        world.got.push(journey);
    }
    Ok(())
}
