//! What the programs count of each published port and VIP: which numbers they have, and how to read them.
//!
//! A number stays with its port or VIP through a restart, as its counts do. Once that is gone, so is what it counted,
//! before the number is given again.

use super::{
    fill::Batches,
    indices::Indices,
    monotonic,
    plan::{Plan, service_of},
    pod,
    programs::{Programs, map_pin, open_map},
};
use anyhow::Context as _;
use aya::maps::{Array, MapData, PerCpuArray, PerCpuHashMap, PerCpuValues};
use parking_lot::Mutex;
use skein_abi::{
    config::{Config, Timeouts},
    flow::{Ct, CtKey, is_closed},
    ingress::PublishedKey,
    limits::METERS_MAX,
    names::{MAP_CONFIG, MAP_CONNTRACK, MAP_CONNTRACK_SYN, MAP_METER_DROPS, MAP_METERS},
    overlay::OverlayKey,
    protocol_name,
    sight::{Meter, MeterDrop},
    verdict::Counter,
};
use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

/// What a number counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metered {
    /// A published port of the service with this ID.
    Port(String, PublishedKey),
    /// A VIP.
    Vip(OverlayKey),
}

impl Metered {
    /// Everything that a plan publishes, by name.
    fn all(plan: &Plan) -> BTreeMap<String, Self> {
        let ports = plan.published.iter();
        let ports = ports.map(|(key, leads)| Self::Port(service_of(&leads.group).into(), *key));
        let all = ports.chain(plan.vips.keys().copied().map(Self::Vip));
        all.map(|metered| (metered.name(), metered)).collect()
    }

    /// By which the number is kept.
    fn name(&self) -> String {
        match self {
            Self::Port(service, key) => format!(
                "{service} {} {}",
                protocol_name(key.proto),
                u16::from_be(key.port)
            ),
            Self::Vip(key) => format!("vip {} {}", key.vni, skein_abi::from_addr(key.addr)),
        }
    }
}

/// Gives the numbers.
pub struct Numbers {
    given: Indices,
    held: BTreeMap<u32, Metered>,
    counts: PerCpuArray<MapData, Meter>,
    drops: PerCpuHashMap<MapData, MeterDrop, u64>,
    cpus: usize,
}

impl Numbers {
    /// Takes the maps over from the programs.
    ///
    /// # Errors
    /// A map is missing, or the file of the numbers cannot be read.
    pub fn open(programs: &mut Programs, state_dir: &Path) -> anyhow::Result<Self> {
        let cpus = aya::util::nr_cpus().map_err(|(file, error)| {
            anyhow::anyhow!("cannot learn from {file} how many CPUs there may be: {error}")
        })?;
        Ok(Self {
            given: Indices::open(state_dir.join("meters.json"))?,
            held: BTreeMap::new(),
            counts: programs.take_map(MAP_METERS)?.try_into()?,
            drops: programs.take_map(MAP_METER_DROPS)?.try_into()?,
            cpus,
        })
    }

    /// Gives a number to everything that a plan publishes, as far as there are some. What finds none is not counted.
    ///
    /// # Errors
    /// The numbers cannot be stored, or the kernel refuses.
    pub fn assign(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let by_name = Metered::all(plan);
        let before = self.given.given().clone();
        let names = by_name.keys().map(String::as_str);
        // 0 is nobody's.
        let given = self.given.assign(names, METERS_MAX - 1)?;
        let new = given
            .iter()
            .filter(|(name, number)| before.get(*name) != Some(*number));
        for (_, number) in new {
            self.clear(number + 1)?;
        }
        let held = by_name.into_iter();
        let held = held.filter_map(|(name, metered)| Some((given.get(&name)? + 1, metered)));
        self.held = held.collect();
        Ok(())
    }

