//! DNS messages: from a packet to a question, from an answer to a packet. Pure.
//!
//! Questions are read, and answers written, byte by byte: a server is asked tens of thousands of times a second, and
//! what most askers send, and get, has one form. So nothing is allocated for it.

use crate::zone::Answer;
use hickory_proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{DNSClass, Name, RecordType},
    serialize::binary::{BinDecodable as _, BinDecoder},
};
use rand::Rng;
use std::{fmt, net::Ipv4Addr};

/// Length of a message's header, in bytes.
const HEADER: usize = 12;
/// What is behind a question's name, in bytes: its type and class.
const KIND: usize = 4;
/// The longest name, in bytes (RFC 1035, 2.3.4).
const NAME_MAX: usize = 255;
/// And the longest label.
const LABEL_MAX: usize = 63;
/// What every resolver takes over UDP, in bytes (RFC 1035, 4.2.1).
const UDP_MIN: u16 = 512;
/// What is sent over UDP at most, in bytes: fits any path that carries IPv6, so nothing is ever
/// fragmented.
pub(crate) const UDP_MAX: u16 = 1232;
/// What EDNS takes of a message, in bytes, beside an extended error.
const EDNS: usize = 11;
/// What an extended error takes beside its text: code of the option, length, code of the error.
const ERROR: usize = 6;
/// How long an answer may be kept, in seconds: tasks come and go.
pub const TTL: u32 = 5;
/// Extended DNS errors (RFC 8914).
const EXTENDED_ERROR: u16 = 15;
/// Its code "Other": the text says it.
const OTHER: u16 = 0;
/// The question's name, at the place where it is in every reply (RFC 1035, 4.1.4).
const SAME_NAME: u16 = 0xc000 | HEADER as u16;
/// What a record takes beside its data: the question's name, type, class, TTL and length.
const RECORD: usize = 12;
/// A record with an address.
const ADDRESS: usize = RECORD + 4;

/// Flags of a header (RFC 1035, 4.1.1; RFC 4035, 3.2.2): a reply, an authority's, not all of it, the asker wants
/// recursion, there is recursion, signatures are the asker's to check.
const REPLY: u16 = 0x8000;
const AUTHORITATIVE: u16 = 0x0400;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const RECURSION_AVAILABLE: u16 = 0x0080;
const CHECKING_DISABLED: u16 = 0x0010;

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    #[allow(missing_docs, reason = "the name says it")]
    Udp,
    #[allow(missing_docs, reason = "the name says it")]
    Tcp,
}

/// What a packet holds.
#[derive(Debug)]
pub enum Packet<'a> {
    /// A question to answer.
    Question(Question<'a>),
    /// A message that gets this reply, whatever it asks.
    Refused(Vec<u8>),
    /// To be passed over: no message, or one that is itself a reply.
    Ignored,
}

/// A question as it came.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    id: [u8; 2],
    /// Those that a reply repeats.
    flags: u16,
    /// Name, type and class.
    asked: &'a [u8],
    /// The asker's version of EDNS, and the longest UDP message it takes, in bytes.
    edns: Option<(u8, u16)>,
    transport: Transport,
}

