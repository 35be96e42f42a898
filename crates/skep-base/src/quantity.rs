//! Amounts of a resource: `500m`, `1Gi`, `12e6`.
//!
//! Rules and rounding: k8s.io/apimachinery `pkg/api/resource`. Arithmetic is exact, in billionths.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How a quantity was written, and is written again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `12M`: powers of 1000, and fractions.
    #[default]
    DecimalSi,
    /// `12Mi`: powers of 1024.
    BinarySi,
    /// `12e6`.
    DecimalExponent,
}

/// Why a text is not a quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It does not have the form of one.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Form,
    /// More than about 1.7 × 10²⁹ in magnitude: the most that is counted exactly.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// An unknown suffix, `1Q` or `1i`.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// The smallest amount that is kept apart: a billionth, like the smallest suffix.
const NANOS_PER_UNIT: i128 = 1_000_000_000;
const NANOS_PER_MILLI: i128 = 1_000_000;
/// Numbers with binary suffixes are cut to this, as upstream does; decimal ones are not.
const BINARY_MAX_NANOS: i128 = i64::MAX as i128 * NANOS_PER_UNIT;
/// Numbers of up to this many digits keep the way in which they were written where that is unambiguous;
/// upstream holds them in an `i64`.
const KEPT_DIGITS: i64 = 18;
const KEPT_BINARY_DIGITS: i64 = 15;

/// An exact amount, in billionths, and the format in which it is written.
///
/// Equality and order are those of the amount: `1Ki` equals `1024`.
///
/// ```
/// # use skep_base::Quantity;
/// let q: Quantity = "1.5Gi".parse().unwrap();
/// assert_eq!(q.to_string(), "1536Mi");
/// assert_eq!(q.value(), 1536 << 20);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    /// A whole number.
    #[must_use]
    pub const fn new(value: i64, format: Format) -> Quantity {
        Quantity { nanos: value as i128 * NANOS_PER_UNIT, format }
    }

    /// Thousandths.
    #[must_use]
    pub const fn from_milli(milli: i64) -> Quantity {
        Quantity { nanos: milli as i128 * NANOS_PER_MILLI, format: Format::DecimalSi }
    }

    /// Billionths.
    #[must_use]
    pub const fn from_nanos(nanos: i128, format: Format) -> Quantity {
        Quantity { nanos, format }
    }

    /// The amount in billionths.
    #[must_use]
    pub const fn nanos(self) -> i128 {
        self.nanos
    }

    /// The format in which it is written.
    #[must_use]
    pub const fn format(self) -> Format {
        self.format
    }

    /// Whole units, fractions rounded away from zero; the nearest `i64` if it is beyond one.
    #[must_use]
    pub fn value(self) -> i64 {
        saturate(div_away_from_zero(self.nanos, NANOS_PER_UNIT))
    }

    /// Thousandths, smaller fractions rounded away from zero; the nearest `i64` if it is beyond one.
    #[must_use]
    pub fn milli_value(self) -> i64 {
        saturate(div_away_from_zero(self.nanos, NANOS_PER_MILLI))
    }

    /// Whole units if there is no fraction and they fit.
    #[must_use]
    pub fn as_i64(self) -> Option<i64> {
        if self.nanos % NANOS_PER_UNIT == 0 { i64::try_from(self.nanos / NANOS_PER_UNIT).ok() } else { None }
    }

    /// As near as a float comes.
    #[must_use]
    pub fn to_f64(self) -> f64 {
        self.nanos as f64 / NANOS_PER_UNIT as f64
    }

    /// Whether it is nothing.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// -1, 0 or 1.
    #[must_use]
    pub const fn signum(self) -> i32 {
        self.nanos.signum() as i32
    }

    /// The sum; `None` beyond what is counted exactly. Zero takes over the other's format.
    #[must_use]
    pub fn checked_add(self, other: Quantity) -> Option<Quantity> {
        let format = if self.is_zero() { other.format } else { self.format };
        Some(Quantity { nanos: self.nanos.checked_add(other.nanos)?, format })
    }

    /// The difference; `None` beyond what is counted exactly. Zero takes over the other's format.
    #[must_use]
    pub fn checked_sub(self, other: Quantity) -> Option<Quantity> {
        let format = if self.is_zero() { other.format } else { self.format };
        Some(Quantity { nanos: self.nanos.checked_sub(other.nanos)?, format })
    }

    /// So many times as much; `None` beyond what is counted exactly.
    #[must_use]
    pub fn checked_mul(self, times: i64) -> Option<Quantity> {
        Some(Quantity { nanos: self.nanos.checked_mul(i128::from(times))?, format: self.format })
    }

    /// Rounded away from zero to thousandths.
    #[must_use]
    pub fn round_up_to_milli(self) -> Quantity {
        let milli = div_away_from_zero(self.nanos, NANOS_PER_MILLI);
        Quantity { nanos: milli.saturating_mul(NANOS_PER_MILLI), format: self.format }
    }

    /// The form in which the API serves a quantity that was written as `text`. Usually the shortest
    /// (`0.5` becomes `500m`), but upstream leaves some other spellings alone (`1.500`, `+1`), so they
    /// are left alone here.
    ///
    /// # Errors
    /// [`QuantityError`] when the text is not a quantity.
    pub fn canonical(text: &str) -> Result<Cow<'_, str>, QuantityError> {
        let (quantity, kept) = parse(text)?;
        Ok(if kept { Cow::Borrowed(text) } else { Cow::Owned(quantity.to_string()) })
    }

    /// Like [`Quantity::canonical`], rounded up to thousandths: what containers' resources are.
    ///
    /// # Errors
    /// [`QuantityError`] when the text is not a quantity.
    pub fn canonical_milli(text: &str) -> Result<Cow<'_, str>, QuantityError> {
        let (quantity, kept) = parse(text)?;
        let rounded = quantity.round_up_to_milli();
        Ok(if kept && rounded == quantity { Cow::Borrowed(text) } else { Cow::Owned(rounded.to_string()) })
    }
}

