//! DNS messages: from a packet to a question, from an answer to a packet. Pure.

use crate::zone::Answer;
use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{DNSClass, Record, RecordType, rdata::opt::EdnsOption},
    serialize::binary::{BinEncodable as _, BinEncoder},
};

/// Length of a message's header, in bytes.
const HEADER: usize = 12;
/// What every resolver takes over UDP, in bytes (RFC 1035, 4.2.1).
const UDP_MIN: u16 = 512;
/// What is sent over UDP at most, in bytes: fits any path that carries IPv6, so nothing is ever
/// fragmented.
const UDP_MAX: u16 = 1232;
/// What EDNS takes of a message, in bytes, beside an extended error.
const EDNS_ROOM: u16 = 11;
/// How long an answer may be kept, in seconds: tasks come and go.
pub const TTL: u32 = 5;
/// Extended DNS errors (RFC 8914).
const EXTENDED_ERROR: u16 = 15;
/// Its code "Other": the text says it.
const OTHER: u16 = 0;

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
pub enum Packet {
    /// A question to answer.
    Question(Box<Question>),
    /// A message that gets this reply, whatever it asks.
    Refused(Vec<u8>),
    /// To be passed over: no message, or one that is itself a reply.
    Ignored,
}

/// A question as it came.
#[derive(Clone, Debug)]
pub struct Question {
    /// What is asked.
    pub query: Query,
    request: Metadata,
    /// The asker's version of EDNS, and the longest UDP message it takes, in bytes.
    edns: Option<(u8, u16)>,
    transport: Transport,
}

impl Packet {
    /// Reads a packet from an asker.
    pub fn read(packet: &[u8], transport: Transport) -> Self {
        let Some((&[id_high, id_low, flags, _, counts @ ..], _)) =
            packet.split_first_chunk::<HEADER>()
        else {
            return Self::Ignored;
        };
        let is_reply = flags & 0x80 != 0;
        if is_reply {
            return Self::Ignored;
        }
        let refuse = |code| {
            let id = u16::from_be_bytes([id_high, id_low]);
            let reply = Message::error_msg(id, OpCode::from_u8(flags >> 3 & 0xf), code);
            reply.to_vec().map_or(Self::Ignored, Self::Refused)
        };
        if OpCode::from_u8(flags >> 3 & 0xf) != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        // One question, no records but EDNS and a signature: checked before anything is reserved for
        // as many as the counts pretend.
        let [_, 1, 0, 0, 0, 0, 0, 0..=2] = counts else {
            return refuse(ResponseCode::FormErr);
        };
        let Ok(message) = Message::from_vec(packet) else {
            return refuse(ResponseCode::FormErr);
        };
        let [ref query] = message.queries[..] else {
            return refuse(ResponseCode::FormErr);
        };
        let question = Question {
            query: query.clone(),
            request: message.metadata,
            edns: message
                .edns
                .map(|edns| (edns.version(), edns.max_payload())),
            transport,
        };
        let refused = if question.edns.is_some_and(|(version, _)| version > 0) {
            let why = "EDNS version 0 is what is spoken here";
            Some((ResponseCode::BADVERS, why))
        } else if question.query.query_class != DNSClass::IN {
            Some((ResponseCode::Refused, "only class IN is served"))
        } else if matches!(
            question.query.query_type,
            RecordType::AXFR | RecordType::IXFR
        ) {
            Some((ResponseCode::Refused, "zones are not transferred"))
        } else {
            None
        };
        match refused {
            Some((code, why)) => Self::Refused(question.error(code, why)),
            None => Self::Question(Box::new(question)),
        }
    }
}

impl Question {
    /// How the reply travels.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The reply with an answer of the cluster's own. `None`: the answer is not of the cluster.
    pub fn reply(&self, answer: Answer) -> Option<Vec<u8>> {
        let (code, records) = match answer {
            Answer::Records(records) => (ResponseCode::NoError, records),
            Answer::NoSuchName => (ResponseCode::NXDomain, Vec::new()),
            Answer::Foreign => return None,
        };
        let mut reply = self.empty(code);
        reply.metadata.authoritative = true;
        let name = &self.query.name;
        let record = |data| Record::from_rdata(name.clone(), TTL, data);
        reply.answers = records.into_iter().map(record).collect();
        Some(self.fit(reply))
    }

    /// A reply that says why there is no answer.
    pub fn error(&self, code: ResponseCode, why: &str) -> Vec<u8> {
        let mut reply = self.empty(code);
        if let Some(edns) = &mut reply.edns {
            let mut text = OTHER.to_be_bytes().to_vec();
            text.extend_from_slice(why.as_bytes());
            let options = edns.options_mut();
            options.insert(EdnsOption::Unknown(EXTENDED_ERROR, text));
        }
        self.fit(reply)
    }

