//! Writes plans into the maps.
//!
//! Programs read while this writes. So what is pointed to is written before what points to it, and
//! removed after: tables before published ports, backends before VIPs.

use super::{
    devices::OwnDevices,
    indices::Indices,
    meters::{Metered, Numbers},
    node_tables::NodeTables,
    plan::{Group, Leads, Plan, service_of},
    programs::Programs,
    sources::Range,
    synced::{Refused, Synced},
};
use crate::desired;
use anyhow::Context as _;
use aya::maps::{Array, MapData, lpm_trie::LpmTrie};
use ipnet::Ipv4Net;
use skein_abi::{
    Addr, addr,
    addresses::{DNS_ADDRESS, INTERNAL_FIRST, INTERNAL_NET, LOCAL_ADDRESS, NAT_PORTS},
    config::{Config, Timeouts},
    ingress::{BoundKey, LocalBackends, PUBLISHED_TAKEN, Published, PublishedKey, Source},
    limits::{FLOOD_RATE, SERVICES_MAX, VIPS_MAX},
    names::*,
    overlay::{Endpoint, Location, Network, OverlayKey, Subnet, SubnetKey, Vip, VipSlot},
};
use skein_proto::network::{Kind, Problem};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::Path,
};

/// The maps that the dataplane writes.
pub struct Tables {
    config: Array<MapData, Config>,
    written: Config,
    /// [`Config::tunnel_mtu`]
    tunnel_mtu: u16,
    local_addrs: Synced<Addr, u32>,
    devices: Synced<u32, u32>,
    members: Synced<Addr, u32>,
    published: Synced<PublishedKey, Published>,
    bound: Synced<BoundKey, u32>,
    sources: Synced<Range, u32, LpmTrie<MapData, Source, u32>>,
    node_tables: NodeTables,
    local_backends: Synced<u32, LocalBackends>,
    endpoints: Array<MapData, Endpoint>,
    veths: Synced<u32, u32>,
    internal: Synced<Addr, u32>,
    networks: Synced<u32, Network>,
    subnets: Synced<SubnetKey, Subnet>,
    overlay: Synced<OverlayKey, Location>,
    vips: Synced<OverlayKey, Vip>,
    vip_backends: Synced<VipSlot, Addr>,
    services: Indices,
    vip_lists: Indices,
    meters: Numbers,
}

/// What the kernel has of services.
#[derive(Clone, Debug, Default)]
pub struct Services {
    /// Those that publish ports.
    pub published: BTreeMap<Group, PublishedService>,
    /// VIPs and their backends.
    pub vips: BTreeMap<OverlayKey, Vec<Addr>>,
}

/// A service that publishes ports, or one of its ports in host mode.
#[derive(Clone, Debug)]
pub struct PublishedService {
    /// The ports.
    pub ports: BTreeMap<PublishedKey, Published>,
    /// The nodes that new flows go to, and how many tasks each has.
    pub nodes: Vec<(Addr, u32)>,
    /// The tasks on this node.
    pub local: LocalBackends,
    /// The addresses of its ports that are bound to some.
    pub bound: BTreeSet<BoundKey>,
    /// The clients that it takes, where those are not all.
    pub sources: Vec<Ipv4Net>,
}

/// The address by which the host knows the endpoint with an index.
pub fn internal_address(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(INTERNAL_NET.to_bits() + INTERNAL_FIRST + index)
}

