//! Names of a cluster, for its tasks: what each network calls its services and tasks, and a DNS
//! server that answers each asker from the networks that it is on.
//!
//! - [`zone`]: from the objects of the networks and a question to an answer (pure).
//! - [`message`]: packets in, packets out (pure).
//! - [`upstream`]: whom to ask for names that are not of the cluster, and how.
//! - [`server`]: UDP and TCP.
//! - `datagrams`: many of them by one call of the kernel.
//! - `limits`: how much of the server each asker can take.
//!
//! The server's loops are its own and not hickory-server's: they answer names of the cluster without
//! a task for each packet, hand foreign answers on byte by byte, and bound what one asker can hold.

mod datagrams;
mod limits;
pub mod message;
pub mod server;
pub mod upstream;
pub mod zone;

pub use server::{Asker, Askers, Server};
pub use zone::{Endpoint, Network, Service, Zone};