    fn empty(&self, code: ResponseCode) -> Message {
        let request = &self.request;
        let mut reply = Message::new(request.id, MessageType::Response, OpCode::Query);
        reply.metadata.recursion_desired = request.recursion_desired;
        reply.metadata.checking_disabled = request.checking_disabled;
        reply.metadata.recursion_available = true;
        reply.metadata.response_code = code;
        reply.add_query(self.query.clone());
        if self.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_MAX);
            reply.edns = Some(edns);
        }
        reply
    }

    /// Leaves out answers that do not fit, and says so.
    fn fit(&self, mut reply: Message) -> Vec<u8> {
        let offered = self.edns.map_or(0, |(_, max)| max);
        let max = match self.transport {
            Transport::Udp => offered.clamp(UDP_MIN, UDP_MAX),
            Transport::Tcp => u16::MAX,
        };
        // The encoder leaves out from the end, where EDNS stands: it is put back afterwards.
        let Some(edns) = reply.edns.take() else {
            return encode(&reply, max);
        };
        let bytes = encode(&reply, max - EDNS_ROOM);
        let fit = match bytes.get(6..8) {
            Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
            _ => 0,
        };
        reply.metadata.truncation = fit < reply.answers.len();
        reply.answers.truncate(fit);
        reply.edns = Some(edns);
        encode(&reply, max)
    }
}

fn encode(message: &Message, max: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(usize::from(UDP_MIN));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(max);
    match message.emit(&mut encoder) {
        Ok(()) => bytes,
        Err(error) => {
            tracing::warn!(%error, "a reply cannot be encoded");
            Vec::new()
        }
    }
}

/// The part of a packet with one question: where it ends. `None`: there is no such part.
pub(crate) fn question_of(packet: &[u8]) -> Option<&[u8]> {
    let mut end = HEADER;
    loop {
        let length = usize::from(*packet.get(end)?);
        end += 1;
        match length {
            0 => break,
            // A pointer has nothing before it to point to.
            64.. => return None,
            _ => end += length,
        }
    }
    // Type and class.
    packet.get(HEADER..end + 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::{Name, RData, rdata::A};
    use std::net::Ipv4Addr;

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

    fn question(packet: &[u8], transport: Transport) -> Question {
        match Packet::read(packet, transport) {
            Packet::Question(question) => *question,
            other => panic!("{other:?}"),
        }
    }

    fn addresses(count: u16) -> Answer {
        let address = |n: u16| {
            let [high, low] = n.to_be_bytes();
            RData::A(A(Ipv4Addr::new(10, 0, high, low)))
        };
        Answer::Records((0..count).map(address).collect())
    }

    fn refusal(packet: &[u8]) -> ResponseCode {
        match Packet::read(packet, Transport::Udp) {
            Packet::Refused(reply) => Message::from_vec(&reply).unwrap().metadata.response_code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn replies_repeat_the_question_and_its_flags() {
        let question = question(&packet("Web.", RecordType::A, None), Transport::Udp);
        let reply = Message::from_vec(&question.reply(addresses(2)).unwrap()).unwrap();
        assert_eq!(reply.metadata.id, 7);
        assert!(reply.metadata.recursion_desired && reply.metadata.recursion_available);
        assert!(reply.metadata.authoritative && !reply.metadata.truncation);
        assert_eq!(
            reply.queries[0].name.to_string(),
            "Web.",
            "as it was written"
        );
        assert_eq!((reply.answers.len(), reply.answers[0].ttl), (2, TTL));
        assert!(reply.edns.is_none(), "none was offered");
        assert!(question.reply(Answer::Foreign).is_none());
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
            let question = question(&packet("web.", RecordType::A, payload), transport);
            for count in [1, 30, 60, 100, 4_000, 5_000] {
                let bytes = question.reply(addresses(count)).unwrap();
                assert!(bytes.len() <= max, "{} bytes of {max}", bytes.len());
                let reply = Message::from_vec(&bytes).unwrap();
                let all = reply.answers.len() == usize::from(count);
                assert_eq!(reply.metadata.truncation, !all, "{count} in {max}");
                let room = max - bytes.len();
                assert!(all || room < 48, "{room} left empty of {max}");
                assert_eq!(reply.edns.is_some(), payload.is_some(), "{count} in {max}");
            }
        }
    }

    #[test]
    fn errors_say_why_to_those_who_can_read_it() {
        let with = question(&packet("web.", RecordType::A, Some(1232)), Transport::Udp);
        let bytes = with.error(ResponseCode::ServFail, "no server answered");
        assert!(bytes.windows(18).any(|text| text == b"no server answered"));
        let without = question(&packet("web.", RecordType::A, None), Transport::Udp);
        let bytes = without.error(ResponseCode::ServFail, "no server answered");
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
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

    proptest::proptest! {
        #[test]
        fn no_packet_breaks_the_reader(bytes: Vec<u8>, at in 0..40_usize, byte: u8) {
            for transport in [Transport::Udp, Transport::Tcp] {
                drop(Packet::read(&bytes, transport));
                let mut packet = packet("tasks.web.net.", RecordType::A, Some(1232));
                if let Some(old) = packet.get_mut(at) {
                    *old = byte;
                }
                let _ = question_of(&packet);
                drop(Packet::read(&packet, transport));
            }
        }
    }
}
