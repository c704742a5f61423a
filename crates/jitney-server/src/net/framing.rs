//! Where one HTTP/1.1 message ends and the next begins, read more strictly than hyper reads it.
//!
//! Two parsers that disagree about the end of a message are how requests are smuggled past a proxy. So everything that has been read in two
//! ways in the wild is refused here, before hyper sees it: bare line feeds, folded lines, spaces around names, a length given twice or in two
//! ways, no host or two. What passes has only one reading. Pure: fed bytes, it answers how many of them may go on.

use http::Uri;
use memchr::memchr;

/// What every HTTP/2 connection begins with.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Most bytes of chunk extensions and trailers in one message; nobody needs any.
const CHUNK_EXTRAS_MAX: u32 = 8 * 1024;

/// How large the head of a message may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    /// Bytes, from the request line to the empty line.
    pub(crate) bytes: usize,
    /// Header lines.
    pub(crate) fields: usize,
}

/// Why a connection cannot go on. The text is shown to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The bytes are not an HTTP/1.1 request, or could be read in two ways.
    Malformed(&'static str),
    /// The head exceeds its limits.
    HeadTooLarge,
    /// The head did not arrive in time. Found by the driver, which has the clock.
    HeadTooSlow,
}

/// What may be done with the bytes that were looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// This many bytes from the front may go on; the rest must be shown again, with more behind it.
    pub(crate) release: usize,
    /// What is wrong with the byte stream behind them.
    pub(crate) fault: Option<Fault>,
}

/// Follows the byte stream of one connection.
#[derive(Debug)]
pub(crate) struct Framing {
    state: State,
    limits: HeadLimits,
    /// Bytes of the current head in which no line end was left to find.
    scanned: usize,
    /// Where the current line of the head began.
    line: usize,
    /// Whether no head was whole yet.
    first: bool,
}

#[derive(Debug)]
enum State {
    /// Nothing was decided yet: it may become HTTP/2. => Http2, Head
    Fresh,
    /// In or before a message's head. => Sized, Chunked, Head (no body)
    Head,
    /// In a body with this many bytes to come. => Head
    Sized(u64),
    /// In a chunked body. => Head
    Chunked { at: Chunk, extras: u32 },
    /// HTTP/2 has frames, which hyper checks. Final.
    Http2,
    /// The connection speaks another protocol now. Final.
    Upgraded,
    /// A fault was found. Final.
    Broken,
}

/// The place inside a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    Size { value: u64, digits: u8 },
    Extension { value: u64 },
    SizeEnd { value: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

impl Framing {
    pub(crate) fn new(limits: HeadLimits) -> Framing {
        Framing {
            state: State::Fresh,
            limits,
            scanned: 0,
            line: 0,
            first: true,
        }
    }

    /// Whether the stream stands inside the body of a message whose head hyper has seen, or behind a fault.
    pub(crate) fn in_body(&self) -> bool {
        matches!(
            self.state,
            State::Sized(_) | State::Chunked { .. } | State::Broken
        )
    }

    /// Whether no message was read yet.
    pub(crate) fn in_first_head(&self) -> bool {
        self.first
    }

    /// Looks at the bytes that were not released yet, the oldest first.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Step {
        let mut release = 0;
        loop {
            match self.next(&bytes[release..]) {
                Ok(0) => {
                    return Step {
                        release,
                        fault: None,
                    };
                }
                Ok(more) => release += more,
                Err(fault) => {
                    return Step {
                        release,
                        fault: Some(fault),
                    };
                }
            }
        }
    }

    /// Moves over one piece of one message; 0 says that it takes more bytes.
    fn next(&mut self, rest: &[u8]) -> Result<usize, Fault> {
        if rest.is_empty() {
            return Ok(0);
        }
        match &mut self.state {
            State::Fresh => self.decide(rest),
            State::Head => self.head(rest),
            State::Sized(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                *left -= here as u64;
                if *left == 0 {
                    self.state = State::Head;
                }
                Ok(here)
            }
            State::Chunked { at, extras } => {
                let here = chunked(at, extras, rest)?;
                if *at == Chunk::Done {
                    self.state = State::Head;
                }
                Ok(here)
            }
            State::Http2 | State::Upgraded => Ok(rest.len()),
            State::Broken => Ok(0),
        }
    }

    fn decide(&mut self, rest: &[u8]) -> Result<usize, Fault> {
        if rest.starts_with(HTTP2_PREFACE) {
            self.state = State::Http2;
            return Ok(rest.len());
        }
        if HTTP2_PREFACE.starts_with(rest) {
            return Ok(0);
        }
        self.state = State::Head;
        self.head(rest)
    }

    /// Releases a head only when it is whole and has been checked.
    fn head(&mut self, rest: &[u8]) -> Result<usize, Fault> {
        if !is(TOKEN, rest[0]) {
            return Err(Fault::Malformed("a request line was expected"));
        }
        while let Some(found) = memchr(b'\n', &rest[self.scanned..]) {
            let end = self.scanned + found;
            if end == 0 || rest[end - 1] != b'\r' {
                return Err(Fault::Malformed("a line ends in a bare line feed"));
            }
            let empty = end - self.line == 1;
            (self.scanned, self.line) = (end + 1, end + 1);
            if empty {
                return self.whole_head(&rest[..=end]);
            }
        }
        self.scanned = rest.len();
        if rest.len() > self.limits.bytes {
            return Err(Fault::HeadTooLarge);
        }
        Ok(0)
    }

    fn whole_head(&mut self, head: &[u8]) -> Result<usize, Fault> {
        if head.len() > self.limits.bytes {
            return Err(Fault::HeadTooLarge);
        }
        self.state = check_head(head, self.limits.fields)?;
        (self.scanned, self.line, self.first) = (0, 0, false);
        Ok(head.len())
    }

    /// What comes from now on is no HTTP.
    pub(crate) fn upgrade(&mut self) {
        self.state = State::Upgraded;
    }

    /// Nothing behind a fault is read as a message.
    pub(crate) fn stop(&mut self) {
        self.state = State::Broken;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

/// The header lines that decide where the message ends.
#[derive(Default)]
struct Fields {
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
}

fn check_head(head: &[u8], fields_max: usize) -> Result<State, Fault> {
    let mut lines = Lines(head);
    let version = request_line(lines.next().unwrap_or_default())?;
    let mut fields = Fields::default();
    for (index, line) in lines.enumerate() {
        if index >= fields_max {
            return Err(Fault::HeadTooLarge);
        }
        fields.add(line)?;
    }
    fields.framing(version)
}

/// The lines of a whole head without their ends, up to the empty one. Every line feed is known to follow a carriage return.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = memchr(b'\n', self.0)?;
        let line = &self.0[..end.saturating_sub(1)];
        self.0 = &self.0[end + 1..];
        (!line.is_empty()).then_some(line)
    }
}

