//! The id that tells a topic from another one of the same name.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

/// The id of a topic ([KIP-516](https://cwiki.apache.org/confluence/x/jbhTCQ)): a topic that was deleted and made again has another
/// one. Its text is what Kafka's own tools show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopicId(u128);

/// A text is no id of a topic.
#[derive(Debug, thiserror::Error)]
#[error("not the id of a topic")]
pub struct NoTopicId;

impl TopicId {
    /// From its two halves. Brokers before 2.8 have none, which is 0.
    pub fn new(most_significant: i64, least_significant: i64) -> Option<Self> {
        let halves = [most_significant, least_significant].map(|half| u128::from(half.cast_unsigned()));
        Some(Self(halves[0] << 64 | halves[1])).filter(|id| id.0 != 0)
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0.to_be_bytes()))
    }
}

impl FromStr for TopicId {
    type Err = NoTopicId;

    fn from_str(text: &str) -> Result<Self, NoTopicId> {
        let bytes: [u8; 16] = BASE64.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(NoTopicId)?;
        let [most, least] =
            [&bytes[..8], &bytes[8..]].map(|half| half.iter().fold(0, |all, byte| all << 8 | i64::from(*byte)));
        Self::new(most, least).ok_or(NoTopicId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_text_is_that_of_kafkas_tools() {
        let id = TopicId::new(-0x0123_4567_89ab_cdef, 42).unwrap();
        assert_eq!(id.to_string(), "_ty6mHZUMhEAAAAAAAAAKg");
        assert_eq!(id.to_string().parse::<TopicId>().unwrap(), id);
    }

    #[test]
    fn nothing_else_is_one() {
        for text in ["", "orders", "AAAAAAAAAAAAAAAAAAAAAA", "_tzumHZUMhEAAAAAAAAAKg==", "_tzumHZUMhEAAAAAAAAAKgAA"] {
            assert!(text.parse::<TopicId>().is_err(), "{text}");
        }
    }
}
