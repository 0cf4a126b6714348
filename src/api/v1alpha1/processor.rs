//! What is done with each record.

use kube::core::Rule as Validation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ContainerProcessor, HttpProcessor};

/// What is done with each record. Set one of `http`, `container`, `rules` and `external`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = validations()))]
pub struct Processor {
    /// A service that is called with each record. An answer 2xx means that the record is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProcessor>,

    /// An image that runs beside each worker, in the same pod, and is called with each record. On a laptop, run it yourself:
    /// it is called at the same port of this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerProcessor>,

    /// Rules that decide without a service: the first one whose `when` is true fails the record. A record that no rule
    /// matches is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub rules: Option<Vec<Rule>>,

    /// A consumer of your own, with Spring Kafka say, that goes on as it is: no worker is run. Its topics are made, and its
    /// group and its dead letters are watched. It cannot be set later in place of another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalProcessor>,

    /// How many records one worker may process at the same time, 1 to 10000. Default: 64.
    #[serde(default = "sixty_four")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_in_flight: u32,

    /// How many records one worker may begin to process in a second, 1 to 1000000; each attempt counts. They are spread
    /// evenly; a tenth of a second's worth may begin at once. Two workers may begin twice as many together, and the workers
    /// of the retry stage as many again. Example: `200`. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub records_per_second: Option<u32>,
}

/// A consumer that is not run by Lazaret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalProcessor {
    /// The consumer group as which it reads the topic (in Spring Kafka, `spring.kafka.consumer.group-id`).
    #[schemars(length(min = 1, max = 249))]
    pub group_id: String,
}

/// A condition under which a record fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// A CEL expression that is true for the records that fail. Example: `value.amount < 0`. It sees `key` (a string;
    /// bytes when not UTF-8; null when absent), `value` (the parsed JSON), `headers` (a map of strings), `topic`,
    /// `partition`, `offset` and `timestamp` (milliseconds since 1970). At most 2,048 bytes.
    #[schemars(length(min = 1, max = 2048))]
    pub when: String,

    /// The error that the record fails with, as `Type: message`. Example: `ValidationException: Invalid amount`.
    #[schemars(length(min = 1, max = 1024))]
    pub error: String,

    /// Whether trying again can help. `false` (default) sends the record to the dead letter topic at once.
    #[serde(default)]
    pub retryable: bool,
}

const fn sixty_four() -> u32 {
    64
}

fn validations() -> [Validation; 2] {
    [
        Validation::new(
            "[has(self.http), has(self.container), has(self.rules), has(self.external)].filter(given, given).size() == 1",
        )
        .message(
            "set exactly one of http (a service to call), container (an image to run beside the worker), rules (CEL \
             expressions) and external (a consumer of your own)",
        ),
        // Workers would go on beside it: the operator has no right to delete them.
        Validation::new("!has(self.external) || has(oldSelf.external)").message(
            "external cannot take the place of another processor: delete this object (its topics stay with \
             deletionPolicy: Retain) and make it anew",
        ),
    ]
}
