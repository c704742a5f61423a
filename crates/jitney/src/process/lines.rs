//! Lines out of what a worker prints: bounded in length and in number, whatever it prints.

use std::borrow::Cow;
use std::time::{Duration, Instant};

/// Cuts one stream into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
    /// The line was longer than is kept.
    cut: bool,
}

/// Counts the lines of one worker.
#[derive(Debug)]
pub(super) struct Meter {
    second: Instant,
    passed: u64,
    dropped: u64,
}

impl Lines {
    /// The longest piece of a line that is kept.
    pub(super) const LONGEST: usize = 8 << 10;

    /// Takes what was printed; `line` gets every line that is whole now, and whether it was cut.
    pub(super) fn feed(&mut self, mut printed: &[u8], mut line: impl FnMut(&str, bool)) {
        while let Some(end) = printed.iter().position(|&byte| byte == b'\n') {
            self.keep(&printed[..end]);
            self.flush(&mut line);
            printed = &printed[end + 1..];
        }
        self.keep(printed);
    }

    /// Nothing more comes: the last line may lack its end.
    pub(super) fn end(&mut self, mut line: impl FnMut(&str, bool)) {
        if !self.begun.is_empty() {
            self.flush(&mut line);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = Self::LONGEST - self.begun.len();
        self.cut |= bytes.len() > room;
        self.begun
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn flush(&mut self, line: &mut impl FnMut(&str, bool)) {
        let text = self.begun.strip_suffix(b"\r").unwrap_or(&self.begun);
        line(&readable(text), self.cut);
        self.begun.clear();
        self.cut = false;
    }
}

impl Meter {
    /// The most lines in a second.
    pub(super) const PER_SECOND: u64 = 1000;

    pub(super) fn new(now: Instant) -> Self {
        Self {
            second: now,
            passed: 0,
            dropped: 0,
        }
    }

    /// Whether one more line may pass; if not, it is counted.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        if self.second + SECOND <= now {
            self.second = now;
            self.passed = 0;
        }
        let admits = self.passed < Self::PER_SECOND;
        self.passed += u64::from(admits);
        self.dropped += u64::from(!admits);
        admits
    }

    /// When to say how many were dropped.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.dropped > 0).then_some(self.second + SECOND)
    }

    /// How many were dropped since this was last asked, if it is time to say so or nothing more comes.
    pub(super) fn report(&mut self, now: Instant, last: bool) -> Option<u64> {
        let due = self.due()?;
        (last || due <= now).then(|| std::mem::take(&mut self.dropped))
    }
}

/// Text without control characters, which could forge other lines or play with a terminal.
fn readable(bytes: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(bytes);
    if text.chars().any(is_control) {
        return text.replace(is_control, "\u{fffd}").into();
    }
    text
}

fn is_control(character: char) -> bool {
    character.is_control() && character != '\t'
}

const SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of what is printed in these pieces, a `+` behind those that were cut.
    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut got = Vec::new();
        let mut take =
            |line: &str, cut: bool| got.push(format!("{line}{}", if cut { "+" } else { "" }));
        for piece in pieces {
            lines.feed(piece, &mut take);
        }
        lines.end(&mut take);
        got
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        assert_eq!(
            lines(&[b"one\ntw", b"o\r\n", b"\nfour"]),
            ["one", "two", "", "four"]
        );
        assert_eq!(lines(&[]), [""; 0]);
        assert_eq!(
            lines(&[b"\xff\x1b[31mred\x00\tx\n"]),
            ["\u{fffd}\u{fffd}[31mred\u{fffd}\tx"]
        );
    }

    #[test]
    fn a_long_line_is_cut_once_and_the_next_is_whole() {
        let long = vec![b'x'; 3 * Lines::LONGEST];
        let got = lines(&[&long, &long, b"\nnext\n"]);
        assert_eq!(got.len(), 2);
        assert_eq!(
            (got[0].len(), got[0].ends_with('+')),
            (Lines::LONGEST + 1, true)
        );
        assert_eq!(got[1], "next");
        let exact = vec![b'y'; Lines::LONGEST];
        assert!(!lines(&[&exact, b"\n"])[0].ends_with('+'));
    }

    #[test]
    fn a_flood_is_counted_and_reported_once_a_second() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut meter = Meter::new(start);
        let passed = (0..5000).filter(|_| meter.admits(at(10))).count();
        assert_eq!(passed as u64, Meter::PER_SECOND);
        assert_eq!(meter.report(at(999), false), None);
        assert_eq!(meter.due(), Some(at(1000)));
        assert_eq!(meter.report(at(1000), false), Some(4000));
        assert_eq!(meter.report(at(1000), true), None);
        assert!(meter.admits(at(1001)));
    }
}