fn div_away_from_zero(n: i128, by: i128) -> i128 {
    let quotient = n / by;
    if n % by == 0 { quotient } else { quotient + n.signum() }
}

fn saturate(n: i128) -> i64 {
    i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
}

impl Add for Quantity {
    type Output = Quantity;
    /// The sum; at the limits of what is counted exactly it stays there.
    fn add(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}

impl Sub for Quantity {
    type Output = Quantity;
    /// The difference; at the limits of what is counted exactly it stays there.
    fn sub(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_sub(other.nanos), format }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Quantity) {
        *self = *self - other;
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl Hash for Quantity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Quantity, QuantityError> {
        parse(text).map(|(quantity, _)| quantity)
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that allows that.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos % NANOS_PER_UNIT == 0;
        if self.format == Format::BinarySi && whole && self.nanos.abs() >= 1024 * NANOS_PER_UNIT {
            const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
            let (mut number, mut step) = (self.nanos / NANOS_PER_UNIT, 0);
            while number % 1024 == 0 && step + 1 < SUFFIXES.len() {
                number /= 1024;
                step += 1;
            }
            return write!(f, "{number}{}", SUFFIXES[step]);
        }
        let (mut number, mut exponent) = (self.nanos, -9i32);
        while number % 1000 == 0 {
            number /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { write!(f, "{number}") } else { write!(f, "{number}e{exponent}") };
        }
        const SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        let mut step = usize::try_from((exponent + 9) / 3).unwrap_or(0);
        while step >= SUFFIXES.len() {
            // There is no suffix beyond exa.
            number *= 1000;
            step -= 1;
        }
        write!(f, "{number}{}", SUFFIXES[step])
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Quantity, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.trim().parse().map_err(serde::de::Error::custom)
    }
}

/// What a suffix means.
struct Suffix {
    binary: bool,
    exponent: i64,
    format: Format,
}

fn suffix(text: &str) -> Option<Suffix> {
    let si = |exponent| Some(Suffix { binary: false, exponent, format: Format::DecimalSi });
    let bi = |exponent| Some(Suffix { binary: true, exponent, format: Format::BinarySi });
    match text {
        "n" => si(-9),
        "u" => si(-6),
        "m" => si(-3),
        "" => si(0),
        "k" => si(3),
        "M" => si(6),
        "G" => si(9),
        "T" => si(12),
        "P" => si(15),
        "E" => si(18),
        "Ki" => bi(10),
        "Mi" => bi(20),
        "Gi" => bi(30),
        "Ti" => bi(40),
        "Pi" => bi(50),
        "Ei" => bi(60),
        _ => {
            let exponent = text.strip_prefix(['e', 'E'])?.parse().ok()?;
            Some(Suffix { binary: false, exponent, format: Format::DecimalExponent })
        }
    }
}

/// The parts of `-12.5Mi`: whether it is negative, `12`, `5`, `Mi`. Leading zeros are dropped.
fn split(text: &str) -> Result<(bool, &str, &str, &str), QuantityError> {
    if text.is_empty() {
        return Err(QuantityError::Form);
    }
    let negative = text.starts_with('-');
    let rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    let rest = rest.trim_start_matches('0');
    let digits = |s: &str| s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
    let (whole, mut rest) = rest.split_at(digits(rest));
    let whole = if whole.is_empty() { "0" } else { whole };
    let mut fraction = "";
    if let Some(after) = rest.strip_prefix('.') {
        (fraction, rest) = after.split_at(digits(after));
    }
    let letters = rest.find(|c: char| !"eEinumkKMGTP".contains(c)).unwrap_or(rest.len());
    let exponent = &rest[letters..];
    let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
    if digits(exponent) < exponent.len() {
        return Err(QuantityError::Form);
    }
    Ok((negative, whole, fraction, rest))
}

/// The quantity, and whether upstream would write it again as it came.
fn parse(text: &str) -> Result<(Quantity, bool), QuantityError> {
    let (negative, whole, fraction, rest) = split(text)?;
    if text == "0" {
        return Ok((Quantity::ZERO, true));
    }
    let suffix = suffix(rest).ok_or(QuantityError::Suffix)?;
    let nanos = if suffix.binary {
        binary_nanos(whole, fraction, suffix.exponent)
    } else {
        decimal_nanos(whole, fraction, suffix.exponent)?
    };
    // Less than one has no binary form.
    let format =
        if suffix.binary && nanos > 0 && nanos < NANOS_PER_UNIT { Format::DecimalSi } else { suffix.format };
    let kept = if suffix.binary {
        kept_binary(whole, fraction, suffix.exponent)
    } else {
        kept_decimal(whole, fraction, suffix.exponent)
    };
    Ok((Quantity { nanos: if negative { -nanos } else { nanos }, format }, kept))
}

fn kept_decimal(whole: &str, fraction: &str, exponent: i64) -> bool {
    let digits = (whole.len() + fraction.len()) as i64;
    let scale = exponent.saturating_sub(fraction.len() as i64);
    let mut last = whole.bytes().chain(fraction.bytes()).rev();
    let round = digits >= 3 && last.by_ref().take(3).all(|b| b == b'0');
    digits <= KEPT_DIGITS && scale >= -9 && scale % 3 == 0 && !round && !whole.starts_with('0')
}

fn kept_binary(whole: &str, fraction: &str, exponent: i64) -> bool {
    if !fraction.is_empty() || KEPT_BINARY_DIGITS - whole.len() as i64 - exponent * 3 / 10 < 1 {
        return false;
    }
    whole.parse::<i64>().is_ok_and(|value| value & 7 != 0)
}

fn decimal_nanos(whole: &str, fraction: &str, exponent: i64) -> Result<i128, QuantityError> {
    let digits: Vec<u8> =
        whole.bytes().chain(fraction.bytes()).skip_while(|&b| b == b'0').map(|b| b - b'0').collect();
    if digits.is_empty() {
        return Ok(0);
    }
    // digits × 10^shift nanos
    let shift = exponent.saturating_sub(fraction.len() as i64).saturating_add(9);
    let (head, tail) = if shift < 0 {
        let dropped = usize::try_from(shift.unsigned_abs()).unwrap_or(usize::MAX);
        digits.split_at(digits.len().saturating_sub(dropped))
    } else {
        (digits.as_slice(), [].as_slice())
    };
    let mut nanos = head
        .iter()
        .try_fold(0i128, |n, &d| n.checked_mul(10)?.checked_add(i128::from(d)))
        .ok_or(QuantityError::Numeric)?;
    if tail.iter().any(|&d| d != 0) {
        nanos = nanos.checked_add(1).ok_or(QuantityError::Numeric)?;
    }
    if shift > 0 {
        let power = u32::try_from(shift).ok().and_then(|s| 10i128.checked_pow(s));
        nanos = power.and_then(|p| nanos.checked_mul(p)).ok_or(QuantityError::Numeric)?;
    }
    Ok(nanos)
}

fn binary_nanos(whole: &str, fraction: &str, exponent: i64) -> i128 {
    // More digits than an i64 has are beyond the cut anyway.
    const I64_DIGITS: usize = 19;
    if whole.len() > I64_DIGITS {
        return BINARY_MAX_NANOS;
    }
    let unit = 1i128 << exponent;
    let whole = whole.bytes().fold(0i128, |n, b| n * 10 + i128::from(b - b'0')) * unit;
    if whole > i128::from(i64::MAX) {
        return BINARY_MAX_NANOS;
    }
    // The fraction times the unit, from the last digit to the first, so that any number of digits fits.
    let unit_nanos = unit * NANOS_PER_UNIT;
    let (mut nanos, mut inexact) = (0i128, false);
    for digit in fraction.bytes().rev() {
        let n = nanos + i128::from(digit - b'0') * unit_nanos;
        nanos = n / 10;
        inexact |= n % 10 != 0;
    }
    (whole * NANOS_PER_UNIT + nanos + i128::from(inexact)).min(BINARY_MAX_NANOS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn q(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn canonical_forms_are_upstreams() {
        let table = [
            ("0", "0"),
            ("0n", "0"),
            ("0Ki", "0"),
            ("-0", "0"),
            ("+", "0"),
            ("1", "1"),
            ("+1", "+1"),
            ("0001", "0001"),
            ("1000m", "1"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1."),
            ("1.5", "1500m"),
            ("1.500", "1.500"),
            ("0.001", "1m"),
            ("100m", "100m"),
            ("1e3", "1e3"),
            ("1E3", "1E3"),
            ("1e2", "100"),
            ("1e4", "10e3"),
            ("1e-3", "1e-3"),
            ("12e6", "12e6"),
            ("1E", "1E"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1024Mi", "1Gi"),
            ("1023Ki", "1023Ki"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("0.5Mi", "512Ki"),
            ("0.1Ki", "102400m"),
            ("0.0001Ki", "102400u"),
            ("8Ki", "8Ki"),
            ("500Mi", "500Mi"),
            ("-1.5Gi", "-1536Mi"),
            ("100Ei", "9223372036854775807"),
            ("8Ei", "9223372036854775807"),
            ("7Ei", "7Ei"),
            ("0.1n", "1n"),
            ("1.1n", "2n"),
            ("-1.1n", "-2n"),
            ("1e-100", "1e-9"),
            ("123456789012345678901", "123456789012345678901"),
            ("1000E", "1000E"),
            ("0.000000000000000000000000000000000000000000001", "1n"),
        ];
        for (text, want) in table {
            assert_eq!(Quantity::canonical(text).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn bad_texts_give_upstreams_errors() {
        let form = QuantityError::Form;
        let table = [
            ("", form),
            (" 1", form),
            ("1 ", form),
            ("1.1.M", form),
            ("1+1.0M", form),
            ("0.1mi", QuantityError::Suffix),
            ("0.1am", form),
            ("aoeu", form),
            (".5i", QuantityError::Suffix),
            ("1i", QuantityError::Suffix),
            ("-3.01i", QuantityError::Suffix),
            ("-3.01e-", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
            ("1K", QuantityError::Suffix),
            ("1kk", QuantityError::Suffix),
            ("1e30", QuantityError::Numeric),
            ("1e9999999999999999999", QuantityError::Suffix),
            ("1é", form),
        ];
        for (text, want) in table {
            assert_eq!(text.parse::<Quantity>().unwrap_err(), want, "{text}");
        }
        assert_eq!(
            form.to_string(),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        );
    }

    #[test]
    fn values_round_away_from_zero() {
        let table = [
            ("0", 0, 0),
            ("1m", 1, 1),
            ("-1m", -1, -1),
            ("1001m", 2, 1001),
            ("1n", 1, 1),
            ("1Ki", 1024, 1_024_000),
            ("10E", i64::MAX, i64::MAX),
            ("-10E", i64::MIN, i64::MIN),
        ];
        for (text, value, milli) in table {
            assert_eq!((q(text).value(), q(text).milli_value()), (value, milli), "{text}");
        }
        assert_eq!(Quantity::canonical_milli("1.0001").unwrap(), "1001m");
        assert_eq!(Quantity::canonical_milli("1.500").unwrap(), "1.500");
        assert_eq!(Quantity::canonical_milli("100u").unwrap(), "1m");
        assert_eq!(Quantity::canonical_milli("1.000001").unwrap(), "1001m");
    }

    #[test]
    fn sums_keep_the_first_format_unless_it_is_zero() {
        assert_eq!((q("1Gi") + q("1")).to_string(), "1073741825");
        assert_eq!((q("0") + q("1Gi")).to_string(), "1Gi");
        assert_eq!((q("1Gi") - q("512Mi")).to_string(), "512Mi");
        assert_eq!((q("100m") + q("900m")).to_string(), "1");
        assert_eq!((q("1e3") + q("1k")).to_string(), "2e3");
        assert!(q("1Ki") == q("1024") && q("1M") < q("1Mi"));
        let most = Quantity::from_nanos(i128::MAX, Format::DecimalSi);
        assert_eq!(most.checked_add(q("1n")), None);
        assert_eq!(most + q("1"), most);
    }

    proptest! {
        /// Writing and reading again changes nothing, whatever the format.
        #[test]
        fn display_round_trips(nanos in -(1i128 << 90)..(1i128 << 90), format in 0..3) {
            let format = [Format::DecimalSi, Format::BinarySi, Format::DecimalExponent][format as usize];
            // Binary numbers are cut to an i64, so only such ones can come back.
            prop_assume!(format != Format::BinarySi || nanos.abs() <= BINARY_MAX_NANOS);
            let quantity = Quantity::from_nanos(nanos, format);
            let text = quantity.to_string();
            let again = q(&text);
            prop_assert_eq!(again, quantity, "{}", &text);
            prop_assert_eq!(again.to_string(), text);
        }

        /// Whatever the text: no panic, and the canonical form is the same amount and stays as it is.
        #[test]
        fn canonical_is_idempotent(text in "[+-]?[0-9]{0,25}(\\.[0-9]{0,25})?(|[numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})") {
            if let Ok(once) = Quantity::canonical(&text) {
                prop_assert_eq!(q(&once), q(&text));
                prop_assert_eq!(Quantity::canonical(&once).unwrap(), once.clone());
            }
        }

        /// Any text at all is a quantity or an error, never a panic.
        #[test]
        fn any_text(text in "\\PC*") {
            let _ = text.parse::<Quantity>();
        }

        /// Sums of whole numbers are those of integers; so is the order.
        #[test]
        fn agrees_with_integers(a in -(1i64 << 61)..(1i64 << 61), b in -(1i64 << 61)..(1i64 << 61)) {
            let (x, y) = (Quantity::new(a, Format::DecimalSi), Quantity::new(b, Format::BinarySi));
            prop_assert_eq!((x + y).value(), a + b);
            prop_assert_eq!((x - y).as_i64(), Some(a - b));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        }
    }
}