impl<'a> Packet<'a> {
    /// Reads a packet from an asker.
    pub fn read(packet: &'a [u8], transport: Transport) -> Self {
        let Some((&[id_high, id_low, flags_high, flags_low, counts @ ..], _)) =
            packet.split_first_chunk::<HEADER>()
        else {
            return Self::Ignored;
        };
        let (id, flags) = (
            [id_high, id_low],
            u16::from_be_bytes([flags_high, flags_low]),
        );
        if flags & REPLY != 0 {
            return Self::Ignored;
        }
        let code = OpCode::from_u8(flags_high >> 3 & 0xf);
        let refuse = |refusal| {
            let reply = Message::error_msg(u16::from_be_bytes(id), code, refusal);
            reply.to_vec().map_or(Self::Ignored, Self::Refused)
        };
        if code != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        // One question, no records but EDNS and a signature: checked before anything is reserved for
        // as many as the counts pretend.
        let [0, 1, 0, 0, 0, 0, 0, further @ 0..=2] = counts else {
            return refuse(ResponseCode::FormErr);
        };
        let Some(asked) = question_of(packet) else {
            return refuse(ResponseCode::FormErr);
        };
        let Some(edns) = edns_of(packet, HEADER + asked.len(), further) else {
            return refuse(ResponseCode::FormErr);
        };
        let question = Question {
            id,
            flags: flags & (RECURSION_DESIRED | CHECKING_DISABLED),
            asked,
            edns,
            transport,
        };
        let refused = if question.edns.is_some_and(|(version, _)| version > 0) {
            let why = "EDNS version 0 is what is spoken here";
            Some((ResponseCode::BADVERS, why))
        } else if question.class() != DNSClass::IN {
            Some((ResponseCode::Refused, "only class IN is served"))
        } else if matches!(question.kind(), RecordType::AXFR | RecordType::IXFR) {
            Some((ResponseCode::Refused, "zones are not transferred"))
        } else {
            None
        };
        match refused {
            Some((code, why)) => {
                let mut reply = Vec::new();
                question.error(code, why, &mut reply);
                Self::Refused(reply)
            }
            None => Self::Question(question),
        }
    }
}

impl Question<'_> {
    /// The type of what is asked.
    pub fn kind(&self) -> RecordType {
        self.word_from_end(KIND).into()
    }

    fn class(&self) -> DNSClass {
        self.word_from_end(KIND / 2).into()
    }

    fn word_from_end(&self, distance: usize) -> u16 {
        let from = self.asked.len() - distance;
        u16::from_be_bytes([self.asked[from], self.asked[from + 1]])
    }

    /// The name as the cluster has it. `None`: none of the cluster is like this.
    pub fn name(&self) -> Option<Lower> {
        Lower::of(self.labels())
    }

    fn labels(&self) -> impl Iterator<Item = &[u8]> {
        // What was read has an end, which is not in it.
        let mut rest = &self.asked[..self.asked.len() - KIND - 1];
        std::iter::from_fn(move || {
            let (&length, behind) = rest.split_first()?;
            let (label, behind) = behind.split_at_checked(usize::from(length))?;
            rest = behind;
            Some(label)
        })
    }

    /// Whether its name is one label, or none.
    pub fn is_single_label(&self) -> bool {
        self.labels().nth(1).is_none()
    }

    /// Writes the reply with an answer of the cluster's own, instead of what was there. False: the answer is not of
    /// the cluster, and nothing is written. Addresses come in random order, so that callers that take the first
    /// share the load.
    pub fn reply(&self, answer: Answer<'_>, rng: &mut impl Rng, reply: &mut Vec<u8>) -> bool {
        let code = match answer {
            Answer::Foreign => return false,
            Answer::NoSuchName => ResponseCode::NXDomain,
            _ => ResponseCode::NoError,
        };
        let room = self.room();
        let (wanted, fit) = match answer {
            Answer::Addresses(all) => (all.len(), all.len().min(room / ADDRESS)),
            Answer::Pointer(name) => (1, usize::from(RECORD + name.len() <= room)),
            _ => (0, 0),
        };
        let flags = match fit < wanted {
            true => AUTHORITATIVE | TRUNCATED,
            false => AUTHORITATIVE,
        };
        self.begin(code, flags, fit, reply);
        match answer {
            Answer::Addresses(all) => put_shuffled(all, fit, rng, reply),
            Answer::Pointer(name) if fit > 0 => put(RecordType::PTR, name, reply),
            _ => {}
        }
        self.end(code, None, reply);
        true
    }

    /// Writes a reply that says why there is no answer, instead of what was there.
    pub fn error(&self, code: ResponseCode, why: &str, reply: &mut Vec<u8>) {
        self.begin(code, 0, 0, reply);
        let room = self.room().saturating_sub(ERROR).min(why.len());
        self.end(code, Some(&why[..why.floor_char_boundary(room)]), reply);
    }

    /// What is left for answers, in bytes.
    fn room(&self) -> usize {
        let offered = self.edns.map_or(0, |(_, max)| max);
        let max = match self.transport {
            Transport::Udp => offered.clamp(UDP_MIN, UDP_MAX),
            Transport::Tcp => u16::MAX,
        };
        let edns = if self.edns.is_some() { EDNS } else { 0 };
        usize::from(max) - HEADER - self.asked.len() - edns
    }

    /// The header, and the question as it was asked.
    fn begin(&self, code: ResponseCode, flags: u16, answers: usize, reply: &mut Vec<u8>) {
        let flags = flags | self.flags | REPLY | RECURSION_AVAILABLE | u16::from(code.low());
        let (questions, authorities) = (1, 0);
        // They fit into a message, so they are no more.
        let answers = answers as u16;
        let further = u16::from(self.edns.is_some());
        reply.clear();
        reply.extend_from_slice(&self.id);
        for word in [flags, questions, answers, authorities, further] {
            reply.extend_from_slice(&word.to_be_bytes());
        }
        reply.extend_from_slice(self.asked);
    }

    /// EDNS, for those who speak it (RFC 6891, 6.1.2): a record of the root, of which the class is what is taken over
    /// UDP, and the TTL has the higher bits of the code, the version, and no flags.
    fn end(&self, code: ResponseCode, why: Option<&str>, reply: &mut Vec<u8>) {
        if self.edns.is_none() {
            return;
        }
        const ROOT: u8 = 0;
        const VERSION: u8 = 0;
        reply.push(ROOT);
        reply.extend_from_slice(&u16::from(RecordType::OPT).to_be_bytes());
        reply.extend_from_slice(&UDP_MAX.to_be_bytes());
        reply.extend_from_slice(&[code.high(), VERSION, 0, 0]);
        let text = why.map_or(0, |why| ERROR - 4 + why.len()) as u16;
        let data = if why.is_some() { 4 + text } else { 0 };
        reply.extend_from_slice(&data.to_be_bytes());
        if let Some(why) = why {
            for word in [EXTENDED_ERROR, text, OTHER] {
                reply.extend_from_slice(&word.to_be_bytes());
            }
            reply.extend_from_slice(why.as_bytes());
        }
    }
}