    fn clear(&mut self, number: u32) -> anyhow::Result<()> {
        let nothing = PerCpuValues::try_from(vec![Meter::default(); self.cpus])?;
        self.counts
            .set(number, nothing, 0)
            .context("cannot clear what was counted of a service that is gone")?;
        for counter in Counter::drops() {
            let key = MeterDrop {
                meter: number,
                reason: counter as u32,
            };
            // Most are not there.
            let _ = self.drops.remove(&key);
        }
        Ok(())
    }

    /// The number of a published port of a service; 0: none.
    pub fn of_port(&self, service: &str, key: &PublishedKey) -> u32 {
        self.number(&Metered::Port(service.to_owned(), *key))
    }

    /// The number of a VIP; 0: none.
    pub fn of_vip(&self, key: &OverlayKey) -> u32 {
        self.number(&Metered::Vip(*key))
    }

    fn number(&self, metered: &Metered) -> u32 {
        let given = self.given.given().get(&metered.name());
        given.map_or(0, |number| number + 1)
    }

    /// All that have one.
    pub fn held(&self) -> &BTreeMap<u32, Metered> {
        &self.held
    }
}

/// What was counted of one port or VIP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Of all CPUs.
    pub meter: Meter,
    /// Flows that are open now.
    pub active: u64,
    /// Packets dropped.
    pub drops: Vec<(Counter, u64)>,
}

/// How old the number of open flows may be: to count them, all entries of conntrack are read, which takes a tenth of a
/// second where that is full.
const ACTIVE_AGE_MAX: Duration = Duration::from_secs(5);

/// Reads what was counted.
pub struct Meters {
    counts: PerCpuArray<MapData, Meter>,
    drops: PerCpuHashMap<MapData, MeterDrop, u64>,
    conntrack: [MapData; 2],
    /// How long the programs keep flows.
    config: Array<MapData, Config>,
    active: Mutex<Option<(Instant, BTreeMap<u32, u64>)>>,
}

impl Meters {
    /// Opens the maps that the programs have pinned.
    ///
    /// # Errors
    /// One is not there, or not ours.
    pub fn open(bpffs: &Path) -> anyhow::Result<Self> {
        let conntrack = |name| {
            let pin = map_pin(bpffs, name);
            MapData::from_pin(&pin)
                .with_context(|| format!("cannot open the map {}", pin.display()))
        };
        Ok(Self {
            counts: open_map(bpffs, MAP_METERS)?,
            drops: open_map(bpffs, MAP_METER_DROPS)?,
            conntrack: [conntrack(MAP_CONNTRACK)?, conntrack(MAP_CONNTRACK_SYN)?],
            config: open_map(bpffs, MAP_CONFIG)?,
            active: Mutex::new(None),
        })
    }

    /// What is counted of these numbers. Blocks, for a tenth of a second at worst.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn read(
        &self,
        numbers: impl Iterator<Item = u32>,
    ) -> anyhow::Result<BTreeMap<u32, Counted>> {
        let active = self.active()?;
        let mut counted = BTreeMap::new();
        for number in numbers {
            let meters = self.counts.get(&number, 0);
            let meters = meters.context("cannot read what is counted of services")?;
            let one = Counted {
                meter: sum(meters.iter()),
                active: active.get(&number).copied().unwrap_or(0),
                drops: Vec::new(),
            };
            counted.insert(number, one);
        }
        for entry in self.drops.iter() {
            let (key, packets) = entry.context("cannot read what is dropped of services")?;
            let of = counted.get_mut(&key.meter);
            if let (Some(of), Some(reason)) = (of, Counter::of_drop(key.reason)) {
                of.drops.push((reason, packets.iter().sum()));
            }
        }
        Ok(counted)
    }

    /// Open flows, by number.
    fn active(&self) -> anyhow::Result<BTreeMap<u32, u64>> {
        let mut kept = self.active.lock();
        if let Some((counted, active)) = &*kept
            && counted.elapsed() < ACTIVE_AGE_MAX
        {
            return Ok(active.clone());
        }
        let config = self.config.get(&0, 0);
        let timeouts = config.context("cannot read how long flows live")?.timeouts;
        let now = monotonic();
        let mut active = BTreeMap::new();
        for map in &self.conntrack {
            let sizes = (size_of::<CtKey>() as u32, size_of::<Ct>() as u32);
            let mut batches = Batches::new(map, sizes.0, sizes.1);
            while let Some(count) = batches.next().context("cannot count open flows")? {
                for (key, value) in batches.entries(count) {
                    let number = flow_of(key, value, &timeouts, now);
                    if number != 0 {
                        *active.entry(number).or_default() += 1;
                    }
                }
            }
        }
        *kept = Some((Instant::now(), active.clone()));
        Ok(active)
    }
}

