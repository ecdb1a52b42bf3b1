//! Secrets and configs: made, and secrets removed.

use super::{Change, named, removal};
use crate::executor::Random;
use rand::{Rng as _, seq::IteratorRandom as _};
use skein_model::{Action, Config, Kind, Object, PayloadSpec, Secret, State, new_id};

/// Names that they have.
const NAMES: u16 = 3;

pub(super) fn create() -> Option<Change> {
    let (id, (name, _)) = (new_id(&mut Random), named("payload", NAMES));
    let spec = PayloadSpec {
        name: name.clone(),
        data: serde_json::from_str("\"c2tlaW4=\"").ok()?,
        ..PayloadSpec::default()
    };
    let meta = Default::default();
    let object: Object = match Random.random_bool(0.5) {
        true => Secret { id, meta, spec }.into(),
        false => Config { id, meta, spec }.into(),
    };
    let what = format!("create {} {name}", object.kind());
    Some((what, Action::Create(object)))
}

pub(super) fn remove(state: &State) -> Option<Change> {
    let secret = state.secrets().choose(&mut Random)?;
    let what = format!("remove secret {}", secret.spec.name);
    Some((what, removal(Kind::Secret, &secret.id)))
}
