//! How much of the server each asker can take, so that one of them cannot keep the others from it.

use parking_lot::Mutex;
use std::{collections::HashMap, net::IpAddr, sync::Arc};

/// Counts what is under way, in all and by source.
#[derive(Debug)]
pub(crate) struct Limits {
    total: usize,
    per_source: usize,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    total: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    limits: Arc<Limits>,
    source: IpAddr,
}

impl Limits {
    pub(crate) fn new(total: usize, per_source: usize) -> Arc<Self> {
        Arc::new(Self {
            total,
            per_source,
            used: Mutex::default(),
        })
    }

    /// `None`: there is no place left, for this source or for all.
    pub(crate) fn take(self: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let mut used = self.used.lock();
        let of_source = used.by_source.get(&source).copied().unwrap_or_default();
        if used.total >= self.total || of_source >= self.per_source {
            return None;
        }
        used.total += 1;
        used.by_source.insert(source, of_source + 1);
        Some(Place {
            limits: Arc::clone(self),
            source,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut used = self.limits.used.lock();
        used.total -= 1;
        if let Some(of_source) = used.by_source.get_mut(&self.source) {
            *of_source -= 1;
            if *of_source == 0 {
                used.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_leaves_places_to_others() {
        let [a, b]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        let limits = Limits::new(3, 2);
        let first = limits.take(a);
        let _second = limits.take(a);
        assert!(first.is_some() && limits.take(a).is_none(), "its own limit");
        let _third = limits.take(b);
        assert!(limits.take(b).is_none(), "the limit of all");
        drop(first);
        assert!(limits.take(b).is_some());
        assert!(limits.used.lock().by_source.len() <= 2);
    }
}
