//! What the workers of a pipeline say of themselves, and which of them run.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::reflector::{Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};

use crate::domain::observe::stats::{StageStats, WorkerStats};
use crate::domain::record::provenance::Stage;
use crate::operator::names::{PIPELINE_LABEL, STAGE_LABEL};
use crate::operator::watched::Watched;

/// How long a worker may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The pods of all pipelines. Clones share what is known of them.
#[derive(Clone)]
pub struct Workers {
    pods: Arc<[Store<Pod>]>,
    http: reqwest::Client,
}

/// A worker's pod.
#[derive(Clone, Debug)]
pub struct WorkerPod {
    /// Its name, which is the worker's.
    pub name: String,
    /// Where its HTTP API is, once it has an address: `host:port`.
    pub address: Option<String>,
    /// How often its containers were started again.
    pub restarts: i32,
}

impl Workers {
    /// The workers in these namespaces (none: all), and what has to be polled for them to be known.
    pub fn watch(
        client: &Client,
        namespaces: &[String],
    ) -> Result<(Self, impl Future<Output = ()> + use<>), reqwest::Error> {
        let apis: Vec<Api<Pod>> = match namespaces {
            [] => vec![Api::all(client.clone())],
            namespaces => namespaces.iter().map(|namespace| Api::namespaced(client.clone(), namespace)).collect(),
        };
        let watched = apis.into_iter().map(|api| {
            let (reader, writer) = store();
            let pods = watcher(api, watcher::Config::default().labels(PIPELINE_LABEL)).default_backoff().modify(strip);
            // A watch that breaks is taken up again by itself.
            (reader, pods.reflect(writer).for_each(|_| std::future::ready(())))
        });
        let (readers, watches): (Vec<_>, Vec<_>) = watched.unzip();
        // Pods speak plain HTTP, so an image without any certificates will do.
        let http = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().tls_certs_only([]).build()?;
        let watch = async move { drop(futures::future::join_all(watches).await) };
        Ok((Self { pods: readers.into(), http }, watch))
    }

    /// The pods of a stage that are not on their way out.
    pub fn of(&self, watched: &Watched, stage: Stage) -> Vec<WorkerPod> {
        let (namespace, pipeline, stage) = (&*watched.namespace, &*watched.name, stage.to_string());
        let host = |ip: &String| if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
        let is_one = |pod: &Arc<Pod>| {
            let label = |name: &str| pod.labels().get(name).map(String::as_str);
            pod.namespace().as_deref() == Some(namespace)
                && (label(PIPELINE_LABEL), label(STAGE_LABEL)) == (Some(pipeline), Some(&stage))
                && pod.metadata.deletion_timestamp.is_none()
        };
        let worker = |pod: Arc<Pod>| {
            let status = pod.status.as_ref();
            let containers = status.into_iter().flat_map(|status| status.container_statuses.iter().flatten());
            WorkerPod {
                name: pod.name_any(),
                address: status
                    .and_then(|status| status.pod_ip.as_ref())
                    .map(|ip| format!("{}:{}", host(ip), watched.worker_port)),
                restarts: containers.map(|container| container.restart_count).sum(),
            }
        };
        self.pods.iter().flat_map(Store::state).filter(is_one).map(worker).collect()
    }

    /// What each of these workers says of its stage; nothing of one that does not answer.
    pub async fn stats(&self, pods: &[WorkerPod]) -> Vec<StageStats> {
        let ask = |pod: &WorkerPod| {
            let (http, address) = (self.http.clone(), pod.address.clone());
            async move {
                // Of itself: a worker that is asked for more asks the others.
                let answer = http.get(format!("http://{}/api/v1/stats?scope=worker", address?)).send().await.ok()?;
                let bytes = answer.error_for_status().ok()?.bytes().await.ok()?;
                serde_json::from_slice::<WorkerStats>(&bytes).ok()
            }
        };
        let answers = futures::future::join_all(pods.iter().map(ask)).await;
        answers.into_iter().flatten().flat_map(|stats| stats.stages).collect()
    }
}

/// Keeps of a pod what is asked for here: there may be many.
fn strip(pod: &mut Pod) {
    pod.spec = None;
    pod.metadata.managed_fields = None;
    pod.metadata.annotations = None;
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::Router;
    use axum::http::Uri;
    use serde_json::json;

    use super::*;

    /// A worker's API that answers every request with one stage, and notes it.
    async fn api(seen: Arc<Mutex<Vec<String>>>) -> String {
        let counts = json!({
            "processed": 7, "retried": 0, "deadLettered": 0, "deadLetteredByErrorType": {}, "dropped": 0, "skipped": 0,
            "failedAttempts": 0, "inFlight": 0, "pending": 0, "nextDue": null, "rebalances": 0,
        });
        let mut stage = json!({
            "pipeline": "orders", "stage": "main", "topic": "orders", "groupId": "g", "partitions": [],
            "buffered": {"records": 0, "bytes": 0}, "circuitBreaker": null, "latenessMs": null,
        });
        let mut stats = json!({"worker": "orders-0", "simulateTransientError": false});
        for object in [&mut stage, &mut stats] {
            object.as_object_mut().unwrap().extend(counts.as_object().unwrap().clone());
        }
        stats["stages"] = json!([stage]);
        let note = async move |uri: Uri| {
            seen.lock().unwrap().push(uri.to_string());
            stats.to_string()
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(note)).await });
        address
    }

    #[tokio::test]
    async fn each_worker_is_asked_for_itself_alone_and_only_once() {
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let workers = Workers { pods: Arc::new([]), http };
        let pod = |address| WorkerPod { name: "orders-0".into(), address, restarts: 0 };
        let pods = [pod(Some(api(seen.clone()).await)), pod(Some(api(seen.clone()).await)), pod(None)];
        let stats = workers.stats(&pods).await;
        assert_eq!(stats.iter().map(|stage| stage.counts.processed).collect::<Vec<_>>(), [7, 7]);
        assert_eq!(*seen.lock().unwrap(), ["/api/v1/stats?scope=worker"; 2]);
    }
}
