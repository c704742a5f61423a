//! Numbers from their digits: integers exactly, floating-point numbers to the nearest value.

use half::{bf16, f16};

use super::scan::Scanner;

/// What the digits of a JSON number say: `mantissa * 10^exponent`.
struct Decimal {
    negative: bool,
    mantissa: u64,
    exponent: i64,
    /// Whether the mantissa holds all the digits; a number may have more than fit.
    whole: bool,
    /// Bytes of the number's text.
    len: usize,
}

/// The most decimal digits that always fit into a `u64`.
const MAX_DIGITS: usize = 19;

impl Scanner<'_> {
    /// Reads an integer, which must be in the range of the type. `None` leaves the scanner where it was, as in the methods below.
    #[inline]
    pub(super) fn unsigned<T: TryFrom<u64>>(&mut self) -> Option<T> {
        let (negative, magnitude, len) = self.integer()?;
        if negative && magnitude != 0 {
            return None;
        }
        let value = T::try_from(magnitude).ok()?;
        self.advance(len);
        Some(value)
    }

    /// Reads an integer, which must be in the range of the type.
    #[inline]
    pub(super) fn signed<T: TryFrom<i64>>(&mut self) -> Option<T> {
        let (negative, magnitude, len) = self.integer()?;
        let value = if negative {
            0_i64.checked_sub_unsigned(magnitude)?
        } else {
            i64::try_from(magnitude).ok()?
        };
        let value = T::try_from(value).ok()?;
        self.advance(len);
        Some(value)
    }

    /// Reads an `FP32`.
    #[inline]
    pub(super) fn float32(&mut self) -> Option<f32> {
        self.peek();
        let rest = self.rest();
        let Some(decimal) = decimal(rest) else {
            return self.word().map(|value| value as f32);
        };
        let value = match decimal.float32() {
            Some(value) => value,
            None => parse32(rest.get(..decimal.len)?)?,
        };
        self.advance(decimal.len);
        Some(value)
    }

    /// Reads an `FP64`.
    #[inline]
    pub(super) fn float64(&mut self) -> Option<f64> {
        self.peek();
        let rest = self.rest();
        let Some(decimal) = decimal(rest) else {
            return self.word();
        };
        let value = match decimal.float64() {
            Some(value) => value,
            None => parse64(rest.get(..decimal.len)?)?,
        };
        self.advance(decimal.len);
        Some(value)
    }

    /// Reads an `FP16`.
    pub(super) fn float16(&mut self) -> Option<f16> {
        self.narrow(f16::from_f64, f16::is_infinite)
    }

    /// Reads a `BF16`.
    pub(super) fn brain16(&mut self) -> Option<bf16> {
        self.narrow(bf16::from_f64, bf16::is_infinite)
    }

    /// Moves past a number if there is one.
    pub(super) fn skip_number(&mut self) -> bool {
        let len = decimal(self.rest()).map_or(0, |decimal| decimal.len);
        self.advance(len);
        len > 0
    }

    /// Moves past a number if there is one, and if it is in the range of an `FP64`: many a reader would make infinity of any other.
    pub(super) fn skip_finite(&mut self) -> bool {
        let rest = self.rest();
        let Some(decimal) = decimal(rest) else {
            return false;
        };
        let number = rest.get(..decimal.len).unwrap_or_default();
        let finite = decimal.is_small() || parse64(number).is_some();
        if finite {
            self.advance(decimal.len);
        }
        finite
    }

    fn narrow<T>(&mut self, from: fn(f64) -> T, is_infinite: fn(T) -> bool) -> Option<T> {
        let before = self.clone();
        let wide = self.float64()?;
        if wide.is_finite() && is_infinite(from(wide)) {
            *self = before;
            return None;
        }
        Some(from(wide))
    }

    /// The sign, the magnitude and the length of an integer.
    #[inline]
    fn integer(&mut self) -> Option<(bool, u64, usize)> {
        self.peek();
        let bytes = self.rest();
        let negative = bytes.first() == Some(&b'-');
        let start = usize::from(negative);
        let mut magnitude = 0;
        let end = digits(bytes, start, &mut magnitude);
        let leading_zero = end - start > 1 && bytes.get(start) == Some(&b'0');
        let more = matches!(bytes.get(end), Some(b'.' | b'e' | b'E'));
        if end == start || leading_zero || more {
            return None;
        }
        if end - start > MAX_DIGITS {
            magnitude = str::from_utf8(bytes.get(start..end)?).ok()?.parse().ok()?;
        }
        Some((negative, magnitude, end))
    }

    /// The words that stand for what JSON has no number for, bare or quoted.
    #[cold]
    fn word(&mut self) -> Option<f64> {
        let words = [
            ("NaN", f64::NAN),
            ("Infinity", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("\"NaN\"", f64::NAN),
            ("\"Infinity\"", f64::INFINITY),
            ("\"-Infinity\"", f64::NEG_INFINITY),
        ];
        let (_, value) = words.iter().find(|(word, _)| self.eat_word(word))?;
        Some(*value)
    }
}