impl Tables {
    /// Takes the maps over from the programs, with what an earlier dataplane wrote into them.
    ///
    /// # Errors
    /// A map is missing, of another type, or cannot be read.
    pub fn open(programs: &mut Programs, state_dir: &Path) -> anyhow::Result<Self> {
        macro_rules! take {
            ($name:ident) => {{
                let map = Synced::new(programs.take_map($name)?);
                map.with_context(|| format!("cannot read the kernel's map {}", $name))?
            }};
        }
        Ok(Self {
            config: programs.take_map(MAP_CONFIG)?.try_into()?,
            written: Config::default(),
            tunnel_mtu: 0,
            local_addrs: take!(MAP_LOCAL_ADDRS),
            devices: take!(MAP_DEVICES),
            members: take!(MAP_MEMBERS),
            published: take!(MAP_PUBLISHED),
            bound: take!(MAP_BOUND),
            sources: take!(MAP_SOURCES),
            node_tables: NodeTables::new(
                programs.take_map(MAP_NODE_TABLES)?,
                programs.take_map(MAP_OLD_TABLES)?,
            )?,
            local_backends: take!(MAP_LOCAL_BACKENDS),
            endpoints: programs.take_map(MAP_ENDPOINTS)?.try_into()?,
            veths: take!(MAP_VETHS),
            internal: take!(MAP_INTERNAL),
            networks: take!(MAP_NETWORKS),
            subnets: take!(MAP_SUBNETS),
            overlay: take!(MAP_OVERLAY),
            vips: take!(MAP_VIPS),
            vip_backends: take!(MAP_VIP_BACKENDS),
            services: Indices::open(state_dir.join("services.json"))?,
            vip_lists: Indices::open(state_dir.join("vips.json"))?,
            meters: Numbers::open(programs, state_dir)?,
        })
    }

