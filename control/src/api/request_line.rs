//! Request targets as some clients write them: `filters={"name":["web"]}` as it is, which Go's server takes and the
//! HTTP library here refuses before anybody is asked. So what clients send goes through [`Encoding`], which
//! percent-encodes what must be in the first line of each request, and touches nothing else.
//!
//! For that it must know where a request ends. Where a head leaves that open, or says that the connection becomes
//! something else, all that comes after it stays as it is, and is judged by the library.

use percent_encoding::{AsciiSet, percent_encode};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, ReadBuf};

/// What a target must not have as it is, beside bytes that are no ASCII. `#` begins no fragment here: targets have
/// none. Control characters are left to the library, which refuses them, as Go does.
const REFUSED: &AsciiSet = &AsciiSet::EMPTY
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'#')
    .add(b'`');

/// The longest line that is waited for: the library refuses heads that are half as long.
const LINE_MAX: usize = 1 << 20;

/// Bytes that are read at a time while lines are looked for: most heads are shorter.
const READ_BYTES: usize = 8 << 10;

/// Where in a connection's bytes the next one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ParserState {
    RequestLine,
    Head(Head),
    /// Of a body, so many bytes are left.
    Body(u64),
    ChunkSize,
    /// Of a chunk, and the end of its line, so many bytes are left.
    Chunk(u64),
    Trailers,
    /// No request is looked for any more.
    Unknown,
}

/// What a head has said of its body so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Head {
    length: Option<u64>,
    chunked: bool,
    /// It said what is not known here.
    other: bool,
}

impl Head {
    /// Takes up one field.
    fn take(&mut self, line: &[u8]) {
        let colon = line.iter().position(|byte| *byte == b':');
        let Some((name, value)) = colon.map(|at| (&line[..at], &line[at + 1..])) else {
            self.other = true;
            return;
        };
        let value = std::str::from_utf8(value).map_or("", str::trim);
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = value.parse().ok();
            self.other |=
                length.is_none() || self.length.is_some_and(|known| Some(known) != length);
            self.length = length;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.other |= self.chunked || !value.eq_ignore_ascii_case("chunked");
            self.chunked = true;
        } else {
            // A field that goes on in the next line begins it with a space.
            self.other |= name.eq_ignore_ascii_case(b"upgrade")
                || name.first().is_some_and(u8::is_ascii_whitespace);
        }
    }

    /// What comes after it.
    fn end(self) -> ParserState {
        match (self.chunked, self.length) {
            _ if self.other => ParserState::Unknown,
            (true, None) => ParserState::ChunkSize,
            (true, Some(_)) => ParserState::Unknown,
            (false, None | Some(0)) => ParserState::RequestLine,
            (false, Some(length)) => ParserState::Body(length),
        }
    }
}

/// A connection's bytes on their way. Pure.
struct Lines {
    place: ParserState,
    /// A line whose end has not come yet.
    line: Vec<u8>,
}

impl Lines {
    fn new() -> Self {
        Self {
            place: ParserState::RequestLine,
            line: Vec::new(),
        }
    }

    /// So many bytes to come stay as they are, whatever they are; 0: lines come.
    fn untouched(&self) -> u64 {
        match self.place {
            ParserState::Body(left) | ParserState::Chunk(left) => left,
            ParserState::Unknown => u64::MAX,
            _ => 0,
        }
    }

    /// That many of them have passed.
    fn pass(&mut self, bytes: u64) {
        self.place = match self.place {
            ParserState::Body(left) if left == bytes => ParserState::RequestLine,
            ParserState::Body(left) => ParserState::Body(left - bytes),
            ParserState::Chunk(left) if left == bytes => ParserState::ChunkSize,
            ParserState::Chunk(left) => ParserState::Chunk(left - bytes),
            place => place,
        };
    }