/// The powers of ten that an `f64` holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

impl Decimal {
    /// Whether it is below the largest `f64` by the number of its digits alone.
    fn is_small(&self) -> bool {
        let digits = i64::try_from(self.len).unwrap_or(i64::MAX);
        digits.saturating_add(self.exponent) <= f64::MAX_10_EXP.into()
    }

    /// The nearest `f64`, where one rounding gets there: both numbers of the product or quotient are exact.
    #[inline]
    fn float64(&self) -> Option<f64> {
        if self.mantissa > 1 << f64::MANTISSA_DIGITS {
            return None;
        }
        self.scaled()
    }

    /// The nearest `f32`, by way of an `f64`. That has been rounded at most twice, so the true value is less than three of its last
    /// places away; unless the border between two `f32` is as near as that, rounding it again gives what rounding the true value gives.
    #[inline]
    fn float32(&self) -> Option<f32> {
        const DROPPED: u64 = (1 << (f64::MANTISSA_DIGITS - f32::MANTISSA_DIGITS)) - 1;
        const BORDER: u64 = DROPPED.div_ceil(2);
        const DOUBT: u64 = 3;
        let wide = self.scaled()?;
        let near_border = (wide.to_bits() & DROPPED).abs_diff(BORDER) <= DOUBT;
        let value = wide as f32;
        (!near_border && value.is_finite()).then_some(value)
    }

    #[inline]
    fn scaled(&self) -> Option<f64> {
        let power = *POWERS.get(usize::try_from(self.exponent.unsigned_abs()).ok()?)?;
        if !self.whole {
            return None;
        }
        let mantissa = self.mantissa as f64;
        let value = if self.exponent < 0 {
            mantissa / power
        } else {
            mantissa * power
        };
        Some(if self.negative { -value } else { value })
    }
}

/// The number at the start of the bytes, as JSON's grammar has it.
#[inline]
fn decimal(bytes: &[u8]) -> Option<Decimal> {
    let negative = bytes.first() == Some(&b'-');
    let start = usize::from(negative);
    let mut mantissa = 0;
    let mut end = digits(bytes, start, &mut mantissa);
    let mut count = end - start;
    if count == 0 || (count > 1 && bytes.get(start) == Some(&b'0')) {
        return None;
    }
    let mut exponent = 0;
    if bytes.get(end) == Some(&b'.') {
        let point = end + 1;
        end = digits(bytes, point, &mut mantissa);
        if end == point {
            return None;
        }
        count += end - point;
        exponent = -i64::try_from(end - point).ok()?;
    }
    if let Some(b'e' | b'E') = bytes.get(end) {
        let (power, past) = power(bytes, end + 1)?;
        exponent += power;
        end = past;
    }
    Some(Decimal {
        negative,
        mantissa,
        exponent,
        whole: count <= MAX_DIGITS || significant(bytes.get(start..end)?) <= MAX_DIGITS,
        len: end,
    })
}

