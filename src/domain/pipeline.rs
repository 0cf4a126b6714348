//! A pipeline whose every default is filled in and every expression compiled: what the stages go by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::policy::RetryPolicy;
use crate::domain::flow::breaker::BreakerPlan;
use crate::domain::flow::lane::Ordering;
use crate::domain::policy::expression::Expression;
use crate::domain::policy::rules::RuleSet;
use crate::domain::record::envelope::DeadLetterFormat;
use crate::domain::record::provenance::Stage;

/// One pipeline.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Its name.
    pub name: String,
    /// Where its Kafka is, when it says so itself.
    pub bootstrap_servers: Option<String>,
    /// What the main stage reads, and as which group.
    pub main: Source,
    /// What the retry stage reads, and as which group.
    pub retry: Source,
    /// Every topic that it needs, each once: main, retry, and all dead letter topics.
    pub topics: Vec<TopicPlan>,
    /// The order in which records are processed.
    pub ordering: Ordering,
    /// What is promised about records that are written to another topic.
    pub delivery: Delivery,
    /// What processes them.
    pub processor: ProcessorPlan,
    /// What it is asked to bear.
    pub throttle: ThrottlePlan,
    /// What happens to failures.
    pub policy: RetryPolicy,
    /// What the retry stage may hold of records that wait.
    pub pending: PendingPlan,
    /// How dead letters are written.
    pub dead_letter_format: DeadLetterFormat,
    /// The longest stack trace that a dead letter keeps, in bytes.
    pub stack_trace_max_bytes: usize,
    /// How its stages are members of their groups.
    pub membership: Membership,
    /// How long partitions that are given up may take to finish what was started.
    pub drain_timeout: Duration,
    /// Whether and how records can be sent over HTTP.
    pub ingress: Option<IngressPlan>,
    /// Whether failures can be injected.
    pub fault_injection: bool,
    /// Where spans of attempts are sent, `None` for where the environment says.
    pub tracing: Option<TracingPlan>,
}

impl Pipeline {
    /// The stages that it has. An external consumer is one, and retries as it likes.
    pub fn stages(&self) -> &'static [Stage] {
        match self.processor {
            ProcessorPlan::External => &[Stage::Main],
            ProcessorPlan::Http(_) | ProcessorPlan::Rules(_) => &[Stage::Main, Stage::Retry],
        }
    }

    /// What the workers of a stage are called.
    pub fn workers_name(&self, stage: Stage) -> String {
        workers_name(&self.name, stage)
    }

    /// What a stage reads, and as which group.
    pub fn source(&self, stage: Stage) -> &Source {
        match stage {
            Stage::Main => &self.main,
            Stage::Retry => &self.retry,
        }
    }
}

/// What the workers of a pipeline's stage are called: their Deployment, and the service that they are in traces.
pub fn workers_name(pipeline: &str, stage: Stage) -> String {
    match stage {
        Stage::Main => format!("{pipeline}-consumer"),
        Stage::Retry => format!("{pipeline}-retry"),
    }
}

/// What is promised about records that are written to the retry topic or a dead letter topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Each failed attempt is there exactly once, for whoever reads only what was committed.
    ExactlyOnce,
    /// None is lost; one may be there twice after a crash.
    AtLeastOnce,
}

/// How a worker is a member of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Who decides which member reads which partition, and how they are told.
    pub protocol: GroupProtocol,
    /// How long a member may be silent before its partitions go to others.
    pub session_timeout: Duration,
    /// How long a member may take between two polls.
    pub max_poll_interval: Duration,
    /// Whether a member that comes back within the session timeout gets its partitions back.
    pub is_static: bool,
}

/// Who decides which member reads which partition, and how they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupProtocol {
    /// One of the members does.
    Classic(Assignor),
    /// The broker does (KIP-848), by its assignor of this name.
    Consumer {
        /// `uniform` or `range`.
        assignor: &'static str,
    },
}

/// How partitions are dealt out among the members of a classic group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// Evenly, and only those move that must.
    CooperativeSticky,
    /// In blocks of neighbours.
    Range,
    /// One by one in turn.
    RoundRobin,
}

/// A topic and the group that reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The topic.
    pub topic: Arc<str>,
    /// The consumer group.
    pub group_id: String,
}

/// What the retry stage may hold of records that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingPlan {
    /// How many of each partition.
    pub records: usize,
    /// The memory that their bytes may take, over all partitions of a worker.
    pub bytes: usize,
}

/// A topic as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPlan {
    /// Its name.
    pub name: Arc<str>,
    /// How many partitions it has.
    pub partitions: i32,
    /// How many replicas each has, -1 where nothing is asked for: one that is created then has the cluster's default.
    pub replicas: i32,
    /// Its configuration, besides the cluster's defaults.
    pub config: BTreeMap<String, String>,
    /// Whether it is ours to make and to change.
    pub manage: bool,
    /// Whether one that exists and differs is changed, without being asked again.
    pub force: bool,
}

/// What processes records.
#[derive(Clone, Debug)]
pub enum ProcessorPlan {
    /// A user's HTTP endpoint.
    Http(HttpPlan),
    /// Rules in CEL.
    Rules(RuleSet),
    /// A consumer that no worker is.
    External,
}

/// What the processor is asked to bear by one stage in one process.
#[derive(Clone, Debug, PartialEq)]
pub struct ThrottlePlan {
    /// Calls at once.
    pub max_in_flight: usize,
    /// Calls that start in a second, `None` for no limit.
    pub records_per_second: Option<u32>,
    /// When it is not called at all because most calls fail, `None` for never.
    pub breaker: Option<BreakerPlan>,
}

/// How an HTTP endpoint is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpPlan {
    /// Its address.
    pub url: String,
    /// The request method.
    pub method: String,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Headers for each request.
    pub headers: BTreeMap<String, String>,
}

/// Where spans of attempts are sent.
#[derive(Clone, Debug, PartialEq)]
pub struct TracingPlan {
    /// The collector's endpoint for OTLP over HTTP, without the path of traces.
    pub endpoint: String,
    /// The share of the records without a trace of their own that get one, 0 to 1.
    pub sampling_ratio: f64,
}

/// How records are taken in over HTTP.
#[derive(Clone, Debug)]
pub struct IngressPlan {
    /// What makes the key out of a body; without it records have none.
    pub key: Option<Expression>,
    /// The largest body, in bytes.
    pub max_bytes: usize,
}
