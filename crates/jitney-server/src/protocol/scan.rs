//! A scanner over a JSON body that builds no tree: the caller asks for what it expects next.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use smallvec::SmallVec;

use super::{MAX_KEYS, MAX_NESTING};
use crate::failure::{Code, Failure};

/// Why a body is refused: the place in it, built from the inside out as the fault travels up, and a sentence.
#[derive(Debug)]
pub(super) struct Fault {
    code: Code,
    path: String,
    what: String,
}

/// Boxed, so that the ways without a fault stay cheap.
pub(super) type Outcome<T> = Result<T, Box<Fault>>;

/// A position in a body.
#[derive(Clone)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

/// Text of the caller's, shortened and escaped for a message.
pub(crate) struct Excerpt<'a>(pub(crate) &'a str);

const EXCERPT_CHARS: usize = 40;

/// Walks the keys of an object.
pub(super) struct Keys<'a> {
    seen: SmallVec<[Cow<'a, str>; 8]>,
}

/// The keys of an object of any size.
#[derive(Default)]
struct Names<'a> {
    few: SmallVec<[Cow<'a, str>; 8]>,
    /// Where all of them are, once they are many.
    many: HashSet<Cow<'a, str>>,
}

/// Up to so many keys are searched one by one.
const FEW_NAMES: usize = 16;

/// Walks the items of an array.
pub(super) struct Items {
    first: bool,
}

impl Fault {
    #[cold]
    pub(super) fn new(what: impl Into<String>) -> Box<Fault> {
        Box::new(Fault {
            code: Code::InvalidInput,
            path: String::new(),
            what: what.into(),
        })
    }

    #[cold]
    pub(super) fn too_large(what: impl Into<String>) -> Box<Fault> {
        let mut fault = Fault::new(what);
        fault.code = Code::TooLarge;
        fault
    }

    /// Says that the place is inside the value of that key.
    #[cold]
    pub(super) fn key(mut self: Box<Self>, key: &str) -> Box<Fault> {
        self.path = format!("{}{}{}", Excerpt(key), self.dot(), self.path);
        self
    }

    /// Says that the place is inside the item of that index.
    #[cold]
    pub(super) fn index(mut self: Box<Self>, index: usize) -> Box<Fault> {
        self.path = format!("[{index}]{}{}", self.dot(), self.path);
        self
    }

    /// What stands between an outer key or index and the path so far.
    fn dot(&self) -> &'static str {
        let tight = self.path.is_empty() || self.path.starts_with('[');
        if tight { "" } else { "." }
    }
}

impl From<Box<Fault>> for Failure {
    fn from(fault: Box<Fault>) -> Failure {
        let Fault { code, path, what } = *fault;
        let place = match &*path {
            "" => "body".into(),
            path => shortened(path),
        };
        Failure::new(code, format!("{place}: {what}"))
    }
}

/// The beginning and the end of a path that goes deep.
fn shortened(path: &str) -> Cow<'_, str> {
    const HALF: usize = 150;
    if path.len() <= 2 * HALF {
        return Cow::Borrowed(path);
    }
    let (head, _) = path.split_at(path.floor_char_boundary(HALF));
    let (_, tail) = path.split_at(path.ceil_char_boundary(path.len() - HALF));
    Cow::Owned(format!("{head} ... {tail}"))
}

impl<'a> Scanner<'a> {
    /// A scanner at the start of a body, which must be UTF-8 and not empty.
    pub(super) fn new(body: &'a [u8]) -> Outcome<Scanner<'a>> {
        let text = str::from_utf8(body).map_err(|error| {
            Fault::new(format!(
                "expected UTF-8, got none from byte {}",
                error.valid_up_to()
            ))
        })?;
        if text.starts_with('\u{feff}') {
            return Err(Fault::new("expected JSON, got a byte order mark before it"));
        }
        if text.bytes().all(is_space) {
            return Err(Fault::new("expected JSON, got nothing: the body is empty"));
        }
        Ok(Scanner { text, at: 0 })
    }

    /// A scanner over the same body at another offset, one that [`Scanner::at`] gave.
    pub(super) fn moved_to(&self, at: usize) -> Scanner<'a> {
        Scanner {
            text: self.text,
            at,
        }
    }

