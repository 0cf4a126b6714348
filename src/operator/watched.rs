//! A pipeline that is looked at, as its last reconcile left it.

use kube::ResourceExt;
use kube::core::ObjectMeta;
use tokio::time::Instant;

use crate::domain::pipeline::Pipeline;
use crate::operator::build::worker_port;
use crate::operator::validate::ValidatedPipeline;

/// A pipeline that is looked at.
#[derive(Debug)]
pub struct Watched {
    /// Which one it is.
    pub uid: String,
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The `metadata.generation` that `pipeline` is.
    pub generation: Option<i64>,
    /// Complete and compiled.
    pub pipeline: Pipeline,
    /// Where its Kafka is.
    pub bootstrap_servers: String,
    /// The port of its workers' HTTP API.
    pub worker_port: u16,
    /// When it was last reconciled: something about it may have changed.
    pub stirred: Instant,
}

impl Watched {
    /// A pipeline that was just reconciled.
    pub fn new(validated: &ValidatedPipeline) -> Self {
        let ObjectMeta { uid, generation, .. } = validated.object.metadata.clone();
        Self {
            uid: uid.unwrap_or_default(),
            namespace: validated.object.namespace().unwrap_or_default(),
            name: validated.object.name_any(),
            generation,
            pipeline: validated.pipeline.clone(),
            bootstrap_servers: validated.bootstrap_servers.clone(),
            worker_port: worker_port(&validated.object),
            stirred: Instant::now(),
        }
    }
}
