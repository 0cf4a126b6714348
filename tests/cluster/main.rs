//! The image, the operator and the stand-in for Strimzi's topic operator, on a real Kubernetes with a real Kafka.

#[path = "../support/mod.rs"]
mod support;

mod prometheus;
mod rights;
mod site;
#[path = "../bed/topic_operator/mod.rs"]
mod topic_operator;

mod e2e;
mod operator;
mod scale;
mod stand_in;
