//! Overlays: made and removed.

use super::{Change, named, removal};
use crate::executor::Random;
use rand::seq::IteratorRandom as _;
use skein_model::{Action, Kind, Network, State, new_id};
use skein_orchestration::validate;

/// Names that they have.
const NAMES: u16 = 3;

pub(super) fn create(state: &State) -> Option<Change> {
    let (name, _) = named("network", NAMES);
    let mut network = Network {
        id: new_id(&mut Random),
        ..Network::default()
    };
    network.spec.name = name.clone();
    network.spec.driver = "overlay".into();
    validate::check_network(state, &network.spec).ok()?;
    Some((format!("create {name}"), Action::Create(network.into())))
}

pub(super) fn remove(state: &State) -> Option<Change> {
    let networks = state
        .present_networks()
        .filter(|network| !network.spec.ingress);
    let network = networks.choose(&mut Random)?;
    let what = format!("remove {}", network.spec.name);
    Some((what, removal(Kind::Network, &network.id)))
}
