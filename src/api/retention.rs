//! How long a topic keeps its records, as a user writes it: `30d`, `12h`.
//!
//! A [`Duration`](super::duration::Duration) that also knows days. It is a type of its own because CEL's `duration()`
//! knows none: a retention must not appear in a validation rule that compares times.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::duration::{self, DAY, UNITS, Unit};

const UNITS_AND_DAYS: [Unit; 5] = [DAY, UNITS[0], UNITS[1], UNITS[2], UNITS[3]];

/// How long records are kept, exact to the millisecond, written as whole numbers with units: `30d`, `12h`, `1d12h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Retention(u64);

/// A text that is not a retention.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{given:?} is not a retention: expected whole numbers with units (ms, s, m, h, d), such as 30d or 12h")]
pub struct RetentionError {
    given: String,
}

impl Retention {
    /// Makes a retention of so many days.
    pub const fn from_days(days: u64) -> Self {
        Self(days * DAY.1)
    }

    /// Returns the length in milliseconds, the unit of Kafka's `retention.ms`.
    pub const fn as_millis(self) -> u64 {
        self.0
    }
}

impl FromStr for Retention {
    type Err = RetentionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        duration::parse(text, &UNITS_AND_DAYS).map(Self).ok_or_else(|| RetentionError { given: text.to_owned() })
    }
}

impl TryFrom<String> for Retention {
    type Error = RetentionError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Retention> for String {
    fn from(retention: Retention) -> Self {
        retention.to_string()
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        duration::write(f, self.0, &UNITS_AND_DAYS)
    }
}

impl JsonSchema for Retention {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Retention".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^([0-9]+(ms|s|m|h|d))+$",
            "maxLength": 16,
            "example": "30d",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn days_are_understood_and_kept() {
        let retention: Retention = "30d".parse().unwrap();
        assert_eq!(retention.as_millis(), 30 * 24 * 3_600_000);
        assert_eq!(retention.to_string(), "30d");
    }

    #[test]
    fn what_is_not_a_retention_is_named_in_the_error() {
        let error = "1 month".parse::<Retention>().unwrap_err().to_string();
        assert!(error.starts_with("\"1 month\" is not a retention: expected"), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(millis: u64) {
            let retention = Retention(millis);
            prop_assert_eq!(retention.to_string().parse(), Ok(retention));
        }
    }
}
