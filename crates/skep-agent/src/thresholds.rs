//! How short a node may become before pods are evicted (`--eviction-hard`), written as upstream's kubelet takes it.

use std::fmt;
use std::str::FromStr;

use skep_base::quantity::Quantity;

/// How much of something must stay available.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Amount {
    /// Bytes, inodes or process ids.
    Absolute(u64),
    /// A part of all there is, from 0 to 1.
    Part(f64),
}

impl Amount {
    fn of(self, all: u64) -> i64 {
        let amount = match self {
            Amount::Absolute(amount) => amount,
            // Rounding to a byte is enough.
            Amount::Part(part) => (all as f64 * part) as u64,
        };
        i64::try_from(amount).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Amount::Absolute(amount) => write!(f, "{amount}"),
            Amount::Part(part) => write!(f, "{}%", part * 100.0),
        }
    }
}

impl FromStr for Amount {
    type Err = String;
    fn from_str(text: &str) -> Result<Amount, String> {
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().map_err(|_| format!("{text:?} is not a percentage"))?;
            return match (0.0..100.0).contains(&percent) {
                true => Ok(Amount::Part(percent / 100.0)),
                false => Err(format!("{text:?} is not between 0% and 100%")),
            };
        }
        let quantity = text.parse::<Quantity>().map_err(|e| e.to_string())?;
        let amount = u64::try_from(quantity.value()).map_err(|_| format!("{text:?} is less than nothing"))?;
        Ok(Amount::Absolute(amount))
    }
}

/// Below which amounts pods have to go. The defaults are upstream's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    memory: Amount,
    disk: Amount,
    inodes: Amount,
    pids: Amount,
}

/// Upstream has no default for process ids; but without them nobody can even log in to look.
impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds {
            memory: Amount::Absolute(100 << 20),
            disk: Amount::Part(0.10),
            inodes: Amount::Part(0.05),
            pids: Amount::Part(0.05),
        }
    }
}

impl Thresholds {
    /// Bytes of memory, of so many.
    #[must_use]
    pub fn memory(&self, all: i64) -> i64 {
        self.memory.of(u64::try_from(all).unwrap_or(0))
    }

    /// Bytes of disk, of so many.
    #[must_use]
    pub fn disk(&self, all: u64) -> i64 {
        self.disk.of(all)
    }

    /// Inodes, of so many.
    #[must_use]
    pub fn inodes(&self, all: u64) -> i64 {
        self.inodes.of(all)
    }

    /// Process ids, of so many.
    #[must_use]
    pub fn pids(&self, all: u64) -> i64 {
        self.pids.of(all)
    }
}

impl fmt::Display for Thresholds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Thresholds { memory, disk, inodes, pids } = self;
        write!(
            f,
            "memory.available<{memory},nodefs.available<{disk},nodefs.inodesFree<{inodes},pid.available<{pids}"
        )
    }
}

/// `SIGNAL<AMOUNT`, separated by commas; what is not named keeps its default.
impl FromStr for Thresholds {
    type Err = String;
    fn from_str(text: &str) -> Result<Thresholds, String> {
        let mut found = Thresholds::default();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (signal, amount) = part
                .split_once('<')
                .ok_or_else(|| format!("{part:?} has no `<`: write it like `nodefs.available<5%`"))?;
            let place = match signal.trim() {
                "memory.available" => &mut found.memory,
                "nodefs.available" => &mut found.disk,
                "nodefs.inodesFree" => &mut found.inodes,
                "pid.available" => &mut found.pids,
                other => {
                    return Err(format!(
                        "nothing is known of {other:?}: there are memory.available, nodefs.available, \
                         nodefs.inodesFree and pid.available"
                    ));
                }
            };
            *place = amount.trim().parse()?;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_parts() {
        let given: Thresholds =
            "nodefs.available<1%, memory.available<64Mi,pid.available<100".parse().unwrap();
        assert_eq!((given.memory(1 << 40), given.disk(1000), given.pids(5)), (64 << 20, 10, 100));
        assert_eq!(given.inodes(1000), 50, "what is not named keeps its default");
        let default = Thresholds::default();
        assert_eq!("".parse(), Ok(default));
        assert_eq!(default.to_string().parse(), Ok(default));
        assert_eq!(default.memory(0), 100 << 20);
        assert_eq!(default.disk(252), 25);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            ("nodefs.available", "no `<`"),
            ("disk<1%", "nothing is known of \"disk\""),
            ("nodefs.available<101%", "not between"),
            ("nodefs.available<x%", "not a percentage"),
            ("memory.available<-1Mi", "less than nothing"),
        ] {
            let said = text.parse::<Thresholds>().unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
        assert!("memory.available<lots".parse::<Thresholds>().is_err());
    }
}
