//! The pipelines under test. Which of the engine's ways they take is a [`Variant`].

use std::str::FromStr;

/// The most attempts, the first included.
pub const MAX_ATTEMPTS: u32 = 4;

/// The least delay after each failed attempt but the last, in milliseconds: 200, 600 and 1800, less the jitter.
pub const DELAYS: [i64; MAX_ATTEMPTS as usize - 1] = [160, 480, 1_440];

/// What a worker may take to finish what it has started when it is asked to stop or loses partitions, in seconds.
pub const DRAIN_SECONDS: u64 = 4;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ordering {
    #[default]
    Key,
    Partition,
    Unordered,
}

/// The ways of the engine that differ from run to run. The default says nothing of them in the spec, but for the order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variant {
    pub ordering: Ordering,
    /// `delivery`: what the spec says, and what the verdict then holds the engine to.
    pub delivery: Option<Delivery>,
    /// `consumer.assignor`.
    pub assignor: Option<String>,
    /// `consumer.groupProtocol: Consumer`.
    pub consumer_protocol: bool,
    /// `retry.mode: KeepOrder`.
    pub keeps_order: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    ExactlyOnce,
    AtLeastOnce,
}

impl FromStr for Variant {
    type Err = String;

    /// Reads words that are separated by commas, as the spec has them: `Partition,Range,KeepOrder`.
    fn from_str(words: &str) -> Result<Self, String> {
        let mut variant = Self::default();
        for word in words.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "Key" => variant.ordering = Ordering::Key,
                "Partition" => variant.ordering = Ordering::Partition,
                "Unordered" => variant.ordering = Ordering::Unordered,
                "ExactlyOnce" => variant.delivery = Some(Delivery::ExactlyOnce),
                "AtLeastOnce" => variant.delivery = Some(Delivery::AtLeastOnce),
                "Range" | "RoundRobin" | "Sticky" | "CooperativeSticky" => variant.assignor = Some(word.to_owned()),
                "Consumer" => variant.consumer_protocol = true,
                "KeepOrder" => variant.keeps_order = true,
                _ => return Err(format!("no variant has `{word}`")),
            }
        }
        Ok(variant)
    }
}

impl std::fmt::Display for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.ordering)?;
        self.delivery.iter().try_for_each(|delivery| write!(f, ",{delivery:?}"))?;
        self.assignor.iter().try_for_each(|assignor| write!(f, ",{assignor}"))?;
        let flags = [(self.consumer_protocol, "Consumer"), (self.keeps_order, "KeepOrder")];
        flags.iter().filter(|(set, _)| *set).try_for_each(|(_, word)| write!(f, ",{word}"))
    }
}

impl Variant {
    pub fn is_exactly_once(&self) -> bool {
        self.delivery != Some(Delivery::AtLeastOnce)
    }

    /// The spec of a pipeline that calls `url`. On a compacted topic, dead letters keep the record's own form.
    pub fn spec(&self, topic: &str, url: &str, compacted: bool) -> String {
        let mut consumer = format!("sessionTimeout: 6s, drainTimeout: {DRAIN_SECONDS}s");
        if let Some(assignor) = &self.assignor {
            consumer += &format!(", assignor: {assignor}");
        }
        if self.consumer_protocol {
            consumer += ", groupProtocol: Consumer";
        }
        let mode = if self.keeps_order { ", mode: KeepOrder" } else { "" };
        let (config, partitions, format) = match compacted {
            // Segments are short and what is dirty is cleaned at once, so that compaction runs within seconds.
            true => ("{cleanup.policy: compact, segment.ms: 2000, min.cleanable.dirty.ratio: '0.01'}", 3, "Raw"),
            false => ("{}", 6, "Envelope"),
        };
        let mut spec = format!(
            "topic: {{name: {topic}, partitions: {partitions}, replicas: 3, config: {config}}}\n\
             processor: {{http: {{url: '{url}'}}, maxInFlight: 64}}\ncircuitBreaker: {{enabled: false}}\nordering: {:?}\nconsumer: {{{consumer}}}\n\
             retry: {{topic: {{partitions: 3, replicas: 3}}, strategy: ExponentialJitter, initialDelay: 200ms, \
             multiplier: 3, maxDelay: 10s, maxAttempts: {MAX_ATTEMPTS}{mode}}}\n\
             dlt: {{topic: {{partitions: 3, replicas: 3}}, format: {format}}}\n",
            self.ordering
        );
        if let Some(delivery) = self.delivery {
            spec += &format!("delivery: {delivery:?}\n");
        }
        spec
    }
}

mod tests {
    use super::*;

    #[test]
    fn a_variant_reads_as_it_is_written() {
        for words in ["Key", "Partition,ExactlyOnce,Range,Consumer,KeepOrder", "Unordered,AtLeastOnce"] {
            assert_eq!(words.parse::<Variant>().unwrap().to_string(), words);
        }
        assert_eq!("".parse(), Ok(Variant::default()));
        assert!("Exactly".parse::<Variant>().is_err());
    }
}
