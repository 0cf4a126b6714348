//! How the pods of a namespace end. A Deployment heals what a worker does wrong: it is back within seconds, and what was Ready
//! is Ready still. So each end is noted when it happens, and those that a test did not expect fail it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kube::api::{Api, LogParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use tokio::task::JoinHandle;

use super::eventually;

/// An end of a container that nobody asked for: with another exit code than 0, or with a restart after it.
#[derive(Clone, Debug)]
pub struct BadEnd {
    pub pod: String,
    pub container: String,
    pub exit_code: i32,
    pub reason: String,
    /// The last lines of its log.
    pub log: String,
}

impl fmt::Display for BadEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pod, container, exit_code, reason, log } = self;
        write!(f, "container {container} of pod {pod} ended with exit code {exit_code} ({reason}); its log:\n{log}")
    }
}

/// One end: of which pod, of which container, and how often the container had ended before.
type End = (String, String, i32);

/// Watches the pods of one namespace, for as long as this lives. A list afterwards would not do: pods that were rolled or
/// scaled away are gone by then, and how they ended is told only once, in the last change before they go.
pub struct PodWatch {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    /// The pods that are there, as far as the watch has come.
    live: BTreeSet<String>,
    ends: BTreeMap<End, Noted>,
}

/// What is known of an end that was not clean.
#[derive(Clone)]
enum Noted {
    /// Its log is read.
    Reading,
    /// It could not be otherwise.
    Excused,
    Bad(BadEnd),
}

impl Drop for PodWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PodWatch {
    pub fn start(client: &Client, namespace: &str) -> Self {
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let seen = Arc::<Mutex<Seen>>::default();
        let task = tokio::spawn(watch(pods, seen.clone()));
        Self { seen, task }
    }

    /// Waits until this has seen the last pod go, of those whose name begins with `prefix`: how a pod ends is told last of all.
    pub async fn all_gone(&self, prefix: &str) {
        eventually("the watch has seen all pods go", async || {
            let seen = self.seen.lock().unwrap();
            (!seen.live.iter().any(|pod| pod.starts_with(prefix))).then_some(())
        })
        .await;
    }

    /// The ends so far that were not clean, but for those of pods whose name begins with one of `excused`.
    pub async fn bad_ends(&self, excused: &[String]) -> Vec<BadEnd> {
        let is_excused = |pod: &str| excused.iter().any(|prefix| pod.starts_with(prefix));
        eventually("the logs of what ended badly are read", async || {
            let seen = self.seen.lock().unwrap();
            let ends = seen.ends.iter().filter(|((pod, ..), _)| !is_excused(pod));
            let bad = |(_, noted): (_, &Noted)| match noted {
                Noted::Reading => Some(None),
                Noted::Excused => None,
                Noted::Bad(end) => Some(Some(end.clone())),
            };
            ends.filter_map(bad).collect::<Option<Vec<_>>>()
        })
        .await
    }
}

async fn watch(pods: Api<Pod>, seen: Arc<Mutex<Seen>>) {
    let events = watcher(pods.clone(), watcher::Config::default()).default_backoff();
    pin_mut!(events);
    while let Some(event) = events.next().await {
        let pod = match event {
            Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => {
                seen.lock().unwrap().live.insert(pod.name_any());
                pod
            }
            Ok(watcher::Event::Delete(pod)) => {
                seen.lock().unwrap().live.remove(&pod.name_any());
                pod
            }
            // What went while the watch was broken is not in the list.
            Ok(watcher::Event::Init) => {
                seen.lock().unwrap().live.clear();
                continue;
            }
            Ok(watcher::Event::InitDone) | Err(_) => continue, // a watch that breaks is taken up again by itself
        };
        let status = pod.status.clone().unwrap_or_default();
        let all =
            status.container_statuses.into_iter().flatten().chain(status.init_container_statuses.into_iter().flatten());
        for container in all {
            for (number, ended, is_previous) in ends(&container) {
                let end = (pod.name_any(), container.name.clone(), number);
                if seen.lock().unwrap().ends.contains_key(&end) {
                    continue;
                }
                seen.lock().unwrap().ends.insert(end.clone(), Noted::Reading);
                tokio::spawn(note(pods.clone(), pod.clone(), end, ended, is_previous, seen.clone()));
            }
        }
    }
}

/// Reads the log of what ended, and takes it down.
async fn note(
    pods: Api<Pod>,
    pod: Pod,
    end: End,
    ended: ContainerStateTerminated,
    is_previous: bool,
    seen: Arc<Mutex<Seen>>,
) {
    let log = log(&pods, &end.0, &end.1, is_previous).await;
    if log.as_ref().is_ok_and(|log| never_heard(&pod, &ended, log)) {
        seen.lock().unwrap().ends.insert(end, Noted::Excused);
        return;
    }
    let bad = BadEnd {
        pod: end.0.clone(),
        container: end.1.clone(),
        exit_code: ended.exit_code,
        reason: ended.reason.unwrap_or_default(),
        log: log.unwrap_or_else(|why| why),
    };
    seen.lock().unwrap().ends.insert(end, Noted::Bad(bad));
}

/// Whether a container was asked to end in the moment in which it was started. The kernel keeps a signal from the first process
/// of a container until that listens for it, and the kubelet sends it once: nothing that runs in a container can tell, and it is
/// killed after the grace period. Times are told in whole seconds.
fn never_heard(pod: &Pod, ended: &ContainerStateTerminated, log: &str) -> bool {
    let asked = pod.metadata.deletion_timestamp.as_ref().zip(pod.metadata.deletion_grace_period_seconds);
    let (Some((by, grace)), Some(started)) = (asked, &ended.started_at) else { return false };
    let asked = by.0.as_second() - grace;
    ended.exit_code == 137 && asked <= started.0.as_second() + 1 && !log.contains("stopping")
}

/// What the kubelet says of a container that it never started, or does not find any more when its pod goes: it is no end.
const NEVER_SEEN: &str = "ContainerStatusUnknown";

/// The ends in a status that were not clean, each with its number, and whether another start followed it.
fn ends(container: &ContainerStatus) -> Vec<(i32, ContainerStateTerminated, bool)> {
    let now = container.state.clone().and_then(|state| state.terminated).filter(|ended| ended.exit_code != 0);
    // What was started again should not have ended at all.
    let before =
        container.last_state.clone().and_then(|state| state.terminated).filter(|_| container.restart_count > 0);
    let now = now.map(|ended| (container.restart_count, ended, false));
    let before = before.map(|ended| (container.restart_count - 1, ended, true));
    now.into_iter().chain(before).filter(|(_, ended, _)| ended.reason.as_deref() != Some(NEVER_SEEN)).collect()
}

async fn log(pods: &Api<Pod>, pod: &str, container: &str, previous: bool) -> Result<String, String> {
    let parameters =
        LogParams { container: Some(container.to_owned()), previous, tail_lines: Some(50), ..LogParams::default() };
    match tokio::time::timeout(Duration::from_secs(5), pods.logs(pod, &parameters)).await {
        Ok(Ok(log)) => Ok(log),
        Ok(Err(error)) => Err(format!("it is gone: {error}")),
        Err(_) => Err("it could not be read within 5 s".to_owned()),
    }
}
