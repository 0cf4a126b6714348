//! Asks a worker of a pipeline, which reaches Kafka from where it is.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, AttachParams, ListParams};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::api::v1alpha1::ErrorHandlingPipeline;
use crate::operator::names::PIPELINE_LABEL;
use crate::plugin::cluster::Cluster;
use crate::plugin::error::PluginError;

/// The container of a worker, and the binary in it.
const CONTAINER: &str = "worker";
const BINARY: &str = "/lazaret";

/// A worker that runs.
pub struct Worker {
    /// Where its Kafka is, by its own arguments.
    pub bootstrap_servers: String,
    cluster: Cluster,
    namespace: String,
    pod: String,
}

impl Worker {
    /// One of those of a pipeline.
    pub async fn of(cluster: Cluster, object: &ErrorHandlingPipeline) -> Result<Self, PluginError> {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &namespace);
        let labelled = ListParams::default().labels(&format!("{PIPELINE_LABEL}={name}"));
        let pods = api.list(&labelled).await.map_err(cluster.failed())?.items;
        let found = pods.into_iter().find_map(|pod| Some((bootstrap_servers(&pod)?, pod.name_any())));
        let (bootstrap_servers, pod) = found.ok_or(PluginError::NoWorker(name))?;
        Ok(Self { bootstrap_servers, cluster, namespace, pod })
    }

    /// Runs the binary there with these arguments, and reads its answer.
    pub async fn ask<T: DeserializeOwned>(&self, arguments: Vec<String>) -> Result<T, PluginError> {
        let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.namespace);
        let parameters = AttachParams::default().container(CONTAINER).stdin(false).stdout(true).stderr(true);
        let command = std::iter::once(BINARY.to_owned()).chain(arguments);
        let mut process = api.exec(&self.pod, command, &parameters).await.map_err(self.cluster.failed())?;
        let (status, stdout, stderr) = (process.take_status(), process.stdout(), process.stderr());
        let (answer, complaint) = futures::join!(all_of(stdout), all_of(stderr));
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        // That what is asked for is wrong, the command says by how it ends.
        let details = status.as_ref().and_then(|status| status.details.as_ref());
        let mut causes = details.and_then(|details| details.causes.as_ref()).into_iter().flatten();
        let is_refusal =
            causes.any(|cause| cause.reason.as_deref() == Some("ExitCode") && cause.message.as_deref() == Some("2"));
        let failed = |why: &str| PluginError::Worker { pod: self.pod.clone(), why: why.trim().to_owned(), is_refusal };
        match status {
            Some(status) if status.status.as_deref() == Some("Success") => {
                serde_json::from_slice(&answer).map_err(|error| failed(&format!("its answer cannot be read: {error}")))
            }
            _ if !complaint.is_empty() => {
                let said = String::from_utf8_lossy(&complaint).into_owned();
                Err(failed(said.trim().trim_start_matches("lazaret: ")))
            }
            status => {
                Err(failed(status.and_then(|status| status.message).as_deref().unwrap_or("its answer was cut off")))
            }
        }
    }
}

/// Where the Kafka of a worker is that can be asked.
fn bootstrap_servers(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let runs = |status: &k8s_openapi::api::core::v1::ContainerStatus| {
        status.name == CONTAINER && status.state.as_ref().is_some_and(|state| state.running.is_some())
    };
    if !statuses.iter().any(runs) || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let container = pod.spec.as_ref()?.containers.iter().find(|container| container.name == CONTAINER)?;
    let mut arguments = container.args.as_ref()?.iter();
    arguments.find(|argument| *argument == "--bootstrap-servers")?;
    arguments.next().cloned()
}

async fn all_of(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = vec![];
    if let Some(mut stream) = stream {
        // What was cut off shows in the status.
        let _ = stream.read_to_end(&mut bytes).await;
    }
    bytes
}
