//! A node's end of the tunnels that encrypted overlays go by, as its dataplane says it.

use crate::manager::store::{self, Store};
use skein_model::{Node, TunnelEnd};
use skein_proto::network as proto;
use tonic::Status;
use tracing::info;

/// What a node says of its end. Its address there is the managers' to give.
pub(super) fn end_of(said: &proto::TunnelEnd) -> Result<TunnelEnd, String> {
    let public_key = said.public_key.as_slice().try_into();
    let port = u16::try_from(said.port).ok().filter(|port| *port != 0);
    match (public_key, port) {
        (Ok(public_key), Some(port)) => Ok(TunnelEnd {
            public_key,
            port,
            address: None,
        }),
        _ => Err(format!(
            "an end of tunnels has a key of 32 bytes and a UDP port, and this one has {} and {}",
            said.public_key.len(),
            said.port
        )),
    }
}

/// Puts what a node says into the store, if it is new: all nodes are told, then. It comes by the node's own session,
/// so that no node can say it of another.
pub(super) async fn note<S: Store>(
    store: &S,
    node_id: &str,
    said: TunnelEnd,
) -> Result<(), Status> {
    let is_known = |node: &Node| node.tunnel.is_some_and(|known| is_same(&known, &said));
    // A node says it with every answer.
    if store
        .state()
        .node(node_id)
        .is_none_or(|node| is_known(node))
    {
        return Ok(());
    }
    store::commit(store, |draft| {
        // One that was removed meanwhile hears so by its session.
        if let Some(node) = draft.node(node_id) {
            let mut node = Node::clone(node);
            let address = node.tunnel.and_then(|known| known.address);
            node.tunnel = Some(TunnelEnd { address, ..said });
            draft.put(node);
        }
        Ok(())
    })
    .await?;
    info!(
        node = node_id,
        "the node has said its key for encrypted networks"
    );
    Ok(())
}

fn is_same(known: &TunnelEnd, said: &TunnelEnd) -> bool {
    (known.public_key, known.port) == (said.public_key, said.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_is_refused() {
        let said = |key: usize, port| proto::TunnelEnd {
            public_key: vec![1; key],
            port,
            address: "100.66.0.9".into(),
        };
        let end = end_of(&said(32, 4793)).unwrap();
        assert_eq!((end.public_key, end.port), ([1; 32], 4793));
        assert_eq!(end.address, None, "that is not the node's to say");
        for wrong in [
            said(31, 4793),
            said(33, 4793),
            said(0, 4793),
            said(32, 0),
            said(32, 65_536),
        ] {
            assert!(end_of(&wrong).is_err(), "{wrong:?}");
        }
    }
}
