//! Changes that rest on what was read before: made anew where others were quicker.

use super::ProposeError;
use skein_model::{Action, Applied, Draft, Rejection, State, Timestamp};
use std::future::Future;

/// How often a change is tried. The leader's own loop and the nodes' reports meet often with what
/// users ask for, but each of them soon stops.
const ATTEMPTS_MAX: u32 = 10;

/// The attempts at one change. Each reads the state, decides anew, and proposes.
#[derive(Debug)]
pub(super) struct Attempts {
    left: u32,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { left: ATTEMPTS_MAX }
    }
}

impl Attempts {
    /// What became of an attempt: `None` if others were quicker, and another is due.
    ///
    /// # Errors
    /// It cannot be made, or [`ATTEMPTS_MAX`] were in vain.
    pub(super) fn settle<T>(
        &mut self,
        proposed: Result<T, ProposeError>,
    ) -> Result<Option<T>, ProposeError> {
        self.left = self.left.saturating_sub(1);
        match proposed {
            Err(ProposeError::Rejected(rejection))
                if may_pass_anew(&rejection) && self.left > 0 =>
            {
                Ok(None)
            }
            made => made.map(Some),
        }
    }
}

/// Makes a change that rests on what it reads: from the start again where others were quicker. What
/// `make` came to in the end.
///
/// # Errors
/// What `read`, `now` and `make` refuse, and [`ProposeError`]: not all of the change is in the store.
pub async fn change<T, E, R, P>(
    read: impl Fn() -> R,
    now: impl Fn() -> Timestamp,
    propose: impl Fn(Vec<Action>) -> P,
    mut make: impl FnMut(&mut Draft) -> Result<T, E>,
) -> Result<T, E>
where
    E: From<ProposeError>,
    R: Future<Output = Result<State, ProposeError>>,
    P: Future<Output = Result<Applied, ProposeError>>,
{
    let mut attempts = Attempts::default();
    loop {
        let mut draft = Draft::new(read().await?, now());
        let made = make(&mut draft)?;
        let proposed = propose_all(draft, &propose).await;
        if attempts.settle(proposed)?.is_some() {
            return Ok(made);
        }
    }
}

/// Proposes all changes of a draft, up to the first failure; but what is too long for the store keeps
/// nothing else from it.
///
/// # Errors
/// Not all of it is in the store.
pub async fn propose_all<F>(
    draft: Draft,
    mut propose: impl FnMut(Vec<Action>) -> F,
) -> Result<(), ProposeError>
where
    F: Future<Output = Result<Applied, ProposeError>>,
{
    let mut refused = Ok(());
    for actions in draft.into_proposals() {
        match propose(actions).await {
            Ok(_) => {}
            Err(ProposeError::Rejected(rejection @ Rejection::TooLarge { .. })) => {
                refused = Err(rejection.into());
            }
            Err(error) => return Err(error),
        }
    }
    refused
}

/// What is too long is too long from any state.
fn may_pass_anew(rejection: &Rejection) -> bool {
    !matches!(
        rejection,
        Rejection::TooLarge { .. } | Rejection::TooManyActions(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_tried_anew_a_few_times_where_others_were_quicker() {
        let conflict = || Err::<(), _>(ProposeError::Rejected(Rejection::OutOfSequence));
        let mut attempts = Attempts::default();
        for _ in 1..ATTEMPTS_MAX {
            assert!(matches!(attempts.settle(conflict()), Ok(None)));
        }
        let last = attempts.settle(conflict());
        assert!(matches!(
            last,
            Err(ProposeError::Rejected(Rejection::OutOfSequence))
        ));
        assert!(matches!(Attempts::default().settle(Ok(7)), Ok(Some(7))));
    }

    #[test]
    fn what_no_state_would_take_is_tried_once() {
        let (bytes, limit) = (2, 1);
        let too_long = Rejection::TooLarge { bytes, limit };
        let settled = Attempts::default().settle(Err::<(), _>(too_long.into()));
        assert!(settled.is_err());
        let settled = Attempts::default().settle(Err::<(), _>(ProposeError::NoLeader));
        assert!(settled.is_err());
    }
}