fn request_line(line: &[u8]) -> Result<Version, Fault> {
    let malformed = Err(Fault::Malformed(
        "the request line is not METHOD, one space, target, one space, HTTP/1.1",
    ));
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return malformed;
    };
    if method.is_empty() || !all_are(TOKEN, method) {
        return malformed;
    }
    if !is_target(method, target) {
        return Err(Fault::Malformed(
            "the target is no path, or has a character that must be percent-encoded",
        ));
    }
    match version {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        _ => malformed,
    }
}

impl Fields {
    fn add(&mut self, line: &[u8]) -> Result<(), Fault> {
        let Some(colon) = memchr(b':', line) else {
            return Err(Fault::Malformed("a header line has no colon"));
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.is_empty() || !all_are(TOKEN, name) {
            return Err(Fault::Malformed(
                "a header name is empty, is folded, or has a space or a control character",
            ));
        }
        if !all_are(VALUE, value) {
            return Err(Fault::Malformed("a header value has a control character"));
        }
        self.note(name, value.trim_ascii())
    }

    fn note(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.hosts += 1,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                return self.content_length(value);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                return self.transfer_encoding(value);
            }
            _ => (),
        }
        Ok(())
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.length.is_some() {
            return Err(Fault::Malformed("Content-Length is given twice"));
        }
        // Eighteen digits cannot overflow, and are more than anybody can send.
        if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
            return Err(Fault::Malformed("Content-Length is not a plain number"));
        }
        let number = value
            .iter()
            .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        self.length = Some(number);
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Fault::Malformed(
                "Transfer-Encoding may be given once, and only as chunked",
            ));
        }
        self.chunked = true;
        Ok(())
    }

    fn framing(&self, version: Version) -> Result<State, Fault> {
        if self.hosts > 1 {
            return Err(Fault::Malformed("Host is given twice"));
        }
        if self.hosts == 0 && version == Version::Http11 {
            return Err(Fault::Malformed("Host is missing"));
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Fault::Malformed(
                "both Content-Length and Transfer-Encoding are given",
            )),
            (true, None) if version == Version::Http10 => {
                Err(Fault::Malformed("HTTP/1.0 has no Transfer-Encoding"))
            }
            (true, None) => Ok(State::Chunked {
                at: Chunk::Size {
                    value: 0,
                    digits: 0,
                },
                extras: 0,
            }),
            (false, None | Some(0)) => Ok(State::Head),
            (false, Some(length)) => Ok(State::Sized(length)),
        }
    }
}