    /// The offset of the next byte.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// What stands between an offset that [`Scanner::at`] gave and here, without the white space around it.
    pub(super) fn text_since(&self, start: usize) -> &'a str {
        let text = self.text.get(start..self.at).unwrap_or_default();
        text.trim_matches([' ', '\n', '\r', '\t'])
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.text.len() - self.at
    }

    /// The bytes from here on.
    #[inline]
    pub(super) fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    /// Moves past that many bytes, which the caller has looked at in [`Scanner::rest`] and which end between two characters.
    #[inline]
    pub(super) fn advance(&mut self, bytes: usize) {
        self.at += bytes;
    }

    /// The next byte that is not white space, which stays the next.
    #[inline]
    pub(super) fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.as_bytes().get(self.at)?;
            if !is_space(byte) {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// Moves past that byte if it is the next one.
    #[inline]
    pub(super) fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Moves past that word if it is next.
    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        self.peek();
        let found = self.rest().starts_with(word.as_bytes());
        if found {
            self.at += word.len();
        }
        found
    }

    /// The fault of something else standing here than `what`.
    #[cold]
    #[inline(never)]
    pub(super) fn expected(&mut self, what: &str) -> Box<Fault> {
        self.peek();
        Fault::new(format!(
            "expected {what}, got {} at byte {}",
            self.found(),
            self.at
        ))
    }

    /// Checks that nothing follows.
    pub(super) fn end(&mut self) -> Outcome<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.expected("nothing after the JSON value")),
        }
    }

    /// Enters an object.
    pub(super) fn object(&mut self, what: &str) -> Outcome<Keys<'a>> {
        if !self.eat(b'{') {
            return Err(self.expected(what));
        }
        Ok(Keys {
            seen: SmallVec::new(),
        })
    }

    /// Enters an array.
    pub(super) fn array(&mut self, what: &str) -> Outcome<Items> {
        if !self.eat(b'[') {
            return Err(self.expected(what));
        }
        Ok(Items { first: true })
    }

    /// Reads a string.
    pub(super) fn string(&mut self, what: &str) -> Outcome<Cow<'a, str>> {
        if !self.eat(b'"') {
            return Err(self.expected(what));
        }
        let start = self.at;
        self.skip_plain();
        let plain = &self.text[start..self.at];
        if self.eat_next(b'"') {
            return Ok(Cow::Borrowed(plain));
        }
        self.escaped(plain.to_owned()).map(Cow::Owned)
    }

    /// Reads `true` or `false`.
    pub(super) fn boolean(&mut self) -> Option<bool> {
        if self.eat_word("true") {
            Some(true)
        } else if self.eat_word("false") {
            Some(false)
        } else {
            None
        }
    }

    /// Moves past one value that somebody else will read, and gives its text: JSON to the letter, without NaN and the infinities or what
    /// would be read as those, and with no key twice in an object.
    pub(super) fn value(&mut self) -> Outcome<&'a str> {
        self.peek();
        let start = self.at;
        self.strict(0)?;
        Ok(&self.text[start..self.at])
    }

    /// The depth of the calls is that of the value, of which there is a most.
    fn strict(&mut self, depth: usize) -> Outcome<()> {
        match self.peek() {
            Some(b'{' | b'[') if depth == MAX_NESTING => Err(self.too_deep()),
            Some(b'{') => self.strict_object(depth + 1),
            Some(b'[') => self.strict_array(depth + 1),
            Some(b'"') => self.string("a string").map(drop),
            _ if self.skip_finite() => Ok(()),
            Some(b'-' | b'0'..=b'9') if self.clone().skip_number() => {
                Err(self.expected("a number in the range of FP64"))
            }
            _ if ["true", "false", "null"]
                .iter()
                .any(|word| self.eat_word(word)) =>
            {
                Ok(())
            }
            _ => Err(self.expected("a JSON value")),
        }
    }

    fn strict_object(&mut self, depth: usize) -> Outcome<()> {
        self.advance(1);
        if self.eat(b'}') {
            return Ok(());
        }
        let mut names = Names::default();
        loop {
            let name = self.key()?;
            self.strict(depth).map_err(|fault| fault.key(&name))?;
            if let Err(name) = names.insert(name) {
                return Err(twice(&name));
            }
            if self.eat(b'}') {
                return Ok(());
            }
            if !self.eat(b',') {
                return Err(self.expected("',' or '}'"));
            }
        }
    }

    fn strict_array(&mut self, depth: usize) -> Outcome<()> {
        self.advance(1);
        let mut items = Items { first: true };
        let mut index = 0;
        while items.next(self)? {
            self.strict(depth).map_err(|fault| fault.index(index))?;
            index += 1;
        }
        Ok(())
    }

    /// Moves past one value of any kind, and checks that it is JSON.
    pub(super) fn skip(&mut self) -> Outcome<()> {
        let mut open = Open::default();
        loop {
            match self.peek() {
                Some(bracket @ (b'{' | b'[')) => {
                    if self.skip_into(&mut open, bracket)? {
                        continue;
                    }
                }
                Some(b'"') => drop(self.string("a string")?),
                _ => self.skip_scalar()?,
            }
            if !self.skip_ends(&mut open)? {
                return Ok(());
            }
        }
    }

    /// Enters an array or object; false when it is empty and left again.
    fn skip_into(&mut self, open: &mut Open, bracket: u8) -> Outcome<bool> {
        self.advance(1);
        if !open.push(bracket == b'{') {
            return Err(self.too_deep());
        }
        if self.eat(open.closer()) {
            open.pop();
            return Ok(false);
        }
        if open.in_object() {
            self.key()?;
        }
        Ok(true)
    }

    /// After a value, leaves the arrays and objects that end with it; whether another value follows.
    fn skip_ends(&mut self, open: &mut Open) -> Outcome<bool> {
        while open.depth > 0 {
            if self.eat(b',') {
                if open.in_object() {
                    self.key()?;
                }
                return Ok(true);
            }
            if !self.eat(open.closer()) {
                return Err(self.expected(&format!("',' or '{}'", char::from(open.closer()))));
            }
            open.pop();
        }
        Ok(false)
    }

    #[cold]
    fn too_deep(&self) -> Box<Fault> {
        Fault::new(format!(
            "expected at most {MAX_NESTING} arrays and objects inside each other, got more at byte {}",
            self.at,
        ))
    }

    fn skip_scalar(&mut self) -> Outcome<()> {
        let words = ["true", "false", "null", "NaN", "Infinity", "-Infinity"];
        if self.skip_number() || words.iter().any(|word| self.eat_word(word)) {
            return Ok(());
        }
        Err(self.expected("a value"))
    }

    /// Moves past a key and its colon.
    fn key(&mut self) -> Outcome<Cow<'a, str>> {
        let key = self.string("a key in quotes")?;
        if !self.eat(b':') {
            return Err(self.expected("':' after the key").key(&key));
        }
        Ok(key)
    }

    /// Like [`Scanner::eat`], but white space counts.
    fn eat_next(&mut self, byte: u8) -> bool {
        let found = self.rest().first() == Some(&byte);
        self.at += usize::from(found);
        found
    }

    /// Moves to the next byte of a string that needs a look.
    fn skip_plain(&mut self) {
        let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
        let rest = self.rest();
        self.at += rest.iter().position(special).unwrap_or(rest.len());
    }

    /// Reads on in a string after its first plain piece.
    fn escaped(&mut self, mut string: String) -> Outcome<String> {
        loop {
            if self.eat_next(b'"') {
                return Ok(string);
            }
            if !self.eat_next(b'\\') {
                return Err(self.unfinished_string());
            }
            string.push(self.escape()?);
            let start = self.at;
            self.skip_plain();
            string.push_str(&self.text[start..self.at]);
        }
    }

    #[cold]
    fn unfinished_string(&mut self) -> Box<Fault> {
        let got = match self.rest().first() {
            None => "the end of the body".to_owned(),
            Some(byte) => format!("the control character {byte:#04x}"),
        };
        Fault::new(format!(
            "expected the rest of a string, got {got} at byte {}",
            self.at
        ))
    }

    /// Reads an escape sequence after its backslash.
    fn escape(&mut self) -> Outcome<char> {
        let start = self.at;
        let escape = self.rest().first().copied();
        self.at += usize::from(escape.is_some_and(|byte| byte.is_ascii()));
        let plain = match escape {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape().ok_or_else(|| bad_escape(start)),
            _ => return Err(bad_escape(start)),
        };
        Ok(plain)
    }

    fn unicode_escape(&mut self) -> Option<char> {
        let first = self.hex4()?;
        if !(0xd800..0xe000).contains(&first) {
            return char::from_u32(first);
        }
        if !(self.eat_next(b'\\') && self.eat_next(b'u')) {
            return None;
        }
        let units = [
            u16::try_from(first).ok()?,
            u16::try_from(self.hex4()?).ok()?,
        ];
        char::decode_utf16(units).next()?.ok()
    }

    fn hex4(&mut self) -> Option<u32> {
        let digits = self.rest().get(..4)?;
        let value = digits.iter().try_fold(0, |value, digit| {
            Some(value * 16 + char::from(*digit).to_digit(16)?)
        })?;
        self.at += 4;
        Some(value)
    }

    /// What stands here, short enough for a message.
    fn found(&self) -> String {
        let rest = self.text.get(self.at..).unwrap_or_default();
        match rest.bytes().next() {
            None => "the end of the body".to_owned(),
            Some(b'[') => "an array".to_owned(),
            Some(b'{') => "an object".to_owned(),
            Some(b'"') => found_string(&rest[1..]),
            Some(byte) if is_token(byte) => {
                let end = rest.bytes().position(|byte| !is_token(byte));
                Excerpt(&rest[..end.unwrap_or(rest.len())]).to_string()
            }
            Some(_) => format!(
                "'{}'",
                Excerpt(&rest[..rest.chars().next().map_or(0, char::len_utf8)])
            ),
        }
    }
}