    /// Reads the maps again, so that what anybody else has changed is written anew with the next
    /// [`Self::program`]. How many entries differ. Nobody else has the tables inside the arrays of tables.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn reread(&mut self) -> anyhow::Result<usize> {
        let mut differing = 0;
        macro_rules! reread {
            ($($map:ident),* $(,)?) => {$(
                differing += self.$map.reread().with_context(|| {
                    format!("cannot read the kernel's map of {}", stringify!($map))
                })?;
            )*};
        }
        reread!(
            local_addrs,
            devices,
            members,
            published,
            bound,
            sources,
            local_backends,
            veths,
            internal,
            networks,
            subnets,
            overlay,
            vips,
            vip_backends,
        );
        let config = self.config.get(&0, 0);
        if config.context("cannot read the node's settings")? != self.written {
            differing += 1;
            self.config
                .set(0, self.written, 0)
                .context("cannot write the node's settings into the kernel")?;
        }
        Ok(differing)
    }

    /// The node's own settings.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn configure(
        &mut self,
        plan: &Plan,
        devices: &OwnDevices,
        host_cookie: u64,
    ) -> anyhow::Result<()> {
        let config = Config {
            node_addr: plan.node_addr,
            vxlan_ifindex: devices.vxlan,
            local_ifindex: devices.local,
            local_peer_ifindex: devices.local_peer,
            local_addr: addr(LOCAL_ADDRESS),
            dns_addr: addr(DNS_ADDRESS),
            host_cookie,
            nat_port_min: NAT_PORTS.0,
            nat_port_max: NAT_PORTS.1,
            vxlan_port: skein_abi::port(plan.vxlan_port),
            tunnel_mtu: self.tunnel_mtu,
            pad: [0; 2],
            flood_rate: FLOOD_RATE,
            timeouts: Timeouts::default(),
        };
        self.write(config)
    }

    fn write(&mut self, config: Config) -> anyhow::Result<()> {
        if config != self.written {
            self.config
                .set(0, config, 0)
                .context("cannot write the node's settings into the kernel")?;
            self.written = config;
        }
        Ok(())
    }

    /// Addresses of the host and the devices that have them; the flags of the devices that have the uplink
    /// program; the largest IP packet that goes to another node in one piece, bytes.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_host(
        &mut self,
        addresses: &BTreeMap<Addr, u32>,
        devices: &BTreeMap<u32, u32>,
        tunnel_mtu: u32,
    ) -> anyhow::Result<()> {
        // IPv4 has no larger ones.
        self.tunnel_mtu = u16::try_from(tunnel_mtu).unwrap_or(u16::MAX);
        // The first time it is written with all other settings.
        if self.written != Config::default() {
            self.write(Config {
                tunnel_mtu: self.tunnel_mtu,
                ..self.written
            })?;
        }
        self.local_addrs
            .make(addresses)
            .context("cannot write the host's addresses into the kernel")?;
        self.devices
            .make(devices)
            .context("cannot write the host's devices into the kernel")
    }

    /// Makes everything else equal to the plan. `taken` ports are those of host programs here. What a
    /// map has no room for, or the kernel refuses, is in the answer; the rest is written.
    pub fn program(&mut self, plan: &Plan, taken: &dyn Fn(&PublishedKey) -> bool) -> Written {
        let mut written = Written::default();
        written.note("the members", self.members.make(&plan.members));
        let subnets = "the networks' subnets";
        written.note(subnets, self.subnets.add(&plan.subnets));
        written.note("the networks", self.networks.make(&plan.networks));
        written.note(subnets, self.subnets.make(&plan.subnets));
        written.note("the overlay's addresses", self.overlay.make(&plan.overlay));
        if let Err(error) = self.meters.assign(plan) {
            written.failed("the numbers that services are counted by", &error);
        }
        self.program_published(plan, taken, &mut written);
        self.program_vips(plan, &mut written);
        written
    }

    fn program_published(
        &mut self,
        plan: &Plan,
        taken: &dyn Fn(&PublishedKey) -> bool,
        written: &mut Written,
    ) {
        let names = plan.nodes.keys().map(String::as_str);
        let indices = match self.services.assign(names, SERVICES_MAX) {
            Ok(indices) => indices,
            Err(error) => return written.failed("the numbers of services", &error),
        };
        written.problems.extend(services_left_out(plan, &indices));
        let index = |service: &String| indices.get(service).copied();
        let local = plan.local.iter();
        let local = local.filter_map(|(service, local)| Some((index(service)?, *local)));
        let local: BTreeMap<u32, LocalBackends> = local.collect();
        // A task stays until no table here leads to it: in between, this node would refuse what it is
        // still sent, by itself or by others.
        let held = self.local_backends.held();
        let joint: BTreeMap<u32, LocalBackends> = local
            .iter()
            .map(|(number, next)| {
                let before = held.get(number).copied().unwrap_or_default();
                (*number, joint(&before, next))
            })
            .collect();
        let what = "the tasks behind published ports";
        written.note(what, self.local_backends.add(&joint));

        let entry = |tables: &NodeTables, key: &PublishedKey, leads: &Leads| {
            let number = index(&leads.group)?;
            let slots = tables.upcoming(number, plan.nodes.get(&leads.group)?);
            Some(Published {
                service: number,
                slots: slots.current,
                old_slots: slots.previous,
                target: skein_abi::port(leads.target),
                flags: leads.flags | if taken(key) { PUBLISHED_TAKEN } else { 0 },
                meter: self.meters.of_port(service_of(&leads.group), key),
            })
        };
        let mut after: BTreeMap<PublishedKey, Published> = BTreeMap::new();
        for (key, leads) in &plan.published {
            if let Some(entry) = entry(&self.node_tables, key, leads) {
                after.insert(*key, entry);
            }
        }
        // What narrows a port is there before the port, and goes after it.
        let bound = plan.bound.iter().map(|key| (*key, 1));
        let bound: BTreeMap<BoundKey, u32> = bound.collect();
        let binds = "the addresses that ports are bound to";
        written.note(binds, self.bound.add(&bound));
        let sources = plan.sources.iter().filter_map(|(group, ranges)| {
            let service = index(group)?;
            Some(
                ranges
                    .iter()
                    .map(move |range| (Range::new(service, *range), 1)),
            )
        });
        let sources: BTreeMap<Range, u32> = sources.flatten().collect();
        let clients = "the clients of services";
        written.note(clients, self.sources.add(&sources));
        // Until the tables are written, readers see the smaller size of the old and the new ones.
        let mut until = BTreeMap::new();
        for (key, entry) in &after {
            if let Some(held) = self.published.held().get(key)
                && held.service == entry.service
            {
                let slots = held.slots.min(entry.slots);
                let old_slots = held.old_slots.min(entry.old_slots);
                until.insert(
                    *key,
                    Published {
                        slots,
                        old_slots,
                        ..*entry
                    },
                );
            }
        }
        let ports = "the published ports";
        written.note(ports, self.published.make(&until));
        for (service, nodes) in &plan.nodes {
            if let Some(number) = index(service)
                && let Err(error) = self.node_tables.write(number, nodes)
            {
                written.failed(&format!("the nodes of service {service}"), &error.into());
                // Its ports lead where they led, in tables whose size they know.
                after.retain(|_, entry| entry.service != number);
            }
        }
        written.note(ports, self.published.add(&after));
        written.note(binds, self.bound.make(&bound));
        written.note(clients, self.sources.make(&sources));
        written.note(what, self.local_backends.make(&local));
        self.node_tables
            .retain(|number| local.contains_key(&number));
    }

    fn program_vips(&mut self, plan: &Plan, written: &mut Written) {
        let name = |key: &OverlayKey| format!("{}/{}", key.vni, skein_abi::from_addr(key.addr));
        let names: Vec<String> = plan.vips.keys().map(name).collect();
        let names = names.iter().map(String::as_str);
        let lists = match self.vip_lists.assign(names, VIPS_MAX) {
            Ok(lists) => lists,
            Err(error) => return written.failed("the numbers of VIPs", &error),
        };
        let mut vips = BTreeMap::new();
        let mut slots = BTreeMap::new();
        for (key, backends) in &plan.vips {
            let Some(list) = lists.get(&name(key)).copied() else {
                written.problems.push(of_node(format!(
                    "VIP {} of the network with VNI {} leads nowhere on this node: there are more than {VIPS_MAX} VIPs; remove services or networks",
                    skein_abi::from_addr(key.addr),
                    key.vni,
                )));
                continue;
            };
            let held = self.vips.held().get(key).filter(|vip| vip.list == list);
            let edition = held.map_or(0, |vip| vip.edition);
            let in_edition = |edition: u32| {
                let backends = backends.iter().zip(0..);
                backends.map(move |(backend, slot)| {
                    (
                        VipSlot {
                            list,
                            edition,
                            slot,
                        },
                        *backend,
                    )
                })
            };
            let is_current = held.is_some_and(|vip| vip.len as usize == backends.len())
                && in_edition(edition)
                    .all(|(slot, backend)| self.vip_backends.held().get(&slot) == Some(&backend));
            let edition = match is_current {
                true => edition,
                false => edition.wrapping_add(1),
            };
            slots.extend(in_edition(edition));
            let len = backends.len() as u32;
            let meter = self.meters.of_vip(key);
            vips.insert(
                *key,
                Vip {
                    list,
                    edition,
                    len,
                    meter,
                },
            );
        }
        let what = "the tasks behind VIPs";
        written.note(what, self.vip_backends.add(&slots));
        let has_all = |vip: &Vip| {
            let slot = |slot| VipSlot {
                list: vip.list,
                edition: vip.edition,
                slot,
            };
            (0..vip.len).all(|nth| self.vip_backends.held().contains_key(&slot(nth)))
        };
        let kept = keep_incomplete(&mut vips, self.vips.held(), has_all);
        let is_kept = |slot: &VipSlot| kept.contains(&(slot.list, slot.edition));
        let held = self.vip_backends.held().iter();
        slots.extend(held.filter(|(slot, _)| is_kept(slot)));
        written.note("the VIPs", self.vips.make(&vips));
        written.note(what, self.vip_backends.remove_others(&slots));
    }

    /// Makes an endpoint known under the index that its device has already, or under a free one.
    /// Returns the index; `None`: there are too many.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_endpoint(
        &mut self,
        ifindex: u32,
        vni: u32,
        address: Ipv4Addr,
        subnet: &desired::Subnet,
        after: u32,
    ) -> anyhow::Result<Option<u32>> {
        let held = self.veths.held();
        let index = match held.get(&ifindex) {
            Some(index) => *index,
            None => {
                let used: std::collections::BTreeSet<u32> = held.values().copied().collect();
                let max = self.endpoints.len();
                // Not the one just freed: packets and flow entries may still carry it.
                let order = (after..max).chain(0..after.min(max));
                match order.into_iter().find(|index| !used.contains(index)) {
                    Some(index) => index,
                    None => return Ok(None),
                }
            }
        };
        let internal = addr(internal_address(index));
        let endpoint = Endpoint {
            ifindex,
            vni,
            addr: addr(address),
            internal,
            mask: addr(subnet.net.netmask()),
            gateway: addr(subnet.gateway),
        };
        self.endpoints
            .set(index, endpoint, 0)
            .context("cannot write an endpoint into the kernel")?;
        self.internal.put(internal, index)?;
        self.veths.put(ifindex, index)?;
        Ok(Some(index))
    }

    /// Forgets the endpoint behind a device.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove_endpoint(&mut self, ifindex: u32) -> anyhow::Result<()> {
        let Some(index) = self.veths.held().get(&ifindex).copied() else {
            return Ok(());
        };
        self.endpoints
            .set(index, Endpoint::default(), 0)
            .context("cannot remove an endpoint from the kernel")?;
        self.internal.remove(&addr(internal_address(index)))?;
        self.veths.remove(&ifindex)?;
        Ok(())
    }

    /// The published ports that the kernel has.
    pub fn published(&self) -> &BTreeMap<PublishedKey, Published> {
        self.published.held()
    }

    /// What the kernel has of services, for people to see. (Lists of VIPs' backends are read whole, so
    /// that they are those of one edition.)
    pub fn services(&self) -> Services {
        let by_number = self.services.given().iter();
        let published = by_number.map(|(id, number)| {
            let local = self.local_backends.held().get(number).copied();
            let service = PublishedService {
                nodes: self.node_tables.nodes(*number).to_vec(),
                local: local.unwrap_or_default(),
                ports: BTreeMap::new(),
                bound: BTreeSet::new(),
                sources: Vec::new(),
            };
            (*number, (id.clone(), service))
        });
        let mut published: BTreeMap<u32, (String, PublishedService)> = published.collect();
        for (key, entry) in self.published.held() {
            if let Some((_, service)) = published.get_mut(&entry.service) {
                service.ports.insert(*key, *entry);
            }
        }
        for key in self.bound.held().keys() {
            let leads = self.published.held().get(&key.port);
            if let Some((_, service)) = leads.and_then(|leads| published.get_mut(&leads.service)) {
                service.bound.insert(*key);
            }
        }
        for range in self.sources.held().keys() {
            if let Some((_, service)) = published.get_mut(&range.service()) {
                service.sources.push(range.net());
            }
        }
        let backend = |vip: &Vip, slot| {
            let slot = VipSlot {
                list: vip.list,
                edition: vip.edition,
                slot,
            };
            self.vip_backends.held().get(&slot).copied()
        };
        let vips = self.vips.held().iter();
        let vips = vips.map(|(key, vip)| {
            let backends = (0..vip.len).filter_map(|slot| backend(vip, slot));
            (*key, backends.collect())
        });
        Services {
            published: published.into_values().collect(),
            vips: vips.collect(),
        }
    }

    /// What is counted each, by number.
    pub fn meters(&self) -> &BTreeMap<u32, Metered> {
        self.meters.held()
    }

    /// The devices that have the uplink program.
    pub fn uplinks(&self) -> Vec<u32> {
        self.devices.held().keys().copied().collect()
    }

    /// The devices that endpoints are behind.
    pub fn veths(&self) -> Vec<u32> {
        self.veths.held().keys().copied().collect()
    }

    /// Whether the kernel has the network with a VNI.
    pub fn has_network(&self, vni: u32) -> bool {
        self.networks.held().contains_key(&vni)
    }
}