/// Whether the target has the form that belongs to the method. hyper reads every target that passes; what it cannot read it would answer
/// itself, without a word.
fn is_target(method: &[u8], target: &[u8]) -> bool {
    if !all_are(TARGET, target) {
        return false;
    }
    match target {
        b"*" | [b'/', ..] => true,
        _ => Uri::try_from(target).is_ok_and(|uri| match method {
            b"CONNECT" => uri.scheme().is_none() && uri.port().is_some(),
            _ => uri.scheme().is_some(),
        }),
    }
}

/// Moves over the bytes of a chunked body, at most to its end.
fn chunked(at: &mut Chunk, extras: &mut u32, rest: &[u8]) -> Result<usize, Fault> {
    let mut used = 0;
    while used < rest.len() && *at != Chunk::Done {
        if let Chunk::Data { left } = at {
            let here = usize::try_from(*left)
                .unwrap_or(usize::MAX)
                .min(rest.len() - used);
            *left -= here as u64;
            used += here;
            if *left == 0 {
                *at = Chunk::DataCr;
            }
            continue;
        }
        match chunk_byte(*at, extras, rest[used]) {
            Ok(next) => *at = next,
            // What was right goes on first; the same byte is looked at again.
            Err(_) if used > 0 => return Ok(used),
            Err(fault) => return Err(fault),
        }
        used += 1;
    }
    Ok(used)
}

fn chunk_byte(at: Chunk, extras: &mut u32, byte: u8) -> Result<Chunk, Fault> {
    let malformed = Err(Fault::Malformed("the chunked body is malformed"));
    Ok(match (at, byte) {
        (Chunk::Size { value, digits }, _) if byte.is_ascii_hexdigit() && digits < 15 => {
            Chunk::Size {
                value: value * 16 + u64::from(hex(byte)),
                digits: digits + 1,
            }
        }
        (Chunk::Size { digits: 0, .. }, _) => return malformed,
        (Chunk::Size { value, .. } | Chunk::Extension { value }, b'\r') => Chunk::SizeEnd { value },
        (Chunk::Size { value, .. }, b';') => Chunk::Extension { value },
        (Chunk::Extension { value }, _) if is(VALUE, byte) => {
            extra(extras)?;
            Chunk::Extension { value }
        }
        (Chunk::SizeEnd { value: 0 }, b'\n') => Chunk::TrailerStart,
        (Chunk::SizeEnd { value }, b'\n') => Chunk::Data { left: value },
        (Chunk::DataCr, b'\r') => Chunk::DataLf,
        (Chunk::DataLf, b'\n') => Chunk::Size {
            value: 0,
            digits: 0,
        },
        (Chunk::TrailerStart, b'\r') => Chunk::EndLf,
        (Chunk::EndLf, b'\n') => Chunk::Done,
        (Chunk::TrailerStart, _) if is(TOKEN, byte) => Chunk::Trailer,
        (Chunk::Trailer, b'\r') => Chunk::TrailerLf,
        (Chunk::Trailer, _) if is(VALUE, byte) => {
            extra(extras)?;
            Chunk::Trailer
        }
        (Chunk::TrailerLf, b'\n') => Chunk::TrailerStart,
        _ => return malformed,
    })
}

fn extra(extras: &mut u32) -> Result<(), Fault> {
    *extras += 1;
    if *extras > CHUNK_EXTRAS_MAX {
        return Err(Fault::Malformed(
            "the chunked body has too many extensions or trailers",
        ));
    }
    Ok(())
}

const fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

/// A character of a method or of a header's name.
const TOKEN: u8 = 1;
/// A character that hyper takes in a path as in a query. `#` would begin a fragment, which is never sent and which hyper drops.
const TARGET: u8 = 2;
/// A character of a header's value.
const VALUE: u8 = 4;

/// What each byte may be a character of.
const KINDS: [u8; 256] = {
    let mut kinds = [0; 256];
    let mut index = 0;
    while index < kinds.len() {
        kinds[index] = kinds_of(index as u8);
        index += 1;
    }
    kinds
};