    /// What is to be passed on of `input`, and of what was kept back before it.
    fn feed(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        while !input.is_empty() {
            let untouched = self.untouched();
            if untouched > 0 {
                let count = usize::try_from(untouched).map_or(input.len(), |n| n.min(input.len()));
                let (passing, rest) = input.split_at(count);
                out.extend_from_slice(passing);
                self.pass(count as u64);
                input = rest;
                continue;
            }
            let end = input.iter().position(|byte| *byte == b'\n');
            let (part, rest) = input.split_at(end.map_or(input.len(), |end| end + 1));
            self.line.extend_from_slice(part);
            input = rest;
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                self.place = self.after(&line, out);
            } else if self.line.len() > LINE_MAX {
                self.give_up(out);
            }
        }
    }

    /// Nothing more of a line comes.
    fn give_up(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.line);
        self.place = ParserState::Unknown;
    }

    /// Passes a line on; what comes after it.
    fn after(&self, line: &[u8], out: &mut Vec<u8>) -> ParserState {
        let text = line.trim_ascii_end();
        if self.place == ParserState::RequestLine {
            // Some clients end a body with an empty line too many.
            if text.is_empty() {
                out.extend_from_slice(line);
                return ParserState::RequestLine;
            }
            encode(line, out);
            return ParserState::Head(Head::default());
        }
        out.extend_from_slice(line);
        match self.place {
            ParserState::Head(head) if text.is_empty() => head.end(),
            ParserState::Head(mut head) => {
                head.take(text);
                ParserState::Head(head)
            }
            ParserState::ChunkSize => match chunk_size(text) {
                Some(0) => ParserState::Trailers,
                // Its line ends with CR and LF.
                Some(size) => size
                    .checked_add(2)
                    .map_or(ParserState::Unknown, ParserState::Chunk),
                None => ParserState::Unknown,
            },
            ParserState::Trailers if text.is_empty() => ParserState::RequestLine,
            place => place,
        }
    }
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(line).ok()?;
    let digits = text.split(';').next()?.trim();
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_number.then(|| u64::from_str_radix(digits, 16).ok())?
}

