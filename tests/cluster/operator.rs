//! The operator on a real Kubernetes: what becomes of a pipeline that is applied, changed and deleted, and what must not
//! go wrong on the way. Each test has a namespace, a Kafka object and operators of its own.

mod application;
mod autoscaling;
mod external;
mod failures;
mod kafka;
mod records;
mod replicas;
mod topics;
mod troubles;
mod workers;