impl<'a> Keys<'a> {
    /// The next key, after whose value this is to be called again; `None` at the end of the object.
    pub(super) fn next(&mut self, scanner: &mut Scanner<'a>) -> Outcome<Option<Cow<'a, str>>> {
        if scanner.eat(b'}') {
            return Ok(None);
        }
        if !self.seen.is_empty() && !scanner.eat(b',') {
            return Err(scanner.expected("',' or '}'"));
        }
        let key = scanner.key()?;
        if self.seen.contains(&key) {
            return Err(twice(&key));
        }
        if self.seen.len() == MAX_KEYS {
            return Err(Fault::new(format!(
                "expected at most {MAX_KEYS} keys, got more"
            )));
        }
        self.seen.push(key.clone());
        Ok(Some(key))
    }
}

impl<'a> Names<'a> {
    /// Remembers a name, or gives back one that is there already.
    fn insert(&mut self, name: Cow<'a, str>) -> Result<(), Cow<'a, str>> {
        if self.many.contains(&name) || self.few.contains(&name) {
            return Err(name);
        }
        if self.many.is_empty() && self.few.len() < FEW_NAMES {
            self.few.push(name);
            return Ok(());
        }
        self.many.extend(self.few.drain(..));
        self.many.insert(name);
        Ok(())
    }
}

impl Items {
    /// Whether another item follows, after which this is to be called again.
    pub(super) fn next(&mut self, scanner: &mut Scanner<'_>) -> Outcome<bool> {
        let first = std::mem::replace(&mut self.first, false);
        if scanner.eat(b']') {
            return Ok(false);
        }
        if !first && !scanner.eat(b',') {
            return Err(scanner.expected("',' or ']'"));
        }
        Ok(true)
    }
}

/// The arrays and objects that [`Scanner::skip`] is inside of, one bit each, so that depth costs neither stack nor memory.
#[derive(Default)]
struct Open {
    objects: u128,
    depth: usize,
}

const _: () = assert!(MAX_NESTING <= 128, "Open has one bit for each level");

impl Open {
    fn push(&mut self, object: bool) -> bool {
        self.objects = (self.objects << 1) | u128::from(object);
        self.depth += 1;
        self.depth <= MAX_NESTING
    }

