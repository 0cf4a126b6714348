//! A length of time as a user writes it: `500ms`, `1s`, `1m30s`.
//!
//! The units are those that CEL's `duration()` reads, so that the API server can compare two fields. Days are not among
//! them: see [`Retention`](super::retention::Retention) for a time that is never compared.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A unit's name and its length in milliseconds.
pub(super) type Unit = (&'static str, u64);

/// The units in the order in which they are written; [`DAY`] comes before them where it is allowed.
pub(super) const UNITS: [Unit; 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The unit that only a retention may use.
pub(super) const DAY: Unit = ("d", 86_400_000);

/// A length of time, exact to the millisecond, written as whole numbers with units: `500ms`, `1s`, `1m30s`, `2h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration(u64);

/// A text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{given:?} is not a duration: expected whole numbers with units (ms, s, m, h), such as 500ms, 30s or 1m30s")]
pub struct DurationError {
    given: String,
}

impl Duration {
    /// Makes a duration of so many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Makes a duration of so many seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs * 1_000)
    }

    /// Returns the length in milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        Self::from_millis(duration.0)
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text, &UNITS).map(Self).ok_or_else(|| DurationError { given: text.to_owned() })
    }
}

impl TryFrom<String> for Duration {
    type Error = DurationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Duration> for String {
    fn from(duration: Duration) -> Self {
        duration.to_string()
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, self.0, &UNITS)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^([0-9]+(ms|s|m|h))+$",
            "maxLength": 16,
            "example": "1m30s",
        })
    }
}

/// Reads numbers with units into milliseconds; `None` when the text is anything else or the sum overflows.
pub(super) fn parse(text: &str, units: &[Unit]) -> Option<u64> {
    let mut millis = 0_u64;
    let mut rest = text;
    loop {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let (_, length) = units.iter().find(|(name, _)| *name == unit)?;
        millis = millis.checked_add(number.parse::<u64>().ok()?.checked_mul(*length)?)?;
        if after.is_empty() {
            return Some(millis);
        }
        rest = after;
    }
}

/// Writes milliseconds with the largest units first; nothing at all is `0s`.
pub(super) fn write(f: &mut fmt::Formatter<'_>, millis: u64, units: &[Unit]) -> fmt::Result {
    if millis == 0 {
        return f.write_str("0s");
    }
    let mut rest = millis;
    for (unit, length) in units {
        if rest >= *length {
            write!(f, "{}{unit}", rest / length)?;
            rest %= length;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_add_up() {
        assert_eq!("1m30s".parse(), Ok(Duration::from_secs(90)));
        assert_eq!("500ms".parse(), Ok(Duration::from_millis(500)));
        assert_eq!("0s".parse(), Ok(Duration::default()));
    }

    #[test]
    fn what_is_not_a_duration_is_named_in_the_error() {
        for text in ["", "5", "5 minutes", "1.5s", "-1s", "s", "1d", "99999999999999999h"] {
            let error = text.parse::<Duration>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} is not a duration: expected")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(millis: u64) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = text.parse::<Duration>();
        }
    }
}
