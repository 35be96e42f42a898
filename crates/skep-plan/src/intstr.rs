//! Numbers that may be a share: `3` or `25%`.

use serde::{Deserialize, Deserializer};

/// A count, or a share of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntOrPercent {
    /// So many.
    Int(i32),
    /// So many of a hundred.
    Percent(i32),
}

impl IntOrPercent {
    /// How many that is of `total`, rounded up.
    #[must_use]
    pub fn up(self, total: i32) -> i32 {
        match self {
            IntOrPercent::Int(n) => n,
            IntOrPercent::Percent(p) => clamp((i64::from(p) * i64::from(total) + 99).div_euclid(100)),
        }
    }

    /// How many that is of `total`, rounded down.
    #[must_use]
    pub fn down(self, total: i32) -> i32 {
        match self {
            IntOrPercent::Int(n) => n,
            IntOrPercent::Percent(p) => clamp((i64::from(p) * i64::from(total)).div_euclid(100)),
        }
    }
}

fn clamp(n: i64) -> i32 {
    i32::try_from(n).unwrap_or(if n < 0 { i32::MIN } else { i32::MAX })
}

impl<'de> Deserialize<'de> for IntOrPercent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<IntOrPercent, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Int(i32),
            Text(String),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Int(n) => Ok(IntOrPercent::Int(n)),
            Raw::Text(text) => match text.strip_suffix('%').and_then(|n| n.parse().ok()) {
                Some(percent) => Ok(IntOrPercent::Percent(percent)),
                None => {
                    Err(serde::de::Error::custom(format!("{text:?} is neither a number nor a percentage")))
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::IntOrPercent;

    #[test]
    fn shares_round_as_asked() {
        let quarter: IntOrPercent = serde_json::from_str("\"25%\"").unwrap();
        assert_eq!((quarter.up(10), quarter.down(10)), (3, 2));
        assert_eq!((quarter.up(0), quarter.down(0)), (0, 0));
        assert_eq!(serde_json::from_str::<IntOrPercent>("3").unwrap().up(1), 3);
        assert!(serde_json::from_str::<IntOrPercent>("\"3\"").is_err());
    }
}