/// The exponent after its `e`, and where it ends. It stops growing where no number is finite or other than zero any more.
#[cold]
fn power(bytes: &[u8], start: usize) -> Option<(i64, usize)> {
    let signed = matches!(bytes.get(start), Some(b'-' | b'+'));
    let first = start + usize::from(signed);
    let tail = bytes.get(first..)?;
    let count = tail.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 {
        return None;
    }
    let magnitude = tail[..count].iter().fold(0_i64, |value, digit| {
        (value * 10 + i64::from(digit - b'0')).min(1 << 40)
    });
    let negative = bytes.get(start) == Some(&b'-');
    Some((if negative { -magnitude } else { magnitude }, first + count))
}

/// How many digits there are without the zeros in front.
#[cold]
fn significant(number: &[u8]) -> usize {
    number
        .iter()
        .take_while(|byte| matches!(byte, b'0'..=b'9' | b'.'))
        .filter(|byte| **byte != b'.')
        .skip_while(|byte| **byte == b'0')
        .count()
}

/// Adds the digits from `at` on to the value, which wraps when they are too many, and says where they end.
#[inline]
fn digits(bytes: &[u8], mut at: usize, value: &mut u64) -> usize {
    while let Some(eight) = bytes.get(at..).and_then(|tail| tail.first_chunk::<8>()) {
        let values = u64::from_le_bytes(*eight) ^ ZEROS;
        let count = leading_digits(values);
        if count == 0 {
            return at;
        }
        // Moved to the upper end, so that zeros stand in front of them and nothing behind.
        let eight = values << (64 - 8 * count);
        *value = value
            .wrapping_mul(TENS[count])
            .wrapping_add(eight_digits(eight));
        at += count;
        if count < 8 {
            return at;
        }
    }
    while let Some(digit) = bytes.get(at).map(|byte| byte.wrapping_sub(b'0'))
        && digit < 10
    {
        *value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    at
}

/// Eight characters `0`. What is left of digits without it is their values.
const ZEROS: u64 = 0x3030_3030_3030_3030;

/// The powers of ten that so many digits, at most eight, are worth.
const TENS: [u64; 9] = [
    1,
    10,
    100,
    1_000,
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    100_000_000,
];

/// How many of eight bytes, from the lowest on, are values of digits. A byte above nine shows in its highest bit, by itself or when what
/// is missing to it is added; a carry out of it reaches only bytes behind it.
#[inline]
fn leading_digits(values: u64) -> usize {
    const MISSING: u64 = 0x7676_7676_7676_7676;
    const HIGHEST: u64 = 0x8080_8080_8080_8080;
    let above = (values.wrapping_add(MISSING) | values) & HIGHEST;
    (above.trailing_zeros() / 8) as usize
}

/// The number of eight values of digits, the first in the lowest byte: neighbours are joined to pairs, those to fours, those to the eight.
#[inline]
fn eight_digits(ones: u64) -> u64 {
    let pairs = (ones.wrapping_mul(10) + (ones >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(100) + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
    (fours.wrapping_mul(10_000) + (fours >> 32)) & 0xffff_ffff
}

#[cold]
fn parse32(number: &[u8]) -> Option<f32> {
    fast_float2::parse(number)
        .ok()
        .filter(|value: &f32| value.is_finite())
}

#[cold]
fn parse64(number: &[u8]) -> Option<f64> {
    fast_float2::parse(number)
        .ok()
        .filter(|value: &f64| value.is_finite())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scanner(text: &str) -> Scanner<'_> {
        Scanner::new(text.as_bytes()).unwrap()
    }

    /// What one of the readers makes of a text, if it reads all of it.
    fn whole<'t, T>(text: &'t str, read: impl Fn(&mut Scanner<'t>) -> Option<T>) -> Option<T> {
        let mut scanner = scanner(text);
        let value = read(&mut scanner)?;
        (scanner.left() == 0).then_some(value)
    }

    #[test]
    fn integers_are_exact_to_the_ends_of_their_ranges() {
        assert_eq!(
            whole("18446744073709551615", Scanner::unsigned),
            Some(u64::MAX)
        );
        assert_eq!(
            whole("18446744073709551616", Scanner::unsigned::<u64>),
            None
        );
        assert_eq!(
            whole("9007199254740993", Scanner::unsigned),
            Some(9_007_199_254_740_993_u64)
        );
        assert_eq!(
            whole("-9223372036854775808", Scanner::signed),
            Some(i64::MIN)
        );
        assert_eq!(whole("-9223372036854775809", Scanner::signed::<i64>), None);
        assert_eq!(whole("9223372036854775808", Scanner::signed::<i64>), None);
        assert_eq!(whole("255", Scanner::unsigned), Some(u8::MAX));
        assert_eq!(whole("256", Scanner::unsigned::<u8>), None);
        assert_eq!(whole("-1", Scanner::unsigned::<u8>), None);
        assert_eq!(whole("-0", Scanner::unsigned), Some(0_u8));
        assert_eq!(whole("-128", Scanner::signed), Some(i8::MIN));
        assert_eq!(whole("-129", Scanner::signed::<i8>), None);
    }

    #[test]
    fn what_is_no_integer() {
        for text in [
            "1.0",
            "1e3",
            "01",
            "-",
            "+1",
            "\"1\"",
            "true",
            "NaN",
            "0x10",
            "184467440737095516150",
        ] {
            assert_eq!(whole(text, Scanner::unsigned::<u64>), None, "{text}");
            assert_eq!(whole(text, Scanner::signed::<i64>), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_float() {
        for text in [
            "-",
            "+1",
            ".5",
            "1.",
            "01",
            "-01",
            "1e",
            "1e+",
            "1.e5",
            "nan",
            "inf",
            "infinity",
            "-NaN",
            "null",
            "0x1",
            "1e309",
            "1e999",
            "-1e999",
            "-0.5e1011",
            "1.8e308",
            "true",
            "\"1\"",
            "1_0",
            "1,5",
        ] {
            assert_eq!(whole(text, Scanner::float64), None, "{text}");
            assert_eq!(whole(text, Scanner::float32), None, "{text}");
        }
    }

    #[test]
    fn too_large_for_the_type_is_refused_and_too_small_is_zero() {
        assert_eq!(whole("3.4028236e38", Scanner::float32), None);
        assert_eq!(
            whole("340282350000000000000000000000000000000", Scanner::float32),
            Some(f32::MAX)
        );
        assert_eq!(whole("1e-60", Scanner::float32), Some(0.0));
        assert_eq!(whole("65520", Scanner::float16), None);
        assert_eq!(whole("65519.9", Scanner::float16), Some(f16::MAX));
        assert_eq!(whole("0.1", Scanner::float16), Some(f16::from_f32(0.1)));
        assert_eq!(whole("1e39", Scanner::brain16), None);
        assert_eq!(
            whole("1e-99999999999999999999", Scanner::float64),
            Some(0.0)
        );
        assert_eq!(whole("0e99999999999999999999", Scanner::float64), Some(0.0));
    }

    #[test]
    fn what_is_skipped_as_finite_is_what_can_be_read() {
        let zeros = "0".repeat(400);
        for (text, expected) in [
            ("-0.5e1011", false),
            ("0.5e1011", false),
            ("0e1011", true),
            ("-0.5e-1011", true),
            ("1.7976931348623157e308", true),
            ("1.7976931348623159e308", false),
            (&format!("0.{zeros}1e700"), true),
            (&format!("0.{zeros}1e710"), false),
            (&format!("1{zeros}"), false),
            (&format!("1{zeros}e-400"), true),
            (&format!("1e{zeros}1"), true),
            ("1e99999999999999999999", false),
            ("NaN", false),
            ("-", false),
        ] {
            let skipped = whole(text, |scanner| scanner.skip_finite().then_some(()));
            assert_eq!(skipped.is_some(), expected, "{text}");
            let read = whole(text, Scanner::float64).is_some_and(f64::is_finite);
            assert_eq!(read, expected, "{text}");
        }
    }

    #[test]
    fn words_stand_for_what_has_no_digits() {
        for (text, expected) in [
            ("Infinity", f32::INFINITY),
            ("-Infinity", f32::NEG_INFINITY),
            ("\"Infinity\"", f32::INFINITY),
            ("\"-Infinity\"", f32::NEG_INFINITY),
        ] {
            assert_eq!(whole(text, Scanner::float32), Some(expected));
        }
        assert!(whole("NaN", Scanner::float32).unwrap().is_nan());
        assert!(whole("\"NaN\"", Scanner::float64).unwrap().is_nan());
    }

    /// Decimal texts on and beside the borders between two `f32`, where two roundings would differ from one.
    #[test]
    fn the_nearest_float_is_found_beside_every_border() {
        let mut bits = 0x0000_0001_u32;
        while bits < 0x7f00_0000 {
            let low = f64::from(f32::from_bits(bits));
            let high = f64::from(f32::from_bits(bits + 1));
            let border = (low + high) / 2.0;
            for text in [
                format!("{border}"),
                format!("{border}1"),
                format!("{border:.17e}"),
                format!("{:.16e}", border.next_up()),
                format!("{:.16e}", border.next_down()),
                format!("{:e}", border.next_down()),
            ] {
                let expected = text.parse().ok().filter(|value: &f32| value.is_finite());
                assert_eq!(whole(&text, Scanner::float32), expected, "{text}");
            }
            bits = bits.wrapping_add(0x0009_1357);
        }
    }

    proptest! {
        #[test]
        fn floats_agree_with_the_standard_library(text in "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,25})?([eE][+-]?[0-9]{1,2})?") {
            let wide: f64 = text.parse().unwrap();
            prop_assert_eq!(whole(&text, Scanner::float64).map(f64::to_bits), Some(wide.to_bits()));
            let narrow: f32 = text.parse().unwrap();
            let expected = Some(narrow).filter(|value| value.is_finite()).map(f32::to_bits);
            prop_assert_eq!(whole(&text, Scanner::float32).map(f32::to_bits), expected);
        }

        /// Another reader of JSON takes the same texts for numbers. Its values are near, for it rounds more than once.
        #[test]
        fn numbers_are_those_of_serde_json(text in prop_oneof![
            "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,25})?([eE][+-]?[0-9]{1,5})?",
            "-?[0-9]{1,3}\\.?[0-9]{0,3}[eE]?[+-]?(30[0-9]|32[0-9]|[0-9]{0,30})",
            "[-+0-9.eE]{1,10}",
        ]) {
            let skipped = whole(&text, |scanner| scanner.skip_finite().then_some(()));
            let ours = whole(&text, Scanner::float64);
            let theirs: Option<f64> = serde_json::from_str(&text).ok();
            prop_assert_eq!(ours.is_some(), skipped.is_some());
            let border = ours.or(theirs).is_some_and(|value| value.abs() > 1.797e308);
            prop_assert!(border || ours.is_some() == theirs.is_some(), "{ours:?} and {theirs:?}");
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                let near = ours.abs() * 1e-14 + 1e-322;
                prop_assert!(ours.is_sign_negative() == theirs.is_sign_negative());
                prop_assert!((ours - theirs).abs() <= near, "{ours:?} and {theirs:?}");
            }
        }

        #[test]
        fn integers_agree_with_the_standard_library(text in "-?[0-9]{1,21}") {
            let plain = text.strip_prefix('-').unwrap_or(&text);
            let grammatical = plain == "0" || !plain.starts_with('0');
            prop_assert_eq!(whole(&text, Scanner::signed::<i64>), text.parse::<i64>().ok().filter(|_| grammatical));
            prop_assert_eq!(whole(plain, Scanner::unsigned::<u64>), plain.parse::<u64>().ok().filter(|_| grammatical));
            prop_assert_eq!(whole(&text, Scanner::signed::<i16>), text.parse::<i16>().ok().filter(|_| grammatical));
        }
    }
}