/// The line with its target encoded; as it is where it has none.
fn encode(line: &[u8], out: &mut Vec<u8>) {
    let mut spaces = (0..line.len()).filter(|at| line[*at] == b' ');
    let (Some(start), Some(end)) = (spaces.next(), spaces.next()) else {
        out.extend_from_slice(line);
        return;
    };
    out.extend_from_slice(&line[..=start]);
    for part in percent_encode(&line[start + 1..end], REFUSED) {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(&line[end..]);
}

/// What a client sends, with the targets of its requests encoded.
pub struct Encoding<R> {
    inner: R,
    lines: Lines,
    /// What is ready, and how much of it was read.
    ready: Vec<u8>,
    read: usize,
}

impl<R> Encoding<R> {
    /// `inner` begins with a request.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            lines: Lines::new(),
            ready: Vec::new(),
            read: 0,
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Encoding<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let this = &mut *self;
            if this.read < this.ready.len() {
                let ready = &this.ready[this.read..];
                let count = ready.len().min(buf.remaining());
                buf.put_slice(&ready[..count]);
                this.read += count;
                return Poll::Ready(Ok(()));
            }
            (this.read, this.ready) = (0, Vec::new());
            let untouched = this.lines.untouched();
            if untouched > 0 {
                let most = usize::try_from(untouched).unwrap_or(usize::MAX);
                let most = most.min(buf.remaining());
                let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
                ready!(Pin::new(&mut this.inner).poll_read(cx, &mut part))?;
                let count = part.filled().len();
                buf.advance(count);
                this.lines.pass(count as u64);
                return Poll::Ready(Ok(()));
            }
            let mut chunk = [0; READ_BYTES];
            let mut part = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut part))?;
            match part.filled() {
                [] if this.lines.line.is_empty() => return Poll::Ready(Ok(())),
                [] => this.lines.give_up(&mut this.ready),
                filled => this.lines.feed(filled, &mut this.ready),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;
    use tokio::io::AsyncReadExt as _;

    /// What becomes of `input` that comes in pieces of `size`.
    fn in_pieces(input: &[u8], size: usize) -> Vec<u8> {
        let (mut lines, mut out) = (Lines::new(), Vec::new());
        for piece in input.chunks(size) {
            lines.feed(piece, &mut out);
        }
        out.extend(lines.line);
        out
    }

    /// Targets with `"`, encoded; all else with them stays as it is, bodies that look like requests too.
    #[test]
    fn the_targets_of_all_requests_of_a_connection_are_encoded_and_nothing_else() {
        let ask = "GET /services?filters={\"name\":[\"a<b>`#\"]}&é HTTP/1.1\r\n";
        let asked = "GET /services?filters={%22name%22:[%22a%3Cb%3E%60%23%22]}&%C3%A9 HTTP/1.1\r\n";
        let body = "GET /\"a\" HTTP/1.1\r\n\r\n";
        let head = "x-quoted: \"a\"\r\nhost: docker\r\n";
        let length = body.len();
        let (plain, sized, chunked) = (
            format!("{head}\r\n"),
            format!("{head}Content-LENGTH: {length}\r\n\r\n{body}"),
            format!(
                "{head}transfer-encoding: Chunked\r\n\r\n{length:x};ext=\"1\"\r\n{body}\r\n0\r\nt: \"x\"\r\n\r\n"
            ),
        );
        let empty = format!("{head}content-length: 0\r\n\r\n\r\n");
        let rests = [&plain, &sized, &chunked, &empty, &sized, &plain];
        let text = |line: &str| rests.map(|rest| format!("{line}{rest}")).concat();
        for size in [1, 2, 7, 64, 4096] {
            let encoded = in_pieces(text(ask).as_bytes(), size);
            assert_eq!(String::from_utf8(encoded).unwrap(), text(asked), "{size}");
        }
    }

    #[test]
    fn where_a_body_s_end_is_not_known_the_rest_stays_as_it_is() {
        let next = "GET /\"a\" HTTP/1.1\r\n\r\n";
        for fields in [
            "connection: upgrade\r\nupgrade: tcp\r\n",
            "content-length: 1\r\ncontent-length: 2\r\n",
            "content-length: many\r\n",
            "content-length: 1\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "x: y\r\n  content-length: 7\r\n",
            "no field\r\n",
            "transfer-encoding: chunked\r\n\r\n-1\r\n",
        ] {
            let text = format!("POST /x HTTP/1.1\r\n{fields}\r\n{next}");
            assert_eq!(in_pieces(text.as_bytes(), 9), text.as_bytes(), "{fields:?}");
        }
        let endless = vec![b'a'; LINE_MAX * 2];
        assert!(in_pieces(&endless, 4096) == endless);
    }

    proptest! {
        #[test]
        fn what_has_nothing_to_be_encoded_passes_as_it_is(
            input in proptest::collection::vec("[ -!$-;=?-_a-~\r\n]{0,40}\r?\n?", 0..20),
            size in 1usize..50,
        ) {
            let input = input.concat().replace(['"', '`'], "");
            prop_assert_eq!(in_pieces(input.as_bytes(), size), input.as_bytes());
        }

        /// However the reader and the wire cut it.
        #[test]
        fn all_is_read(size in 1usize..40, body in 0usize..200) {
            let body = "\"".repeat(body);
            let text = format!("POST /\"a\" HTTP/1.1\r\ncontent-length: {}\r\n\r\n{body}GET /\"b\"", body.len());
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read = runtime.block_on(async {
                let mut encoding = Encoding::new(Cursor::new(text.clone().into_bytes()));
                let (mut all, mut piece) = (Vec::new(), vec![0; size]);
                loop {
                    match encoding.read(&mut piece).await.unwrap() {
                        0 => return all,
                        count => all.extend_from_slice(&piece[..count]),
                    }
                }
            });
            let expected = text.replacen("/\"a\"", "/%22a%22", 1);
            prop_assert_eq!(String::from_utf8(read).unwrap(), expected);
        }
    }
}