/// What is between `before` and `next`: those that begin to drain still take new flows.
fn joint(before: &LocalBackends, next: &LocalBackends) -> LocalBackends {
    let were_ready = &before.ready[..before.ready_len as usize];
    let drains = &next.draining[..next.draining_len as usize];
    let mut joint = *next;
    for index in drains.iter().filter(|index| were_ready.contains(index)) {
        if let Some(slot) = joint.ready.get_mut(joint.ready_len as usize) {
            *slot = *index;
            joint.ready_len += 1;
        }
    }
    joint
}

/// A problem of this node itself.
pub fn of_node(message: String) -> Problem {
    Problem {
        kind: Kind::Settings.into(),
        id: "settings".to_owned(),
        message,
    }
}

/// What came of writing a plan.
#[derive(Debug, Default)]
pub struct Written {
    /// What was left out, and what failed.
    pub problems: Vec<Problem>,
    /// Something failed: the kernel has another state than the plan's until it is written again.
    pub has_failed: bool,
}

impl Written {
    fn note(&mut self, what: &str, outcome: Result<(), Refused>) {
        if let Err(refused) = outcome {
            self.failed(what, &refused.into());
        }
    }

    fn failed(&mut self, what: &str, error: &anyhow::Error) {
        let message = format!("cannot write {what} into the kernel: {error:#}");
        self.problems.push(of_node(message));
        self.has_failed = true;
    }
}

