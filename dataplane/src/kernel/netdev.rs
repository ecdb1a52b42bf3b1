//! What a device's driver can do with XDP, by the kernel's generic netlink family "netdev".

use anyhow::{Context as _, bail};
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable as _, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable, Nla as _, NlasIterator, Parseable as _,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

// include/uapi/linux/genetlink.h
const CTRL_FAMILY: u16 = 0x10;
const CTRL_GET_FAMILY: u8 = 3;
const CTRL_FAMILY_ID: u16 = 1;
const CTRL_FAMILY_NAME: u16 = 2;
const VERSION: u8 = 1;
// include/uapi/linux/netdev.h
const DEV_GET: u8 = 1;
const DEV_IFINDEX: u16 = 1;
const DEV_XDP_FEATURES: u16 = 3;
/// Bytes of the header behind netlink's own.
const HEADER_LEN: usize = 4;

/// What XDP can do on a device, as bits of the kernel's (enum netdev_xdp_act).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// Programs run in the driver, and send frames back by the device.
    pub const BASIC: u64 = 1;
    /// They redirect frames to other devices.
    pub const REDIRECT: u64 = 2;
    /// The device sends what the programs of other devices redirect to it.
    pub const NDO_XMIT: u64 = 4;

    /// Whether the device has all of these.
    pub fn has(self, features: u64) -> bool {
        self.0 & features == features
    }
}

/// Asks for the features of devices.
pub struct Netdev {
    socket: Socket,
    family: u16,
}

impl Netdev {
    /// # Errors
    /// The kernel has no such family: it is older than 6.3.
    pub fn open() -> anyhow::Result<Self> {
        let mut socket =
            Socket::new(NETLINK_GENERIC).context("cannot open a generic netlink socket")?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // The kernel answers before the request returns: there is nothing to wait for.
        socket.set_non_blocking(true)?;
        let name = DefaultNla::new(CTRL_FAMILY_NAME, b"netdev\0".to_vec());
        let request = Message::request(CTRL_FAMILY, CTRL_GET_FAMILY, name);
        let answer = ask(&socket, request).context("the kernel has no netlink family netdev")?;
        let family = answer.value(CTRL_FAMILY_ID).map(u16::from_ne_bytes);
        Ok(Self {
            socket,
            family: family.context("the kernel's netlink family netdev has no number")?,
        })
    }

    /// What XDP can do on a device.
    ///
    /// # Errors
    /// The device is gone.
    pub fn features(&self, ifindex: u32) -> anyhow::Result<Features> {
        let device = DefaultNla::new(DEV_IFINDEX, ifindex.to_ne_bytes().to_vec());
        let answer = ask(&self.socket, Message::request(self.family, DEV_GET, device))
            .with_context(|| format!("cannot ask for the XDP features of device {ifindex}"))?;
        let features = answer.value(DEV_XDP_FEATURES).map(u64::from_ne_bytes);
        Ok(Features(features.unwrap_or(0)))
    }
}

fn ask(socket: &Socket, message: Message) -> anyhow::Result<Message> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    match NetlinkMessage::<Message>::deserialize(&answer)?.payload {
        NetlinkPayload::InnerMessage(answer) => Ok(answer),
        NetlinkPayload::Error(error) => Err(error.to_io().into()),
        other => bail!("the kernel answers {other:?}"),
    }
}

/// A message of any generic family.
#[derive(Debug)]
struct Message {
    family: u16,
    command: u8,
    attributes: Vec<DefaultNla>,
}

impl Message {
    fn request(family: u16, command: u8, attribute: DefaultNla) -> Self {
        Self {
            family,
            command,
            attributes: vec![attribute],
        }
    }

    /// The value of an attribute, if it is there and has that size.
    fn value<const N: usize>(&self, kind: u16) -> Option<[u8; N]> {
        let found = self.attributes.iter().find(|found| found.kind() == kind)?;
        let mut value = vec![0; found.value_len()];
        found.emit_value(&mut value);
        value.try_into().ok()
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
        let attributes = NlasIterator::new(attributes).map(|nla| DefaultNla::parse(&nla?));
        Ok(Self {
            family: header.message_type,
            command,
            attributes: attributes.collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_knows_its_devices() {
        let netdev = Netdev::open().expect("kernel 6.3 or later");
        // Loopback, which has no XDP.
        assert_eq!(netdev.features(1).expect("there is one"), Features(0));
        assert!(netdev.features(u32::from(u16::MAX)).is_err());
    }
}
