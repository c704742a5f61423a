//! Compressed bodies: gzip and deflate, in and out, in steps that are short enough for the threads that everyone shares.
//!
//! As everywhere, `deflate` means a zlib stream; a bare deflate stream is read too, since some clients send one. A body is one such stream:
//! several gzip members behind each other are refused, as is a coding upon another.

use bytes::Bytes;
use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, VARY};
use http::{HeaderMap, HeaderValue};

use super::payload::Body;
use super::reply::Reply;
use crate::deflate::{Encoder, LEVEL, STEP, WINDOW_BITS};
use crate::failure::{Code, Failure};

/// How bytes are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Gzip,
    Deflate,
}

impl Coding {
    const ALL: [Coding; 2] = [Coding::Gzip, Coding::Deflate];

    const fn name(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Deflate => "deflate",
        }
    }

    fn of_name(name: &str) -> Option<Coding> {
        // The old name of gzip is still its name.
        let gzip = name.eq_ignore_ascii_case("x-gzip").then_some(Coding::Gzip);
        let named = |coding: &Coding| name.eq_ignore_ascii_case(coding.name());
        gzip.or_else(|| Coding::ALL.into_iter().find(named))
    }
}

/// How the body of a request is compressed, if it is.
///
/// # Errors
/// `unsupported_media_type` for any other coding, and for one upon another.
pub(crate) fn of_request(headers: &HeaderMap) -> Result<Option<Coding>, Failure> {
    let mut lines = headers.get_all(CONTENT_ENCODING).iter();
    let (line, second) = (lines.next(), lines.next());
    let Some(line) = line else {
        return Ok(None);
    };
    let name = line.to_str().unwrap_or_default().trim();
    match (Coding::of_name(name), second) {
        (Some(coding), None) => Ok(Some(coding)),
        (None, None) if name.eq_ignore_ascii_case("identity") => Ok(None),
        _ => Err(Failure::new(
            Code::UnsupportedMediaType,
            "the body's Content-Encoding is not read here; send it as gzip or deflate, once, or without any",
        )),
    }
}

/// How the client would like its answer compressed, if at all.
pub(crate) fn accepted(headers: &HeaderMap) -> Option<Coding> {
    let mut wishes = Wishes::default();
    for line in headers.get_all(ACCEPT_ENCODING) {
        for part in line.to_str().unwrap_or_default().split(',') {
            wishes.add(part);
        }
    }
    wishes.best()
}

/// How much each coding is wanted, in thousandths, where the client says so.
#[derive(Default)]
struct Wishes {
    gzip: Option<u16>,
    deflate: Option<u16>,
    identity: Option<u16>,
    others: Option<u16>,
}

impl Wishes {
    fn add(&mut self, part: &str) {
        let (name, rest) = part.split_once(';').unwrap_or((part, ""));
        let Some(weight) = weight(rest) else {
            return;
        };
        let wish = match name.trim() {
            "*" => &mut self.others,
            name if name.eq_ignore_ascii_case("identity") => &mut self.identity,
            name => match Coding::of_name(name) {
                Some(Coding::Gzip) => &mut self.gzip,
                Some(Coding::Deflate) => &mut self.deflate,
                None => return,
            },
        };
        *wish = Some(weight);
    }

    fn best(&self) -> Option<Coding> {
        let gzip = self.gzip.or(self.others).unwrap_or(0);
        let deflate = self.deflate.or(self.others).unwrap_or(0);
        let (coding, weight) = match deflate > gzip {
            true => (Coding::Deflate, deflate),
            false => (Coding::Gzip, gzip),
        };
        (weight > 0 && weight >= self.identity.unwrap_or(0)).then_some(coding)
    }
}

/// The weight of a part of `Accept-Encoding`, which is whole where nothing is said; `None` where it is none.
fn weight(parameters: &str) -> Option<u16> {
    let parameters = parameters.trim();
    if parameters.is_empty() {
        return Some(1000);
    }
    let (name, value) = parameters.split_once('=')?;
    let value: f32 = value.trim().parse().ok()?;
    let named = name.trim().eq_ignore_ascii_case("q");
    (named && (0.0..=1.0).contains(&value)).then_some((value * 1000.0) as u16)
}

/// Inflates a body as it comes.
pub(crate) struct Decoder {
    coding: Coding,
    /// Made from the first byte on.
    stream: Option<Decompress>,
    room: Box<[u8]>,
    ended: bool,
}

