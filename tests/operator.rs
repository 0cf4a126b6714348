//! The operator on a real Kubernetes: what becomes of a pipeline that is applied, changed and deleted, and what must not
//! go wrong on the way. Each test has a namespace, a Kafka object and operators of its own.

mod support;

#[path = "support/prometheus.rs"]
mod prometheus;
#[path = "support/site.rs"]
mod site;
#[path = "bed/topic_operator/mod.rs"]
mod topic_operator;

#[path = "operator/application.rs"]
mod application;
#[path = "operator/autoscaling.rs"]
mod autoscaling;
#[path = "operator/external.rs"]
mod external;
#[path = "operator/failures.rs"]
mod failures;
#[path = "operator/kafka.rs"]
mod kafka;
#[path = "operator/records.rs"]
mod records;
#[path = "operator/replicas.rs"]
mod replicas;
#[path = "operator/topics.rs"]
mod topics;
#[path = "operator/troubles.rs"]
mod troubles;
#[path = "operator/workers.rs"]
mod workers;
