//! Cron schedules in the standard form: five fields, or a descriptor such as `@daily`.
//!
//! What is a schedule, and what clients read when a text is none, is decided by robfig/cron v3's standard
//! parser; no Rust crate has its rules (names only of months and week days, `?`, `N/step`, no `7` for
//! Sunday, no `L`, `W` or `#`), so they are written down here.

use super::time_zone;

/// When a cron job runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At the minutes that all fields allow.
    Spec(Spec),
    /// Again and again after this many seconds.
    Every {
        /// At least 1.
        seconds: u64,
    },
}

/// The fields of a schedule, a bit for each allowed value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    /// 0 to 59.
    pub minutes: u64,
    /// 0 to 23.
    pub hours: u64,
    /// 1 to 31.
    pub days_of_month: u64,
    /// 1 to 12.
    pub months: u64,
    /// 0 (Sunday) to 6.
    pub days_of_week: u64,
    /// Whether the day of the month was left open (`*` or `?`). A day must match both day fields if one of
    /// them is open, otherwise one of them is enough.
    pub any_day_of_month: bool,
    /// Whether the day of the week was left open.
    pub any_day_of_week: bool,
    /// The time zone that the text itself names.
    pub time_zone: Option<String>,
}

/// Why a text is not a schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ScheduleError(String);

struct Bounds {
    min: u64,
    max: u64,
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { min: 0, max: 59, names: &[] };
const HOURS: Bounds = Bounds { min: 0, max: 23, names: &[] };
const DAYS_OF_MONTH: Bounds = Bounds { min: 1, max: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const DAYS_OF_WEEK: Bounds =
    Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// [`ScheduleError`], worded as clients expect it.
    pub fn parse(text: &str) -> Result<Schedule, ScheduleError> {
        if text.is_empty() {
            return fail("empty spec string");
        }
        let mut text = text;
        let mut zone = None;
        if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
            let Some((head, rest)) = text.split_once(' ') else {
                return fail("invalid schedule format: runtime error: slice bounds out of range [:-1]");
            };
            let name = head.split_once('=').map_or("", |(_, name)| name);
            if let Err(e) = time_zone::check(name) {
                return fail(&format!("provided bad location {name}: {e}"));
            }
            zone = Some(name.to_owned());
            text = rest.trim();
        }
        if text.starts_with('@') {
            return descriptor(text, zone);
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days_of_month, months, days_of_week] = fields.as_slice() else {
            let list = fields.join(" ");
            return fail(&format!("expected exactly 5 fields, found {}: [{list}]", fields.len()));
        };
        let (minutes, _) = field(minutes, &MINUTES)?;
        let (hours, _) = field(hours, &HOURS)?;
        let (days_of_month, any_day_of_month) = field(days_of_month, &DAYS_OF_MONTH)?;
        let (months, _) = field(months, &MONTHS)?;
        let (days_of_week, any_day_of_week) = field(days_of_week, &DAYS_OF_WEEK)?;
        Ok(Schedule::Spec(Spec {
            minutes,
            hours,
            days_of_month,
            months,
            days_of_week,
            any_day_of_month,
            any_day_of_week,
            time_zone: zone,
        }))
    }
}

fn fail<T>(message: &str) -> Result<T, ScheduleError> {
    Err(ScheduleError(message.to_owned()))
}

