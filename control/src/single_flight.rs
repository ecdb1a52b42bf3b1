//! Work of which one goes on at a time for each key, and whose end is that of all who wait for it.

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};
use parking_lot::Mutex;
use std::{collections::HashMap, hash::Hash};

/// One piece of work: clones wait for the same end.
pub type Flight<T> = Shared<BoxFuture<'static, T>>;

/// The work that somebody waits for: what nobody does any more is given up.
pub struct SingleFlight<K, T>(Mutex<HashMap<K, WeakShared<BoxFuture<'static, T>>>>)
where
    T: Clone;

impl<K, T: Clone> Default for SingleFlight<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, T: Clone> SingleFlight<K, T> {
    /// Joins the work for `key` that is under way, or that which `begin` makes. It goes on while one of its
    /// clones is waited for.
    pub fn join(&self, key: K, begin: impl FnOnce() -> BoxFuture<'static, T>) -> Flight<T> {
        let mut flights = self.0.lock();
        // What has ended says nothing of what is so now.
        flights.retain(|_, flight| {
            let flight = flight.upgrade();
            flight.is_some_and(|flight| flight.peek().is_none())
        });
        if let Some(flight) = flights.get(&key).and_then(WeakShared::upgrade) {
            return flight;
        }
        let flight = begin().shared();
        if let Some(weak) = flight.downgrade() {
            flights.insert(key, weak);
        }
        flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn those_who_wait_share_one_flight_and_later_ones_begin_another() {
        let flights = SingleFlight::default();
        let begun = AtomicUsize::new(0);
        let (end, ended) = oneshot::channel::<()>();
        let mut ended = Some(ended);
        let mut join = |key: (&'static str, u8)| {
            flights.join(key, || {
                let number = begun.fetch_add(1, Ordering::Relaxed);
                let ended = ended.take();
                Box::pin(async move {
                    if let Some(ended) = ended {
                        ended.await.unwrap();
                    }
                    number
                })
            })
        };
        let waiting: Vec<_> = (0..30).map(|_| join(("web", 0))).collect();
        assert_eq!(begun.load(Ordering::Relaxed), 1);
        assert_eq!(join(("web", 1)).await, 1);
        end.send(()).unwrap();
        for flight in waiting {
            assert_eq!(flight.await, 0);
        }
        assert_eq!(join(("web", 0)).await, 2);
        assert_eq!(begun.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_flight_that_nobody_waits_for_is_given_up() {
        let flights = SingleFlight::default();
        let (held, given_up) = oneshot::channel::<()>();
        let waiting = flights.join("web", || {
            Box::pin(async move {
                let _held = held;
                std::future::pending().await
            })
        });
        drop(waiting);
        assert!(given_up.await.is_err());
        let next = flights.join("web", || Box::pin(async { 1 }));
        assert_eq!(next.await, 1);
    }
}
