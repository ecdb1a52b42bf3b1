//! Objects of a network state that are encoded once, for all nodes that are told of them.

use crate::network::{EncodedUpdate, NetworkUpdate, Object, object::Object as Content};
use prost::{DecodeError, Message as _, bytes::Bytes};

/// An object as [`EncodedUpdate::upsert`] has it.
pub fn encode(content: Content) -> Bytes {
    let object = Object {
        object: Some(content),
    };
    object.encode_to_vec().into()
}

impl TryFrom<EncodedUpdate> for NetworkUpdate {
    type Error = DecodeError;

    fn try_from(update: EncodedUpdate) -> Result<Self, DecodeError> {
        let upsert = update.upsert.into_iter().map(Object::decode);
        Ok(Self {
            version: update.version,
            complete: update.complete,
            upsert: upsert.collect::<Result<_, _>>()?,
            remove: update.remove,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Kind, Node, ObjectRef};

    #[test]
    fn both_forms_of_an_update_are_the_same_on_the_wire() {
        let node = Content::Node(Node {
            id: "a".into(),
            up: true,
            ..Node::default()
        });
        let removed = ObjectRef {
            kind: Kind::Service.into(),
            id: "s".into(),
        };
        let plain = NetworkUpdate {
            version: 7,
            complete: true,
            upsert: vec![Object {
                object: Some(node.clone()),
            }],
            remove: vec![removed.clone()],
        };
        let encoded = EncodedUpdate {
            version: 7,
            complete: true,
            upsert: vec![encode(node)],
            remove: vec![removed],
        };
        assert_eq!(encoded.encode_to_vec(), plain.encode_to_vec());
        assert_eq!(NetworkUpdate::try_from(encoded.clone()), Ok(plain));
        let unreadable = EncodedUpdate {
            upsert: vec![Bytes::from_static(&[0xff])],
            ..encoded
        };
        assert!(NetworkUpdate::try_from(unreadable).is_err());
    }
}
