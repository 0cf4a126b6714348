//! An exception to the retry policy.

use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Strategy, topic};
use crate::api::duration::Duration;

/// An exception for some failures. What it leaves out is taken from `retry`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules()))]
pub struct RetryRule {
    /// A CEL expression that is true for the failures meant. Example: `status == 423`. It sees the record (`key`,
    /// `value`, `headers`, `topic`, `partition`, `offset`, `timestamp`, as in `processor.rules`) and the failure:
    /// `status` (the HTTP status, 0 when there was none), `errorType`, `errorMessage` and `attempts` (made so far).
    /// At most 2,048 bytes.
    #[schemars(length(min = 1, max = 2048))]
    pub when: String,

    /// `true`: try again. `false`: send to the dead letter topic at once. Default: as the failure itself says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retryable: Option<bool>,

    /// How the wait grows, as `retry.strategy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,

    /// How often the record is tried in all, the first time included: 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: Option<u32>,

    /// The wait before the second attempt. Example: `10s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_delay: Option<Duration>,

    /// The longest wait between two attempts. Example: `1h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_delay: Option<Duration>,

    /// By how much each wait is longer than the one before: 1 or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1.0, max = 1000.0))]
    pub multiplier: Option<f64>,

    /// How far a wait may differ from the computed one, as a fraction: 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub jitter_factor: Option<f64>,

    /// A dead letter topic for these failures alone. Example: `orders.invalid.dlt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "topic::name")]
    pub dlt: Option<String>,
}

fn rules() -> [Rule; 1] {
    [Rule::new(
        "has(self.retryable) || has(self.strategy) || has(self.maxAttempts) || has(self.initialDelay) \
         || has(self.maxDelay) || has(self.multiplier) || has(self.jitterFactor) || has(self.dlt)",
    )
    .message("a rule must say what to do: set retryable, dlt, or one of the retry settings")]
}
