//! Pulls under way: one of an image at a time, whose answer is that of all who wait for it.

use super::EngineError;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};
use parking_lot::Mutex;
use std::collections::HashMap;

/// What a pull ends with.
pub(super) type Answer = Result<(), EngineError>;
type Pull = BoxFuture<'static, Answer>;

/// What may be pulled only once at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// As the task names it.
    pub image: String,
    /// Whoever asks with other credentials may get another answer.
    pub registry_auth: String,
    /// How long the registry may be silent hangs on it.
    pub is_present: bool,
}

/// The pulls that somebody waits for: one that nobody does any more is given up.
#[derive(Default)]
pub(super) struct Pulls(Mutex<HashMap<Key, WeakShared<Pull>>>);

impl Pulls {
    /// Joins the pull of `key` that is under way, or the one that `begin` makes.
    pub(super) fn join(&self, key: Key, begin: impl FnOnce() -> Pull) -> Shared<Pull> {
        let mut pulls = self.0.lock();
        // What has ended says nothing of the registry's image of now.
        pulls.retain(|_, pull| pull.upgrade().is_some_and(|pull| pull.peek().is_none()));
        if let Some(pull) = pulls.get(&key).and_then(WeakShared::upgrade) {
            return pull;
        }
        let pull = begin().shared();
        if let Some(weak) = pull.downgrade() {
            pulls.insert(key, weak);
        }
        pull
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::oneshot;

    fn key(image: &str, registry_auth: &str) -> Key {
        Key {
            image: image.into(),
            registry_auth: registry_auth.into(),
            is_present: true,
        }
    }

    #[tokio::test]
    async fn those_who_wait_share_one_pull_and_later_ones_begin_another() {
        let pulls = Pulls::default();
        let begun = AtomicUsize::new(0);
        let (end, ended) = oneshot::channel::<()>();
        let mut ended = Some(ended);
        let mut join = |key: Key| {
            pulls.join(key, || {
                begun.fetch_add(1, Ordering::Relaxed);
                let ended = ended.take();
                Box::pin(async move {
                    if let Some(ended) = ended {
                        ended.await.unwrap();
                    }
                    Ok(())
                })
            })
        };
        let waiting: Vec<_> = (0..30).map(|_| join(key("web:1", ""))).collect();
        assert_eq!(begun.load(Ordering::Relaxed), 1);
        let other = join(key("web:1", "credentials"));
        assert_eq!(begun.load(Ordering::Relaxed), 2);
        assert_eq!(other.await, Ok(()));
        end.send(()).unwrap();
        for pull in waiting {
            assert_eq!(pull.await, Ok(()));
        }
        assert_eq!(join(key("web:1", "")).await, Ok(()));
        assert_eq!(begun.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_pull_that_nobody_waits_for_is_given_up() {
        let pulls = Pulls::default();
        let (held, given_up) = oneshot::channel::<()>();
        let waiting = pulls.join(key("web:1", ""), || {
            Box::pin(async move {
                let _held = held;
                std::future::pending().await
            })
        });
        drop(waiting);
        assert!(given_up.await.is_err());
        let next = pulls.join(key("web:1", ""), || Box::pin(async { Ok(()) }));
        assert_eq!(next.await, Ok(()));
    }
}