/// A VIP some of whose backends could not be written stays as it is `held`, or is not there yet; none
/// ever leads to a backend that is not there. Returns (list, edition) of what was kept.
fn keep_incomplete(
    vips: &mut BTreeMap<OverlayKey, Vip>,
    held: &BTreeMap<OverlayKey, Vip>,
    has_all: impl Fn(&Vip) -> bool,
) -> BTreeSet<(u32, u32)> {
    let mut kept = BTreeSet::new();
    vips.retain(|key, vip| {
        if has_all(vip) {
            return true;
        }
        match held.get(key).filter(|held| has_all(held)) {
            Some(before) => {
                kept.insert((before.list, before.edition));
                *vip = *before;
                true
            }
            None => false,
        }
    });
    kept
}

/// The services of which something found no index.
fn services_left_out(
    plan: &Plan,
    indices: &BTreeMap<String, u32>,
) -> impl Iterator<Item = Problem> {
    let groups = plan.nodes.keys();
    let left_out = groups.filter(|group| !indices.contains_key(*group));
    let services: BTreeSet<&str> = left_out.map(|group| service_of(group)).collect();
    services.into_iter().map(|service| Problem {
        kind: Kind::Service.into(),
        id: service.to_owned(),
        message: format!(
            "not all ports of service {service} are published on this node: more than {SERVICES_MAX} services and ports in host mode are; remove some"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(ready: &[u32], draining: &[u32]) -> LocalBackends {
        let mut backends = LocalBackends {
            ready_len: ready.len() as u32,
            draining_len: draining.len() as u32,
            ..LocalBackends::default()
        };
        backends.ready[..ready.len()].copy_from_slice(ready);
        backends.draining[..draining.len()].copy_from_slice(draining);
        backends
    }

    #[test]
    fn a_task_that_begins_to_drain_takes_flows_until_the_tables_are_written() {
        // 1 stays, 2 begins to drain, 3 did before, 4 has ended, 5 is new.
        let before = backends(&[1, 2, 4], &[3]);
        let next = backends(&[1, 5], &[2, 3]);
        assert_eq!(joint(&before, &next), backends(&[1, 5, 2], &[2, 3]));
        assert_eq!(joint(&next, &next), next);
        let all: Vec<u32> = (0..64).collect();
        let full = backends(&all, &[99]);
        let before = backends(&[99], &[]);
        assert_eq!(joint(&before, &full), full, "no room is no harm");
    }

    #[test]
    fn a_vip_whose_backends_find_no_room_leads_where_it_led() {
        let key = |addr| OverlayKey { vni: 1, addr };
        let vip = |list, edition| Vip {
            list,
            edition,
            len: 1,
            meter: 0,
        };
        let held = BTreeMap::from([(key(1), vip(1, 4)), (key(2), vip(2, 7))]);
        let mut vips = BTreeMap::from([
            (key(1), vip(1, 5)),
            (key(2), vip(2, 8)),
            (key(3), vip(3, 1)),
        ]);
        // The first's new edition is there whole, the others' are not.
        let whole = [vip(1, 4), vip(1, 5), vip(2, 7)];
        let kept = keep_incomplete(&mut vips, &held, |vip| whole.contains(vip));
        assert_eq!(kept, BTreeSet::from([(2, 7)]));
        let expected = BTreeMap::from([(key(1), vip(1, 5)), (key(2), vip(2, 7))]);
        assert_eq!(vips, expected);
    }

    #[test]
    fn a_service_without_an_index_is_a_problem_of_its_own() {
        let mut plan = Plan::default();
        for service in ["a", "b"] {
            plan.nodes.insert(service.to_owned(), Vec::new());
        }
        let indices = BTreeMap::from([("a".to_owned(), 0)]);
        let problems: Vec<Problem> = services_left_out(&plan, &indices).collect();
        assert_eq!(problems.len(), 1);
        assert_eq!(
            (problems[0].kind(), problems[0].id.as_str()),
            (Kind::Service, "b")
        );
    }
}