impl Decoder {
    pub(crate) fn new(coding: Coding) -> Decoder {
        Decoder {
            coding,
            stream: None,
            room: vec![0; STEP].into(),
            ended: false,
        }
    }

    /// Inflates some of the input, which is cut by what was used, and gives what came out: 64 KiB at most. More may follow as long as
    /// something came out or the input is not used up.
    ///
    /// # Errors
    /// `invalid_input` for what is no such stream, and for bytes behind its end.
    pub(crate) fn step(&mut self, input: &mut &[u8]) -> Result<&[u8], Failure> {
        let Some(first) = input.first() else {
            return self.inflate(input);
        };
        if self.ended {
            return Err(self.broken("bytes follow its end"));
        }
        if self.stream.is_none() {
            self.stream = Some(stream(self.coding, *first));
        }
        self.inflate(input)
    }

    /// Checks that the stream has ended.
    ///
    /// # Errors
    /// `invalid_input` where it has not.
    pub(crate) fn finish(&self) -> Result<(), Failure> {
        match self.ended {
            true => Ok(()),
            false => Err(self.broken("it is cut off before its end")),
        }
    }

    fn inflate(&mut self, input: &mut &[u8]) -> Result<&[u8], Failure> {
        let Some(stream) = self.stream.as_mut().filter(|_| !self.ended) else {
            return Ok(&[]);
        };
        let (read, written) = (stream.total_in(), stream.total_out());
        let status = stream.decompress(input, &mut self.room, FlushDecompress::None);
        let read = usize::try_from(stream.total_in() - read).unwrap_or(usize::MAX);
        let written = usize::try_from(stream.total_out() - written).unwrap_or(0);
        *input = input.get(read..).unwrap_or_default();
        match status {
            Ok(status) => self.ended = status == Status::StreamEnd,
            Err(_) => return Err(self.broken("it is not such a stream, or was damaged")),
        }
        Ok(self.room.get(..written).unwrap_or_default())
    }

    #[cold]
    fn broken(&self, what: &str) -> Failure {
        Failure::invalid(format!(
            "the body does not hold to its Content-Encoding, {}: {what}",
            self.coding.name()
        ))
    }
}

/// The stream that begins with that byte. In zlib's head it names the method and the window; a bare stream would begin with a stored block
/// whose unused bits are set, which nobody writes.
fn stream(coding: Coding, first: u8) -> Decompress {
    const DEFLATE: u8 = 8;
    let zlib = first & 0x0f == DEFLATE && first >> 4 <= 7;
    match coding {
        Coding::Gzip => Decompress::new_gzip(WINDOW_BITS),
        Coding::Deflate => Decompress::new(zlib),
    }
}

/// Answers shorter than this are not worth it.
const WORTH_IT: u64 = 1024;

/// Compresses an answer in memory where that makes it smaller, and says on what the form of the answer depends.
///
/// Cancel safety: the answer stays as it was.
pub(crate) async fn compress(reply: &mut Reply, coding: Option<Coding>) {
    if reply.body().length().is_none_or(|length| length < WORTH_IT) {
        return;
    }
    reply
        .headers_mut()
        .append(VARY, HeaderValue::from_static("accept-encoding"));
    let (Some(coding), Some(pieces)) = (coding, pieces(reply.body())) else {
        return;
    };
    if !shrinks(&pieces) {
        return;
    }
    let encoder = match coding {
        Coding::Gzip => Encoder::gzip(),
        Coding::Deflate => Encoder::zlib(),
    };
    let body = Box::pin(encoder.all(&pieces)).await;
    reply
        .headers_mut()
        .insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    *reply.body_mut() = Body::Pieces(body);
}

/// The pieces of a body that is in memory.
fn pieces(body: &Body) -> Option<Vec<Bytes>> {
    match body {
        Body::Whole(bytes) => Some(vec![bytes.clone()]),
        Body::Pieces(pieces) => Some(pieces.iter().cloned().collect()),
        Body::Stream(_) | Body::Grpc(_) | Body::Watched(_) => None,
    }
}

