//! External certificate authorities: servers that sign for the swarm, so that no manager has the key of the
//! root. They speak cfssl's protocol, as with Swarm.
//!
//! [`choice`] decides who signs, [`protocol`] has the requests and answers, [`check`] what a signed
//! certificate must be; all three are pure. [`client`] asks.

mod check;
mod choice;
mod client;
mod protocol;

pub(super) use check::leads_to;
pub use choice::{InvalidProtocol, Signer, normalize, signer};
pub(super) use choice::{has_key, urls_for};
pub use client::{ExternalCas, ExternalError};