    fn pop(&mut self) {
        self.objects >>= 1;
        self.depth -= 1;
    }

    fn in_object(&self) -> bool {
        self.objects & 1 == 1
    }

    fn closer(&self) -> u8 {
        if self.in_object() { b'}' } else { b']' }
    }
}

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chars = self.0.chars();
        for char in chars.by_ref().take(EXCERPT_CHARS) {
            match char {
                '"' | '\'' => write!(f, "{char}")?,
                char => write!(f, "{}", char.escape_debug())?,
            }
        }
        f.write_str(if chars.next().is_some() { "..." } else { "" })
    }
}

/// A string of which the start is shown.
fn found_string(rest: &str) -> String {
    let special = |byte| matches!(byte, b'"' | b'\\' | 0..0x20);
    let end = rest.bytes().position(special).unwrap_or(rest.len());
    format!("\"{}\"", Excerpt(&rest[..end]))
}

#[cold]
fn twice(key: &str) -> Box<Fault> {
    Fault::new("expected this key once, got it twice").key(key)
}

#[cold]
fn bad_escape(at: usize) -> Box<Fault> {
    Fault::new(format!(
        "expected an escape sequence of JSON, with surrogates in pairs, at byte {at}"
    ))
}

#[inline]
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.' | b'_')
}
