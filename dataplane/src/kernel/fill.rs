//! How full the kernel's maps are.
//!
//! The kernel has no count of what a map holds, so all of it is read, bucket by bucket (BPF_MAP_LOOKUP_BATCH):
//! unlike stepping from key to key, that begins nowhere anew when programs remove entries meanwhile, and
//! makes nothing look used to a map that forgets what was not.

use super::programs::map_pin;
use anyhow::{Context as _, ensure};
use aya::maps::{MapData, MapType};
use skein_abi::names::PINNED_MAPS;
use std::{
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    path::Path,
};

/// Entries that are read at once: the largest have a kilobyte.
const BATCH: u32 = 1_024;
/// include/uapi/linux/bpf.h
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;

/// How full one map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Of [`skein_abi::names`].
    pub name: &'static str,
    /// What it holds; of a map that changes meanwhile, about.
    pub entries: u32,
    /// What it has room for.
    pub limit: u32,
    /// Full, it forgets what was not used for longest (LRU).
    pub forgets: bool,
}

/// All pinned maps that can become full. Reads all that they hold: milliseconds, or a tenth of a second
/// where all are full. Blocks.
///
/// # Errors
/// A map cannot be opened or read.
pub fn fills(bpffs: &Path) -> anyhow::Result<Vec<Fill>> {
    let mut fills = Vec::new();
    for name in PINNED_MAPS {
        let map = open(bpffs, name)?;
        let info = map.info().with_context(|| refused(name))?;
        let forgets = match info.map_type() {
            Ok(MapType::Hash) => false,
            Ok(MapType::LruHash) => true,
            // Arrays always hold all that they have room for.
            _ => continue,
        };
        let entries = count(&map, info.key_size(), info.value_size());
        fills.push(Fill {
            name,
            entries: entries.with_context(|| refused(name))?,
            limit: info.max_entries(),
            forgets,
        });
    }
    Ok(fills)
}

fn open(bpffs: &Path, name: &str) -> anyhow::Result<MapData> {
    let pin = map_pin(bpffs, name);
    MapData::from_pin(&pin).with_context(|| format!("cannot open the map {}", pin.display()))
}

fn refused(name: &str) -> String {
    format!("cannot read the kernel's map {name}")
}

fn count(map: &MapData, key: u32, value: u32) -> anyhow::Result<u32> {
    let mut batches = Batches::new(map, key, value);
    let mut entries = 0;
    while let Some(read) = batches.next()? {
        entries += read;
    }
    Ok(entries)
}

/// Reads a hash map whose keys and values have these sizes.
pub struct Batches<'a> {
    map: BorrowedFd<'a>,
    sizes: [usize; 2],
    /// Room for keys, and for values.
    room: [Vec<u8>; 2],
    max: u32,
    /// The bucket to go on with; `None`: the first. The kernel's own number.
    bucket: Option<u32>,
    is_done: bool,
}

/// `union bpf_attr`, as the batch commands have it.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

impl<'a> Batches<'a> {
    /// From its first bucket on.
    pub fn new(map: &'a MapData, key: u32, value: u32) -> Self {
        let mut batches = Self {
            map: map.fd().as_fd(),
            sizes: [key as usize, value as usize],
            room: [Vec::new(), Vec::new()],
            max: 0,
            bucket: None,
            is_done: false,
        };
        batches.make_room(BATCH);
        batches
    }

    fn make_room(&mut self, max: u32) {
        self.max = max;
        for (room, size) in self.room.iter_mut().zip(self.sizes) {
            room.resize(max as usize * size, 0);
        }
    }

    /// How many entries were read; `None`: that were all.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn next(&mut self) -> anyhow::Result<Option<u32>> {
        while !self.is_done {
            let mut next = 0_u32;
            let in_batch = self.bucket.as_ref();
            let mut attr = BatchAttr {
                in_batch: in_batch.map_or(0, |bucket| std::ptr::from_ref(bucket) as u64),
                out_batch: (&raw mut next) as u64,
                keys: self.room[0].as_mut_ptr() as u64,
                values: self.room[1].as_mut_ptr() as u64,
                count: self.max,
                map_fd: self.map.as_raw_fd().cast_unsigned(),
                elem_flags: 0,
                flags: 0,
            };
            // SAFETY: the kernel reads `bucket` and writes `next`, both words; it writes at most `count`
            // keys and values, for which there is room as the map's own sizes say; all of it lives through
            // the call.
            let got = unsafe {
                libc::syscall(
                    libc::SYS_bpf,
                    BPF_MAP_LOOKUP_BATCH,
                    &raw mut attr,
                    size_of::<BatchAttr>(),
                )
            };
            let error = std::io::Error::last_os_error();
            match (got, error.raw_os_error()) {
                (0, _) => {}
                // The last ones.
                (_, Some(libc::ENOENT)) => self.is_done = true,
                // One bucket has more than there is room for.
                (_, Some(libc::ENOSPC)) => {
                    let max = self.max.saturating_mul(2);
                    ensure!(max < u32::MAX, "a bucket of the map never ends");
                    self.make_room(max);
                    continue;
                }
                _ => return Err(error.into()),
            }
            self.bucket = Some(next);
            return Ok(Some(attr.count));
        }
        Ok(None)
    }
}

impl Batches<'_> {
    /// The first `count` keys and values that were read last, as bytes.
    pub fn entries(&self, count: u32) -> impl Iterator<Item = (&[u8], &[u8])> {
        let [keys, values] = &self.room;
        let [key, value] = self.sizes;
        keys.chunks_exact(key)
            .zip(values.chunks_exact(value))
            .take(count as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya::maps::{HashMap, MapInfo};

    /// No other map has room for as many.
    const LIMIT: u32 = 10 * BATCH + 77;

    #[test]
    #[ignore = "maps of the kernel need root"]
    fn every_entry_is_counted_once() {
        for entries in [0, 1, BATCH, 5 * BATCH + 7] {
            let mut map: HashMap<MapData, u32, u64> = HashMap::create(LIMIT, 0).expect("a map");
            for key in 0..entries {
                map.insert(key, u64::from(key), 0).expect("room");
            }
            // As it is opened by its pin, by a descriptor of its own.
            let is_ours = |info: &MapInfo| info.max_entries() == LIMIT;
            let maps = aya::maps::loaded_maps();
            let info = maps.filter_map(Result::ok).find(is_ours).expect("it");
            let same = MapData::from_id(info.id()).unwrap();
            assert_eq!(count(&same, 4, 8).unwrap(), entries);
        }
    }
}
