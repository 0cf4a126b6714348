//! Builds every object that a pipeline wants. Pure: the same pipeline gives the same objects, byte by byte.

mod autoscaler;
mod names;
mod pod;
mod topics;
mod workers;

pub(super) use pod::worker_port;
pub use topics::build_kafka_topics;
pub use workers::build_workers;