/// Whether the beginning of the largest piece gets smaller by a tenth: floats as raw bytes seldom do, and then all the work would be for
/// nothing.
fn shrinks(pieces: &[Bytes]) -> bool {
    const SAMPLE: usize = 4 * 1024;
    let largest = pieces.iter().max_by_key(|piece| piece.len());
    let sample = largest.map_or(&[][..], |piece| piece.get(..SAMPLE).unwrap_or(piece));
    let mut room = [0; SAMPLE];
    let most = sample.len() - sample.len() / 10;
    let mut stream = Compress::new(LEVEL, false);
    let room = room.get_mut(..most).unwrap_or_default();
    let status = stream.compress(sample, room, FlushCompress::Finish);
    matches!(status, Ok(Status::StreamEnd))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use flate2::Compression;
    use flate2::read::{GzDecoder, ZlibDecoder};
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use proptest::prelude::*;

    use super::super::reply::{self, JSON};
    use super::*;

    fn headers(name: &http::HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name.clone(), value.parse().unwrap());
        }
        headers
    }

    fn packed(coding: Coding, plain: &[u8]) -> Vec<u8> {
        fn write<W: Write>(mut writer: W, plain: &[u8]) -> W {
            writer.write_all(plain).unwrap();
            writer
        }
        let level = Compression::default();
        match coding {
            Coding::Gzip => write(GzEncoder::new(Vec::new(), level), plain).finish(),
            Coding::Deflate => write(ZlibEncoder::new(Vec::new(), level), plain).finish(),
        }
        .unwrap()
    }

    fn bare(plain: &[u8]) -> Vec<u8> {
        let mut writer = DeflateEncoder::new(Vec::new(), Compression::default());
        writer.write_all(plain).unwrap();
        writer.finish().unwrap()
    }

    /// What comes out of frames of that many bytes.
    fn unpacked(coding: Coding, body: &[u8], frame: usize) -> Result<Vec<u8>, Failure> {
        let mut decoder = Decoder::new(coding);
        let mut plain = Vec::new();
        for frame in body.chunks(frame) {
            let mut input = frame;
            loop {
                let piece = decoder.step(&mut input)?;
                assert!(piece.len() <= STEP);
                plain.extend_from_slice(piece);
                if piece.is_empty() && input.is_empty() {
                    break;
                }
            }
        }
        decoder.finish().map(|()| plain)
    }

    #[test]
    fn codings_of_requests() {
        let rows: [(&[&str], Option<Option<Coding>>); 13] = [
            (&[], Some(None)),
            (&["identity"], Some(None)),
            (&["gzip"], Some(Some(Coding::Gzip))),
            (&[" GZIP "], Some(Some(Coding::Gzip))),
            (&["x-gzip"], Some(Some(Coding::Gzip))),
            (&["deflate"], Some(Some(Coding::Deflate))),
            (&["br"], None),
            (&["zstd"], None),
            (&[""], None),
            (&["gzip, gzip"], None),
            (&["identity, gzip"], None),
            (&["gzip", "gzip"], None),
            (&["identity", "identity"], None),
        ];
        for (values, expected) in rows {
            let read = of_request(&headers(&CONTENT_ENCODING, values));
            if let Err(failure) = &read {
                assert_eq!(failure.code, Code::UnsupportedMediaType);
            }
            assert_eq!(read.ok(), expected, "{values:?}");
        }
    }

    #[test]
    fn wishes_for_answers() {
        let rows: [(&[&str], Option<Coding>); 16] = [
            (&[], None),
            (&["gzip"], Some(Coding::Gzip)),
            (&["deflate"], Some(Coding::Deflate)),
            (&["gzip, deflate, br"], Some(Coding::Gzip)),
            (&["gzip;q=0.5, deflate;q=0.6"], Some(Coding::Deflate)),
            (&["gzip;q=0, deflate"], Some(Coding::Deflate)),
            (&["gzip; q=0.0"], None),
            (&["*"], Some(Coding::Gzip)),
            (&["gzip;q=0, *;q=0.1"], Some(Coding::Deflate)),
            (&["*;q=0"], None),
            (&["identity, gzip;q=0.5"], None),
            (&["identity;q=0.5, gzip"], Some(Coding::Gzip)),
            (&["br", "deflate"], Some(Coding::Deflate)),
            (&["gzip;q=2"], None),
            (&["gzip;q=x, deflate;q=NaN"], None),
            (&["zstd, br"], None),
        ];
        for (values, expected) in rows {
            assert_eq!(
                accepted(&headers(&ACCEPT_ENCODING, values)),
                expected,
                "{values:?}"
            );
        }
    }

    #[test]
    fn what_is_cut_off_or_damaged_or_goes_on_is_refused() {
        for coding in Coding::ALL {
            let body = packed(coding, b"some words, some words");
            for cut in 0..body.len() {
                let failure = unpacked(coding, &body[..cut], 7).unwrap_err();
                assert!(failure.message.contains("cut off"), "{cut}: {failure}");
            }
            let mut damaged = body.clone();
            *damaged.last_mut().unwrap() ^= 1;
            let failure = unpacked(coding, &damaged, 7).unwrap_err();
            assert!(failure.message.contains("damaged"), "{failure}");
            for tail in [&b"\0"[..], &body] {
                let failure = unpacked(coding, &[&body, tail].concat(), 7).unwrap_err();
                assert!(failure.message.contains("follow its end"), "{failure}");
            }
            assert!(unpacked(coding, b"{\"inputs\":[]}", 7).is_err());
        }
    }

    #[test]
    fn a_bomb_comes_in_small_steps() {
        let zeros = vec![0; 8 << 20];
        for coding in Coding::ALL {
            let body = packed(coding, &zeros);
            assert!(body.len() < 16 * 1024);
            assert_eq!(unpacked(coding, &body, usize::MAX).unwrap(), zeros);
        }
    }

    async fn answered(body: Body, coding: Option<Coding>) -> (HeaderMap, Vec<u8>) {
        let mut reply = reply::ok(JSON, Bytes::new());
        *reply.body_mut() = body;
        compress(&mut reply, coding).await;
        let (head, body) = reply.into_parts();
        let pieces = pieces(&body).unwrap();
        assert!(
            pieces
                .iter()
                .all(|piece| !piece.is_empty() || pieces.len() == 1)
        );
        (head.headers, pieces.concat())
    }

    #[tokio::test]
    async fn answers_read_back_the_same() {
        let text = Bytes::from("0.125,".repeat(50_000));
        let cut = Body::Pieces([text.slice(..5), text.slice(5..5), text.slice(5..)].into());
        let (head, gzip) = answered(cut, Some(Coding::Gzip)).await;
        assert_eq!(head[CONTENT_ENCODING], "gzip");
        assert_eq!(head[VARY], "accept-encoding");
        let mut plain = Vec::new();
        GzDecoder::new(&gzip[..]).read_to_end(&mut plain).unwrap();
        assert_eq!(plain, text);
        let (head, zlib) = answered(Body::Whole(text.clone()), Some(Coding::Deflate)).await;
        assert_eq!(head[CONTENT_ENCODING], "deflate");
        plain.clear();
        ZlibDecoder::new(&zlib[..]).read_to_end(&mut plain).unwrap();
        assert_eq!(plain, text);
        let (head, same) = answered(Body::Whole(text.clone()), None).await;
        assert!(!head.contains_key(CONTENT_ENCODING) && head.contains_key(VARY));
        assert_eq!(same, text);
    }

    #[tokio::test]
    async fn answers_that_are_short_or_would_not_shrink_stay_as_they_are() {
        let (head, _) = answered(Body::Whole(vec![0; 1023].into()), Some(Coding::Gzip)).await;
        assert!(!head.contains_key(CONTENT_ENCODING) && !head.contains_key(VARY));
        let mut state = 1_u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let noise: Vec<u8> = std::iter::repeat_with(&mut noise).take(100_000).collect();
        let (head, same) = answered(Body::Whole(noise.clone().into()), Some(Coding::Gzip)).await;
        assert!(!head.contains_key(CONTENT_ENCODING) && head.contains_key(VARY));
        assert_eq!(same, noise);
    }

    proptest! {
        #[test]
        fn bodies_read_back_the_same(plain in prop::collection::vec(0..4_u8, 0..3000), frame in 1..99_usize) {
            for coding in Coding::ALL {
                prop_assert_eq!(&unpacked(coding, &packed(coding, &plain), frame).unwrap(), &plain);
            }
            prop_assert_eq!(&unpacked(Coding::Deflate, &bare(&plain), frame).unwrap(), &plain);
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..99), frame in 1..9_usize) {
            for coding in Coding::ALL {
                let _ = unpacked(coding, &body, frame);
            }
        }
    }
}
