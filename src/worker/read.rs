//! Reading: from the topic to the partitions' tasks.

pub mod learner;
pub mod source;