const fn kinds_of(byte: u8) -> u8 {
    let token = matches!(byte,
        b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~'
        | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z');
    let target = byte.is_ascii_graphic() && !matches!(byte, b'"' | b'#' | b'<' | b'>' | b'`');
    let value = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
    TOKEN * token as u8 + TARGET * target as u8 + VALUE * value as u8
}

fn is(kind: u8, byte: u8) -> bool {
    KINDS[usize::from(byte)] & kind != 0
}

/// Looks at all of them without a branch for each, since hardly any head is refused.
fn all_are(kind: u8, bytes: &[u8]) -> bool {
    let common = bytes
        .iter()
        .fold(kind, |common, byte| common & KINDS[usize::from(*byte)]);
    common != 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: HeadLimits = HeadLimits {
        bytes: 1024,
        fields: 8,
    };

    fn advance(bytes: &[u8]) -> Step {
        Framing::new(LIMITS).advance(bytes)
    }

    #[test]
    fn messages_with_one_reading_pass_whole() {
        let rows: &[&str] = &[
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET /a%20b?c HTTP/1.1\r\nhOsT:a\r\nx-empty:\r\n\r\n",
            "GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0a;x=y\r\n0123456789\r\n0\r\nt: v\r\n\r\n",
        ];
        for row in rows {
            let whole = Step {
                release: row.len(),
                fault: None,
            };
            assert_eq!(advance(row.as_bytes()), whole, "{row:?}");
        }
    }

    #[test]
    fn messages_with_two_readings_are_refused_at_their_head() {
        let rows: &[&str] = &[
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost\t: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost a\r\n\r\n",
            "GET / HTTP/1.1\r\n: a\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
            "GET /\tx HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            "GET /<b> HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /?q=\"b\" HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /`b` HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET a/b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n",
            "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\x16\x03\x01",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ];
        for row in rows {
            let step = advance(row.as_bytes());
            assert_eq!(step.release, 0, "{row:?}");
            assert!(
                matches!(step.fault, Some(Fault::Malformed(_))),
                "{row:?} gave {step:?}"
            );
        }
    }

    #[test]
    fn broken_chunks_are_refused_inside_the_body() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        for body in [
            "x",
            "\r\n",
            "3\nabc",
            "3\r\nabcd",
            "3\r\nabc\n",
            "+3\r\nabc",
            "3 \r\nabc",
            "0\r\n\n",
            "0\r\n t: v\r\n\r\n",
            "1000000000000000\r\n",
        ] {
            let mut framing = Framing::new(LIMITS);
            let step = framing.advance(format!("{head}{body}").as_bytes());
            assert!(step.release >= head.len() && framing.in_body(), "{body:?}");
            assert!(
                matches!(step.fault, Some(Fault::Malformed(_))),
                "{body:?} gave {step:?}"
            );
        }
    }

    #[test]
    fn heads_are_bounded_in_bytes_and_lines() {
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(1024));
        assert_eq!(advance(long.as_bytes()).fault, Some(Fault::HeadTooLarge));
        assert_eq!(
            advance(format!("{long}\r\n\r\n").as_bytes()).fault,
            Some(Fault::HeadTooLarge)
        );
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: a\r\n".repeat(8));
        assert_eq!(advance(many.as_bytes()).fault, Some(Fault::HeadTooLarge));
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let extension = format!("{head}1;{}", "x".repeat(CHUNK_EXTRAS_MAX as usize + 1));
        let trailer = format!("{head}0\r\nx:{}", "x".repeat(CHUNK_EXTRAS_MAX as usize + 1));
        for message in [extension, trailer] {
            assert!(advance(message.as_bytes()).fault.is_some());
        }
    }

    #[test]
    fn http2_is_recognised_by_its_preface_only_at_the_start() {
        let frames = [HTTP2_PREFACE, b"\n\0anything"].concat();
        assert_eq!(
            advance(&frames),
            Step {
                release: frames.len(),
                fault: None
            }
        );
        assert_eq!(
            advance(b"PRI * HT"),
            Step {
                release: 0,
                fault: None
            }
        );
        let later = [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".as_slice(),
            HTTP2_PREFACE,
        ]
        .concat();
        assert!(advance(&later).fault.is_some());
    }

    proptest! {
        /// However the bytes are cut, the same of them are released and the same fault is found.
        #[test]
        fn cuts_do_not_matter(cuts in prop::collection::vec(1usize..40, 1..40), row in 0usize..4) {
            let stream: &[u8] = [
                "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: b\r\n\r\n",
                "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\nHost: b\r\n\r\n",
                "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            ][row].as_bytes();
            let whole = advance(stream);
            prop_assert_eq!(in_pieces(stream, &cuts), (whole.release, whole.fault));
        }

        /// hyper answers what it cannot read itself, without a body; so there must be no such target.
        #[test]
        fn targets_that_pass_can_be_read(target in "[/*a:]?[!-~]{0,12}", connect: bool) {
            let method: &[u8] = if connect { b"CONNECT" } else { b"GET" };
            if is_target(method, target.as_bytes()) {
                prop_assert!(Uri::try_from(target.as_str()).is_ok(), "{}", target);
            }
        }

        /// No bytes make it panic, and it never releases more than there are.
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(advance(&bytes).release <= bytes.len());
        }
    }

    fn in_pieces(stream: &[u8], cuts: &[usize]) -> (usize, Option<Fault>) {
        let mut framing = Framing::new(LIMITS);
        let (mut released, mut shown) = (0, 0);
        for cut in cuts.iter().cycle() {
            shown = (shown + cut).min(stream.len());
            let step = framing.advance(&stream[released..shown]);
            released += step.release;
            if step.fault.is_some() || shown == stream.len() {
                return (released, step.fault);
            }
        }
        (released, None)
    }
}
