//! Generic netlink: families of the kernel's that are asked by name.

use anyhow::{Context as _, bail};
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable as _, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    Nla as _, NlasIterator, Parseable as _,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

// include/uapi/linux/genetlink.h
const CTRL_FAMILY: u16 = 0x10;
const CTRL_GET_FAMILY: u8 = 3;
const CTRL_FAMILY_ID: u16 = 1;
const CTRL_FAMILY_NAME: u16 = 2;
const VERSION: u8 = 1;
/// Bytes of the header behind netlink's own.
const HEADER_LEN: usize = 4;

/// A family, and a socket to ask it by.
pub struct Family {
    socket: Socket,
    id: u16,
}

impl Family {
    /// # Errors
    /// The kernel has no family of that name.
    pub fn open(name: &str) -> anyhow::Result<Self> {
        let mut socket =
            Socket::new(NETLINK_GENERIC).context("cannot open a generic netlink socket")?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // The kernel answers before the request returns: there is nothing to wait for.
        socket.set_non_blocking(true)?;
        let mut text = name.as_bytes().to_vec();
        text.push(0);
        let name_of = DefaultNla::new(CTRL_FAMILY_NAME, text);
        let mut family = Self {
            socket,
            id: CTRL_FAMILY,
        };
        let answer = family
            .ask(CTRL_GET_FAMILY, vec![name_of])
            .with_context(|| format!("the kernel has no netlink family {name}"))?;
        let id = answer.value(CTRL_FAMILY_ID).map(u16::from_ne_bytes);
        family.id =
            id.with_context(|| format!("the kernel's netlink family {name} has no number"))?;
        Ok(family)
    }

    fn send(&self, flags: u16, command: u8, attributes: Vec<DefaultNla>) -> anyhow::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let message = Message {
            family: self.id,
            command,
            attributes,
        };
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }

    /// What the kernel answers.
    ///
    /// # Errors
    /// It refuses.
    pub fn ask(&self, command: u8, attributes: Vec<DefaultNla>) -> anyhow::Result<Message> {
        self.send(0, command, attributes)?;
        let (answer, _) = self.socket.recv_from_full()?;
        match NetlinkMessage::<Message>::deserialize(&answer)?.payload {
            NetlinkPayload::InnerMessage(answer) => Ok(answer),
            NetlinkPayload::Error(error) => Err(error.to_io().into()),
            other => bail!("the kernel answers {other:?}"),
        }
    }

    /// Has the kernel do something.
    ///
    /// # Errors
    /// It refuses.
    pub fn tell(&self, command: u8, attributes: Vec<DefaultNla>) -> anyhow::Result<()> {
        self.send(NLM_F_ACK, command, attributes)?;
        let (answer, _) = self.socket.recv_from_full()?;
        match NetlinkMessage::<Message>::deserialize(&answer)?.payload {
            NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
            NetlinkPayload::Error(error) => Err(error.to_io().into()),
            other => bail!("the kernel answers {other:?}"),
        }
    }

    /// All messages of a list.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn list(&self, command: u8, attributes: Vec<DefaultNla>) -> anyhow::Result<Vec<Message>> {
        self.send(NLM_F_DUMP, command, attributes)?;
        let mut listed = Vec::new();
        loop {
            let (answer, _) = self.socket.recv_from_full()?;
            let mut rest = &answer[..];
            // Several may come at once.
            while !rest.is_empty() {
                let message = NetlinkMessage::<Message>::deserialize(rest)?;
                let len = (message.header.length as usize).next_multiple_of(4);
                match message.payload {
                    NetlinkPayload::InnerMessage(message) => listed.push(message),
                    NetlinkPayload::Done(_) => return Ok(listed),
                    NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                    other => bail!("the kernel answers {other:?}"),
                }
                rest = rest.get(len.max(1)..).unwrap_or_default();
            }
        }
    }
}

/// A message of any generic family.
#[derive(Debug)]
pub struct Message {
    family: u16,
    command: u8,
    /// What is in it.
    pub attributes: Vec<DefaultNla>,
}
impl Message {
    /// The value of an attribute, if it is there and has that size.
    pub fn value<const N: usize>(&self, kind: u16) -> Option<[u8; N]> {
        let found = self.attributes.iter().find(|found| found.kind() == kind)?;
        bytes_of(found).try_into().ok()
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        HEADER_LEN + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer[..HEADER_LEN].copy_from_slice(&[self.command, VERSION, 0, 0]);
        self.attributes.as_slice().emit(&mut buffer[HEADER_LEN..]);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let Some((&[command, ..], attributes)) = payload.split_first_chunk::<HEADER_LEN>() else {
            return Err(DecodeError::from("a generic netlink message cut short"));
        };
        Ok(Self {
            family: header.message_type,
            command,
            attributes: within(attributes)?,
        })
    }
}

/// The value of an attribute.
pub fn bytes_of(attribute: &DefaultNla) -> Vec<u8> {
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    value
}

/// The attributes in the value of one.
///
/// # Errors
/// There is something else in it.
pub fn within(value: &[u8]) -> Result<Vec<DefaultNla>, DecodeError> {
    let attributes = NlasIterator::new(value).map(|nla| DefaultNla::parse(&nla?));
    attributes.collect()
}
