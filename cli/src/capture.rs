//! What `skein capture` writes: pcapng.

use anyhow::Context as _;
use pcap_file::{
    DataLink,
    pcapng::{
        PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
        },
    },
};
use skein_proto::inspect::CapturedPacket;
use std::{borrow::Cow, collections::BTreeMap, io::Write, time::Duration};

/// `if_tsresol`: powers of ten; times are in nanoseconds.
const NANOSECONDS: u8 = 9;

/// A file of packets.
pub struct File<W: Write> {
    writer: PcapNgWriter<W>,
    /// Numbers of devices, by where and on which packets were seen.
    interfaces: BTreeMap<String, u32>,
}

impl<W: Write> File<W> {
    /// Begins it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begin(writer: W) -> anyhow::Result<Self> {
        Ok(Self {
            writer: PcapNgWriter::new(writer).context("cannot begin the capture's file")?,
            interfaces: BTreeMap::new(),
        })
    }

    /// Adds a packet, with `comment`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add(&mut self, packet: &CapturedPacket, comment: &str) -> anyhow::Result<()> {
        let interface_id = self.interface(packet)?;
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(packet.nanos),
            original_len: packet.length,
            data: Cow::Borrowed(&packet.frame),
            options: vec![EnhancedPacketOption::Comment(Cow::Borrowed(comment))],
        };
        let written = self.writer.write_pcapng_block(block);
        written.context("cannot write a captured packet")?;
        Ok(())
    }

    fn interface(&mut self, packet: &CapturedPacket) -> anyhow::Result<u32> {
        let flow = packet.flow.clone().unwrap_or_default();
        let name = format!("{} {}", flow.seen_at, flow.device);
        if let Some(number) = self.interfaces.get(&name) {
            return Ok(*number);
        }
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            // No limit: each packet says how long it was.
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(name.trim_end())),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        };
        let written = self.writer.write_pcapng_block(block);
        written.context("cannot write into the capture's file")?;
        let number = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        self.interfaces.insert(name, number);
        Ok(number)
    }

    /// Hands on what is written so far.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.writer
            .get_mut()
            .flush()
            .context("cannot write the capture's file")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcapng::{Block, PcapNgReader};
    use skein_proto::inspect::Flow;

    #[test]
    fn packets_are_read_back_as_they_were_captured() {
        let packet = |nanos, seen_at: &str| CapturedPacket {
            nanos,
            frame: vec![1, 2, 3, 4, 5],
            length: 60,
            flow: Some(Flow {
                seen_at: seen_at.to_owned(),
                device: "eth0".to_owned(),
                ..Flow::default()
            }),
        };
        let times = [
            1_700_000_000_123_456_789,
            1_700_000_000_123_456_790,
            1_700_000_001_000_000_000,
        ];
        let mut bytes = Vec::new();
        let mut file = File::begin(&mut bytes).unwrap();
        for (nanos, seen_at) in times.into_iter().zip(["xdp", "uplink", "xdp"]) {
            file.add(&packet(nanos, seen_at), "forwarded").unwrap();
        }
        file.flush().unwrap();
        let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
        let (mut names, mut packets) = (Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            match block.unwrap().into_owned() {
                Block::InterfaceDescription(interface) => names.push(interface.options[0].clone()),
                Block::EnhancedPacket(packet) => packets.push(packet),
                _ => {}
            }
        }
        assert_eq!(names.len(), 2, "{names:?}");
        let ids: Vec<u32> = packets.iter().map(|packet| packet.interface_id).collect();
        assert_eq!(ids, [0, 1, 0]);
        let read = packets.iter().map(|packet| packet.timestamp.as_nanos());
        assert!(read.eq(times.map(u128::from)));
        assert_eq!(
            (&packets[0].data[..], packets[0].original_len),
            (&[1, 2, 3, 4, 5][..], 60)
        );
    }
}