/// The name, for people.
impl fmt::Display for Question<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Name::from_bytes(self.asked).map_err(|_| fmt::Error)?;
        name.fmt(f)
    }
}

/// A record of the question's name.
fn put(kind: RecordType, data: &[u8], reply: &mut Vec<u8>) {
    for word in [SAME_NAME, kind.into(), DNSClass::IN.into()] {
        reply.extend_from_slice(&word.to_be_bytes());
    }
    reply.extend_from_slice(&TTL.to_be_bytes());
    // A name or an address.
    reply.extend_from_slice(&(data.len() as u16).to_be_bytes());
    reply.extend_from_slice(data);
}

/// So many of these addresses, each as likely at each place: the first places of a Fisher-Yates shuffle "inside out",
/// which needs no copy of them.
fn put_shuffled(all: &[Ipv4Addr], count: usize, rng: &mut impl Rng, reply: &mut Vec<u8>) {
    let begin = reply.len();
    let place = |nth: usize| begin + nth * ADDRESS + RECORD..begin + (nth + 1) * ADDRESS;
    for (nth, address) in all.iter().enumerate() {
        let to = rng.random_range(0..=nth);
        if nth < count {
            put(RecordType::A, &address.octets(), reply);
            reply.copy_within(place(to), place(nth).start);
        }
        if to < count {
            reply[place(to)].copy_from_slice(&address.octets());
        }
    }
}

/// A name in lower case, its labels with dots between them.
#[derive(Clone, Copy, Debug)]
pub struct Lower {
    bytes: [u8; NAME_MAX],
    length: usize,
}