fn descriptor(text: &str, time_zone: Option<String>) -> Result<Schedule, ScheduleError> {
    const FIRST: u64 = 1;
    let days_of_month = bits(DAYS_OF_MONTH.min, DAYS_OF_MONTH.max, 1);
    let months = bits(MONTHS.min, MONTHS.max, 1);
    let days_of_week = bits(DAYS_OF_WEEK.min, DAYS_OF_WEEK.max, 1);
    // Midnight of every day.
    let daily = Spec {
        minutes: FIRST,
        hours: FIRST,
        days_of_month,
        months,
        days_of_week,
        any_day_of_month: true,
        any_day_of_week: true,
        time_zone,
    };
    let first_of_month =
        |daily| Spec { days_of_month: 1 << DAYS_OF_MONTH.min, any_day_of_month: false, ..daily };
    let spec = match text {
        "@yearly" | "@annually" => Spec { months: 1 << MONTHS.min, ..first_of_month(daily) },
        "@monthly" => first_of_month(daily),
        "@weekly" => Spec { days_of_week: FIRST, any_day_of_week: false, ..daily },
        "@daily" | "@midnight" => daily,
        "@hourly" => Spec { hours: bits(HOURS.min, HOURS.max, 1), ..daily },
        _ => {
            let Some(duration) = text.strip_prefix("@every ") else {
                return fail(&format!("unrecognized descriptor: {text}"));
            };
            return match go_duration_ns(duration) {
                // Less than a second is a second, and fractions are dropped.
                Ok(ns) => {
                    Ok(Schedule::Every { seconds: u64::try_from(ns / 1_000_000_000).unwrap_or(0).max(1) })
                }
                Err(e) => fail(&format!("failed to parse duration {text}: {e}")),
            };
        }
    };
    Ok(Schedule::Spec(spec))
}

/// The bits of a list of ranges, and whether one of them is open.
fn field(text: &str, bounds: &Bounds) -> Result<(u64, bool), ScheduleError> {
    let mut all = (0, false);
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (bits, open) = range(part, bounds)?;
        all = (all.0 | bits, all.1 | open);
    }
    Ok(all)
}

fn range(text: &str, bounds: &Bounds) -> Result<(u64, bool), ScheduleError> {
    let mut parts = text.split('/');
    let (limits, step, too_many) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let mut limits = limits.split('-');
    let (low, high, too_high) = (limits.next().unwrap_or_default(), limits.next(), limits.next());
    let mut open = low == "*" || low == "?";
    let (start, mut end) = if open {
        (bounds.min, bounds.max)
    } else {
        let start = number_or_name(low, bounds)?;
        match (high, too_high) {
            (None, _) => (start, start),
            (Some(high), None) => (start, number_or_name(high, bounds)?),
            _ => return fail(&format!("too many hyphens: {text}")),
        }
    };
    let step = match (step, too_many) {
        (None, _) => 1,
        (Some(step), None) => {
            let step = number(step)?;
            if high.is_none() {
                end = bounds.max;
            }
            open &= step <= 1;
            step
        }
        _ => return fail(&format!("too many slashes: {text}")),
    };
    if start < bounds.min {
        return fail(&format!("beginning of range ({start}) below minimum ({}): {text}", bounds.min));
    }
    if end > bounds.max {
        return fail(&format!("end of range ({end}) above maximum ({}): {text}", bounds.max));
    }
    if start > end {
        return fail(&format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return fail(&format!("step of range should be a positive number: {text}"));
    }
    Ok((bits(start, end, step), open))
}

/// A bit for each step from `start` to `end`, both below 64.
fn bits(start: u64, end: u64, step: u64) -> u64 {
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    (start..=end).step_by(step).fold(0, |bits, i| bits | 1 << i)
}

fn number_or_name(text: &str, bounds: &Bounds) -> Result<u64, ScheduleError> {
    let name = bounds.names.iter().position(|n| text.eq_ignore_ascii_case(n));
    match name.and_then(|i| u64::try_from(i).ok()) {
        Some(i) => Ok(bounds.min + i),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u64, ScheduleError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let why = if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        "invalid syntax"
    } else {
        match text.parse::<i64>() {
            Ok(n) => {
                let negative = || ScheduleError(format!("negative number ({n}) not allowed: {text}"));
                return u64::try_from(n).map_err(|_| negative());
            }
            Err(_) => "value out of range",
        }
    };
    fail(&format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: {why}"))
}

/// A duration such as `1h30m` or `1.5s`, in nanoseconds.
fn go_duration_ns(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let unit_ns: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        let whole: i128 =
            if whole.is_empty() { 0 } else { i128::from(whole.parse::<i64>().map_err(|_| invalid())?) };
        // Digits beyond the 18th are below a nanosecond even of an hour.
        let digits = &fraction[..fraction.len().min(18)];
        let scale = 10i128.pow(u32::try_from(digits.len()).unwrap_or_default());
        let part: i128 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| invalid())? };
        total += whole * unit_ns + part * unit_ns / scale;
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}
