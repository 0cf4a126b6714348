//! A number of bytes as a user writes it: `4Ki`, `64Mi`, `1M`, `1000`.
//!
//! The suffixes are those of Kubernetes quantities. Fractions, exponents and negative numbers are quantities too, but
//! nothing here needs half a byte: they are refused.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::schema::TextOrInteger;

/// Suffixes and what they stand for, in the order in which a size tries them when it is written.
const SUFFIXES: [(&str, u64); 8] = [
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("k", 1_000),
];

/// A number of bytes, written with a binary suffix (`4Ki`, `64Mi`), a decimal one (`1k`, `1M`) or none (`1000`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "TextOrInteger", into = "String")]
pub struct ByteSize(u64);

/// A text that is not a size.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{given:?} is not a size: expected a whole number of bytes, plain or with k, M, G, T, Ki, Mi, Gi or Ti, such as 4Ki"
)]
pub struct ByteSizeError {
    given: String,
}

impl ByteSize {
    /// Makes a size of so many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Makes a size of so many binary kilobytes (1,024 bytes).
    pub const fn from_kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    /// Returns the number of bytes.
    pub const fn as_bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map(Self).ok_or_else(|| ByteSizeError { given: text.to_owned() })
    }
}

impl TryFrom<TextOrInteger> for ByteSize {
    type Error = ByteSizeError;

    fn try_from(given: TextOrInteger) -> Result<Self, Self::Error> {
        String::from(given).parse()
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> Self {
        size.to_string()
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SUFFIXES.iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor)) {
            Some((suffix, factor)) => write!(f, "{}{suffix}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

impl JsonSchema for ByteSize {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "nullable": false, // said outright, because kube takes a field of two types for a nullable one
            "pattern": "^[0-9]+(k|M|G|T|Ki|Mi|Gi|Ti)?$",
            "minimum": 0,
            "maxLength": 20,
            "example": "64Ki",
        })
    }
}

fn parse(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor = match suffix {
        "" => 1,
        _ => SUFFIXES.iter().find(|(name, _)| *name == suffix)?.1,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn suffixes_are_binary_decimal_or_absent() {
        for (text, bytes) in [("4Ki", 4_096), ("64Mi", 67_108_864), ("1000", 1_000), ("1M", 1_000_000), ("0", 0)] {
            assert_eq!(text.parse(), Ok(ByteSize::from_bytes(bytes)));
        }
    }

    #[test]
    fn a_bare_integer_is_a_size_too() {
        assert_eq!(serde_json::from_str::<ByteSize>("1000").unwrap(), ByteSize::from_bytes(1_000));
    }

    #[test]
    fn what_is_not_a_size_is_named_in_the_error() {
        for text in ["", "Ki", "1.5Mi", "-1", "4 Ki", "4KB", "99999999999999Ti"] {
            let error = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} is not a size: expected")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(number: u32, shift in 0_u32..32) {
            let size = ByteSize::from_bytes(u64::from(number) << shift);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