impl Lower {
    /// `None`: a label has what the names of the cluster have not, or there is none.
    fn of<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let mut name = Self {
            bytes: [0; NAME_MAX],
            length: 0,
        };
        for label in labels {
            if label.contains(&b'.') || std::str::from_utf8(label).is_err() {
                return None;
            }
            if name.length > 0 {
                name.push(b".")?;
            }
            name.push(label)?;
        }
        name.bytes[..name.length].make_ascii_lowercase();
        (name.length > 0).then_some(name)
    }

    fn push(&mut self, part: &[u8]) -> Option<()> {
        let end = self.length + part.len();
        let room = self.bytes.get_mut(self.length..end)?;
        room.copy_from_slice(part);
        self.length = end;
        Some(())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        // Its labels were looked at one by one.
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

/// The asker's version of EDNS, and the longest UDP message it takes, by the records behind the question, which ends
/// at `from`. `None`: they cannot be read.
fn edns_of(packet: &[u8], from: usize, records: u8) -> Option<Option<(u8, u16)>> {
    if records == 0 {
        return Some(None);
    }
    let mut decoder = BinDecoder::new(packet);
    decoder.read_slice(from).ok()?;
    let read = Message::read_records(&mut decoder, records.into(), true, OpCode::Query);
    let (_, edns, _) = read.ok()?;
    Some(edns.map(|edns| (edns.version(), edns.max_payload())))
}

/// The part of a packet with one question. `None`: there is no such part.
pub(crate) fn question_of(packet: &[u8]) -> Option<&[u8]> {
    let mut end = HEADER;
    loop {
        let length = usize::from(*packet.get(end)?);
        end += 1;
        if length == 0 {
            break;
        }
        // A pointer has nothing before it to point to.
        if length > LABEL_MAX {
            return None;
        }
        end += length;
    }
    if end - HEADER > NAME_MAX {
        return None;
    }
    packet.get(HEADER..end + KIND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::{
        op::{Edns, MessageType, Query},
        rr::{RData, rdata::opt::EdnsOption},
        serialize::binary::BinEncodable as _,
    };
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};
    use std::collections::{BTreeMap, BTreeSet};

    fn packet(name: &str, record: RecordType, payload: Option<u16>) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), record));
        message.edns = payload.map(|payload| {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            edns
        });
        message.to_vec().unwrap()
    }

    fn question(packet: &[u8], transport: Transport) -> Question<'_> {
        match Packet::read(packet, transport) {
            Packet::Question(question) => question,
            other => panic!("{other:?}"),
        }
    }

    fn addresses(count: u16) -> Vec<Ipv4Addr> {
        let address = |n: u16| {
            let [high, low] = n.to_be_bytes();
            Ipv4Addr::new(10, 0, high, low)
        };
        (0..count).map(address).collect()
    }

    /// What is left of another reply does not matter.
    fn reply_of(question: &Question<'_>, answer: Answer<'_>) -> Vec<u8> {
        let mut reply = vec![7; 9];
        let mut rng = StdRng::seed_from_u64(1);
        assert!(question.reply(answer, &mut rng, &mut reply));
        reply
    }

    fn error_of(question: &Question<'_>, code: ResponseCode, why: &str) -> Vec<u8> {
        let mut reply = vec![7; 9];
        question.error(code, why, &mut reply);
        reply
    }

    fn refusal(packet: &[u8]) -> ResponseCode {
        match Packet::read(packet, Transport::Udp) {
            Packet::Refused(reply) => Message::from_vec(&reply).unwrap().metadata.response_code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn replies_repeat_the_question_and_its_flags() {
        let packet = packet("Web.", RecordType::A, None);
        let question = question(&packet, Transport::Udp);
        let bytes = reply_of(&question, Answer::Addresses(&addresses(2)));
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!(reply.metadata.id, 7);
        assert_eq!(reply.metadata.message_type, MessageType::Response);
        assert!(reply.metadata.recursion_desired && reply.metadata.recursion_available);
        assert!(reply.metadata.authoritative && !reply.metadata.truncation);
        assert_eq!(
            reply.queries[0].name.to_string(),
            "Web.",
            "as it was written"
        );
        assert_eq!((reply.answers.len(), reply.answers[0].ttl), (2, TTL));
        assert_eq!(reply.answers[1].name.to_string(), "Web.");
        assert!(reply.edns.is_none(), "none was offered");
        let mut untouched = vec![7];
        let mut rng = StdRng::seed_from_u64(1);
        assert!(!question.reply(Answer::Foreign, &mut rng, &mut untouched));
        assert_eq!(untouched, [7]);
    }

    #[test]
    fn each_answer_has_its_code_and_its_records() {
        let pointer = b"\x03web\x04back\0";
        for (answer, code, records) in [
            (Answer::NoSuchName, ResponseCode::NXDomain, ""),
            (Answer::Nothing, ResponseCode::NoError, ""),
            (Answer::Pointer(pointer), ResponseCode::NoError, "web.back."),
            (
                Answer::Addresses(&addresses(1)),
                ResponseCode::NoError,
                "10.0.0.0",
            ),
        ] {
            for payload in [None, Some(1232)] {
                let packet = packet("web.", RecordType::A, payload);
                let bytes = reply_of(&question(&packet, Transport::Udp), answer);
                let reply = Message::from_vec(&bytes).unwrap();
                assert_eq!(reply.metadata.response_code, code);
                let found = reply.answers.iter().map(|of| of.data.to_string());
                assert_eq!(found.collect::<Vec<_>>().join(" "), records);
                assert_eq!(reply.edns.is_some(), payload.is_some());
            }
        }
    }

    #[test]
    fn every_address_is_as_often_at_each_place() {
        const TURNS: u32 = 3_000;
        let packet = packet("tasks.web.", RecordType::A, None);
        let question = question(&packet, Transport::Udp);
        // All of them, and more than there is room for.
        for (count, shown) in [(5, 5), (60, 30)] {
            let all = addresses(count);
            let mut rng = StdRng::seed_from_u64(7);
            let mut seen = BTreeMap::<(usize, Ipv4Addr), u32>::new();
            let mut bytes = Vec::new();
            for _ in 0..TURNS {
                assert!(question.reply(Answer::Addresses(&all), &mut rng, &mut bytes));
                let reply = Message::from_vec(&bytes).unwrap();
                let mut different = BTreeSet::new();
                for (place, record) in reply.answers.iter().enumerate() {
                    let RData::A(address) = record.data else {
                        panic!("{record}");
                    };
                    different.insert(address.0);
                    *seen.entry((place, address.0)).or_default() += 1;
                }
                assert_eq!(different.len(), shown);
            }
            assert_eq!(seen.len(), shown * all.len());
            let expected = f64::from(TURNS) / all.len() as f64;
            for ((place, address), times) in seen {
                let off = (f64::from(times) - expected).abs() / expected.sqrt();
                assert!(off < 5.0, "{address} is {times} times at {place}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_said_so() {
        for (payload, transport, max) in [
            (None, Transport::Udp, 512),
            (Some(100), Transport::Udp, 512),
            (Some(900), Transport::Udp, 900),
            (Some(4096), Transport::Udp, 1232),
            (Some(512), Transport::Tcp, 65_535),
        ] {
            let packet = packet("web.", RecordType::A, payload);
            let question = question(&packet, transport);
            for count in [1, 30, 60, 100, 4_000, 5_000] {
                let bytes = reply_of(&question, Answer::Addresses(&addresses(count)));
                assert!(bytes.len() <= max, "{} bytes of {max}", bytes.len());
                let reply = Message::from_vec(&bytes).unwrap();
                let all = reply.answers.len() == usize::from(count);
                assert_eq!(reply.metadata.truncation, !all, "{count} in {max}");
                let room = max - bytes.len();
                assert!(all || room < ADDRESS, "{room} left empty of {max}");
                assert_eq!(reply.edns.is_some(), payload.is_some(), "{count} in {max}");
            }
        }
    }

    #[test]
    fn the_longest_names_are_answered_and_told_of() {
        // 255 bytes: what is asked, and what the address is called.
        let labels = [63, 63, 63, 61].map(|length| "x".repeat(length));
        let longest = labels.join(".") + ".";
        let packet = packet(&longest, RecordType::PTR, Some(512));
        let question = question(&packet, Transport::Udp);
        assert_eq!(question.to_string(), longest);
        assert_eq!(question.asked.len(), NAME_MAX + KIND);
        assert_eq!(question.name().unwrap().as_str().len(), longest.len() - 1);
        let wire = Name::from_ascii(&longest).unwrap().to_bytes().unwrap();
        let reply = Message::from_vec(&reply_of(&question, Answer::Pointer(&wire))).unwrap();
        assert!(reply.metadata.truncation && reply.answers.is_empty());
        let long = "why \u{e9}".repeat(200);
        let bytes = error_of(&question, ResponseCode::ServFail, &long);
        assert!(bytes.len() <= 512, "{} bytes", bytes.len());
        assert!(Message::from_vec(&bytes).unwrap().edns.is_some());
    }

    #[test]
    fn errors_say_why_to_those_who_can_read_it() {
        let (failed, why) = (ResponseCode::ServFail, "no server answered");
        let with = packet("web.", RecordType::A, Some(1232));
        let bytes = error_of(&question(&with, Transport::Udp), failed, why);
        let edns = Message::from_vec(&bytes).unwrap().edns.unwrap();
        let text = [&OTHER.to_be_bytes()[..], why.as_bytes()].concat();
        let option = EdnsOption::Unknown(EXTENDED_ERROR, text);
        assert_eq!(
            edns.options().options[..],
            [(EXTENDED_ERROR.into(), option)]
        );
        let without = packet("web.", RecordType::A, None);
        let bytes = error_of(&question(&without, Transport::Udp), failed, why);
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!(reply.metadata.response_code, failed);
        // A code of which EDNS has a part.
        let mut newer = packet("web.", RecordType::A, Some(1232));
        let version = newer.len() - 5;
        newer[version] = 1;
        // (Whose number is that of another code in a signature.)
        let code = u16::from(refusal(&newer));
        assert_eq!(code, u16::from(ResponseCode::BADVERS));
    }

    #[test]
    fn names_are_in_lower_case_and_of_the_cluster_alone() {
        let name = |labels: &[&[u8]]| {
            let name = Lower::of(labels.iter().copied());
            name.map(|name| name.as_str().to_owned())
        };
        assert_eq!(name(&[b"Tasks", b"WEB"]).unwrap(), "tasks.web");
        assert_eq!(name(&["\u{e9}".as_bytes()]).unwrap(), "\u{e9}");
        assert_eq!(name(&[]), None);
        let dotted: &[&[u8]] = &[b"web.1", b"id"];
        assert_eq!(name(dotted), None, "a dot that separates nothing");
        assert_eq!(name(&[b"\xff"]), None);
        let single = |asked| {
            let packet = packet(asked, RecordType::A, None);
            question(&packet, Transport::Udp).is_single_label()
        };
        assert!(single("web.") && single(".") && !single("web.back."));
    }

    #[test]
    fn what_is_no_question_is_refused_or_passed_over() {
        let good = packet("web.", RecordType::A, None);
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        assert!(matches!(
            Packet::read(&good[..11], Transport::Udp),
            Packet::Ignored
        ));
        let reply = with(2, 0x80);
        assert!(matches!(
            Packet::read(&reply, Transport::Udp),
            Packet::Ignored
        ));
        assert_eq!(refusal(&with(2, 5 << 3)), ResponseCode::NotImp);
        assert_eq!(refusal(&with(5, 2)), ResponseCode::FormErr);
        assert_eq!(refusal(&with(4, 255)), ResponseCode::FormErr);
        assert_eq!(refusal(&with(12, 63)), ResponseCode::FormErr);
        assert_eq!(
            refusal(&packet("web.", RecordType::AXFR, None)),
            ResponseCode::Refused
        );
        let chaos = with(good.len() - 1, 3);
        assert_eq!(refusal(&chaos), ResponseCode::Refused);
    }

    proptest! {
        #[test]
        fn no_packet_breaks_the_reader(bytes: Vec<u8>, at in 0..40_usize, byte: u8) {
            for transport in [Transport::Udp, Transport::Tcp] {
                drop(Packet::read(&bytes, transport));
                let mut packet = packet("tasks.web.net.", RecordType::A, Some(1232));
                if let Some(old) = packet.get_mut(at) {
                    *old = byte;
                }
                if let Packet::Question(question) = Packet::read(&packet, transport) {
                    let _ = (question.name(), question.to_string());
                    let bytes = reply_of(&question, Answer::Addresses(&addresses(3)));
                    prop_assert!(Message::from_vec(&bytes).is_ok());
                }
            }
        }
    }
}
