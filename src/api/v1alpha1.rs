//! Version v1alpha1 of the API: the map of its types.
//!
//! One file for each block of the resource. Docs on fields are written for the person who types the YAML: they become
//! the CRD's descriptions and answer `kubectl explain`.

mod autoscaling;
mod circuit_breaker;
mod consumer;
mod container;
mod dead_letters;
mod http;
mod ingress;
mod kafka;
mod pipeline;
mod processor;
mod retry;
mod retry_rule;
mod status;
mod strategy;
mod template;
mod topic;
mod tracing;

pub use autoscaling::Autoscaling;
pub use circuit_breaker::CircuitBreaker;
pub use consumer::{Assignor, Consumer, GroupProtocol};
pub use container::ContainerProcessor;
pub use dead_letters::{DeadLetterFormat, DeadLetterTopic, DeadLetters, StackTrace};
pub use http::{HttpMethod, HttpProcessor};
pub use ingress::{FaultInjection, Ingress};
pub use kafka::Kafka;
pub use pipeline::{DeletionPolicy, Delivery, ErrorHandlingPipeline, ErrorHandlingPipelineSpec, Ordering};
pub use processor::{ExternalProcessor, Processor, Rule};
pub use retry::{InPlace, Retry, RetryMode, RetryTopic};
pub use retry_rule::RetryRule;
pub use status::{
    CauseStatus, DeadLettersStatus, ErrorHandlingPipelineStatus, GroupStatus, GroupsStatus, MemberStatus,
    RebalanceStatus, RebalancesStatus, StageStatus, TopicStatus,
};
pub use strategy::Strategy;
pub use template::{ContainerTemplate, MetadataTemplate, PodTemplate, Template};
pub use topic::{Adopt, Topic};
pub use tracing::Tracing;