fn sum<'a>(meters: impl Iterator<Item = &'a Meter>) -> Meter {
    meters.fold(Meter::default(), |sum, meter| Meter {
        packets: [0, 1].map(|way| sum.packets[way] + meter.packets[way]),
        bytes: [0, 1].map(|way| sum.bytes[way] + meter.bytes[way]),
        flows: sum.flows + meter.flows,
    })
}

/// The number that an entry of conntrack counts as an open flow of; 0: of none.
fn flow_of(key: &[u8], value: &[u8], timeouts: &Timeouts, now: u64) -> u32 {
    let (Some(key), Some(ct)) = (pod::read::<CtKey>(key), pod::read::<Ct>(value)) else {
        return 0;
    };
    let is_open = !is_closed(ct.marks)
        && skein_packet::is_alive(timeouts, key.tuple.proto, ct.marks, ct.seen, now);
    if is_open { ct.meter.into() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{plan::Leads, pod::bytes};
    use skein_abi::{
        TCP,
        flow::{ESTABLISHED, RESET, Tuple},
    };

    #[test]
    fn only_what_is_open_is_active() {
        let key = CtKey {
            scope: 0,
            tuple: Tuple {
                proto: TCP,
                ..Tuple::default()
            },
        };
        let open = Ct {
            seen: 1_000,
            marks: ESTABLISHED,
            meter: 7,
            ..Ct::default()
        };
        let timeouts = Timeouts::default();
        let number = |ct: Ct, now| flow_of(&bytes(&key), &bytes(&ct), &timeouts, now);
        assert_eq!(number(open, 2_000), 7);
        assert_eq!(number(open, u64::MAX), 0, "forgotten");
        let reset = Ct {
            marks: ESTABLISHED | RESET,
            ..open
        };
        assert_eq!(number(reset, 2_000), 0);
        let back = Ct { meter: 0, ..open };
        assert_eq!(number(back, 2_000), 0, "the other direction's");
        assert_eq!(flow_of(&[0; 3], &[0; 40], &timeouts, 2_000), 0);
        // As the programs have it, whatever is shipped.
        let shorter = Timeouts {
            established: 1_000,
            ..timeouts
        };
        let number = |now| flow_of(&bytes(&key), &bytes(&open), &shorter, now);
        assert_eq!((number(1_999), number(2_000)), (7, 0));
    }

    #[test]
    fn ports_and_vips_have_names_of_their_own() {
        let key = |port: u16, proto| PublishedKey {
            port: skein_abi::port(port),
            proto,
            pad: 0,
        };
        let mut plan = Plan::default();
        for key in [key(80, TCP), key(80, 17), key(81, TCP)] {
            let leads = Leads {
                group: "web/TCP 80 to 8080".to_owned(),
                target: 8080,
                flags: 0,
            };
            plan.published.insert(key, leads);
        }
        let vip = |vni| OverlayKey {
            vni,
            addr: skein_abi::addr([10, 0, 0, 2].into()),
        };
        plan.vips.insert(vip(4_096), Vec::new());
        plan.vips.insert(vip(4_097), Vec::new());
        let all = Metered::all(&plan);
        assert_eq!(all.len(), 5);
        assert!(all.contains_key("web tcp 81") && all.contains_key("vip 4097 10.0.0.2"));
    }
}
