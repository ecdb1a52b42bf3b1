//! Frames of clients and tasks, as programs get them.

use anyhow::Context as _;
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use std::net::{Ipv4Addr, SocketAddrV4};

/// Neither end's Ethernet address matters at an uplink: of the locally administered ones, which no device has from its
/// maker.
pub const NOBODY: [u8; MAC] = [0x02, 0, 0, 0, 0, 1];
/// Linux's usual values.
const TTL: u8 = 64;
const WINDOW: u16 = 64_240;
/// Bytes of an Ethernet address, of which a frame begins with two: to whom, and from whom.
const MAC: usize = 6;

/// A packet of TCP without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Who sends it.
    pub from: SocketAddrV4,
    /// To whom.
    pub to: SocketAddrV4,
    /// Whether it opens a connection; any other is of one that is there.
    pub opens: bool,
}

impl Tcp {
    /// Its frame, between these Ethernet addresses.
    ///
    /// # Errors
    /// None in fact: it is short.
    pub fn frame(self, source: [u8; MAC], destination: [u8; MAC]) -> anyhow::Result<Vec<u8>> {
        let (from, to) = (self.from.ip().octets(), self.to.ip().octets());
        let tcp = PacketBuilder::ethernet2(source, destination)
            .ipv4(from, to, TTL)
            .tcp(self.from.port(), self.to.port(), 1, WINDOW);
        let tcp = if self.opens { tcp.syn() } else { tcp.ack(1) };
        let mut frame = Vec::new();
        tcp.write(&mut frame, &[])
            .context("a frame cannot be written")?;
        Ok(frame)
    }

    /// What a frame of TCP in IPv4 carries, and the Ethernet address that it is for.
    ///
    /// # Errors
    /// It is none.
    pub fn read(frame: &[u8]) -> anyhow::Result<(Self, [u8; MAC])> {
        let sliced = SlicedPacket::from_ethernet(frame).context("a program made an odd frame")?;
        let ends = match &sliced.net {
            Some(etherparse::NetSlice::Ipv4(ip)) => {
                let header = ip.header();
                Some((header.source_addr(), header.destination_addr()))
            }
            _ => None,
        };
        let (from, to) = ends.context("a program made a frame without IPv4")?;
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else {
            anyhow::bail!("a program made a frame from {from} to {to} without TCP");
        };
        let end = |address: Ipv4Addr, port| SocketAddrV4::new(address, port);
        let tcp = Self {
            from: end(from, tcp.source_port()),
            to: end(to, tcp.destination_port()),
            opens: tcp.syn(),
        };
        let mac = frame.first_chunk().context("a frame without a header")?;
        Ok((tcp, *mac))
    }

    /// The answer to it.
    pub fn answer(self) -> Self {
        Self {
            from: self.to,
            to: self.from,
            opens: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for opens in [true, false] {
            let tcp = Tcp {
                from: "198.18.0.250:40000".parse().unwrap(),
                to: "198.18.0.1:30080".parse().unwrap(),
                opens,
            };
            let frame = tcp.frame([2; MAC], [4; MAC]).unwrap();
            assert_eq!(frame.len(), 54);
            assert_eq!(Tcp::read(&frame).unwrap(), (tcp, [4; MAC]));
            assert_eq!(
                tcp.answer().answer(),
                Tcp {
                    opens: false,
                    ..tcp
                }
            );
        }
        assert!(Tcp::read(&[0; 60]).is_err());
    }
}
