//! A real Kubernetes cluster with Kafka and Strimzi's resources: the one in the box, or one that somebody has.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write};
use std::panic::AssertUnwindSafe;
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod};
use kube::api::{
    Api, ApiResource, DynamicObject, GroupVersionKind, LogParams, ObjectMeta, Patch, PatchParams, TypeMeta,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::discovery::{Discovery, Scope, verbs};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config, Resource, ResourceExt, discovery};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::pods::PodWatch;
use super::{DEADLINE, unique};

/// The Kafka object of the tests, and its namespace.
pub const KAFKA: &str = "bhf-kafka";
pub const KAFKA_NAMESPACE: &str = "kafka";

/// Where pods find it.
pub const BOOTSTRAP: &str = "bhf-kafka-kafka-bootstrap.kafka.svc:9092";

/// The image of the tree that is tested.
pub fn image() -> String {
    std::env::var("E2E_IMAGE").unwrap_or_else(|_| concat!("lazaret.dev/lazaret:", env!("CARGO_PKG_VERSION")).to_owned())
}

/// Where this process finds the cluster's Kafka.
pub fn kafka_from_here() -> String {
    match (std::env::var("E2E_KAFKA"), std::env::var("E2E_CONTEXT")) {
        (Ok(address), _) => address,
        (_, Ok(_)) => panic!("E2E_CONTEXT is set: say with E2E_KAFKA=HOST:PORT where its Kafka is reached from here"),
        _ => "172.31.255.2:9092".to_owned(),
    }
}

/// Where the cluster finds this process.
pub fn here() -> String {
    match (std::env::var("E2E_HOST"), std::env::var("E2E_CONTEXT")) {
        (Ok(address), _) => address,
        (_, Ok(_)) => panic!("E2E_CONTEXT is set: say with E2E_HOST=ADDRESS where its nodes reach this machine"),
        _ => "172.31.255.1".to_owned(),
    }
}

/// A client of the cluster. The box is started when it is not up.
pub async fn client() -> Client {
    match std::env::var("E2E_CONTEXT") {
        Ok(context) => {
            let options = KubeConfigOptions { context: Some(context), ..KubeConfigOptions::default() };
            Client::try_from(Config::from_kubeconfig(&options).await.unwrap()).unwrap()
        }
        Err(_) => client_of(kubeconfig()).await,
    }
}

/// Where the kubeconfig of the box is. The box is looked at once a process: it takes no harm from the tests that ask for this.
pub fn kubeconfig() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| bed_up(&[]))
}

/// A client as the user of a kubeconfig.
pub async fn client_of(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

/// Has the box run with these settings, and returns the path of its kubeconfig.
pub fn bed_up(settings: &[(&str, &str)]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bed/up.sh");
    let output = Command::new(script).envs(settings.iter().copied()).output().expect("tests/bed/up.sh can be run");
    assert!(output.status.success(), "no cluster: {}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    said.trim().strip_prefix("export KUBECONFIG=").expect("up.sh says where the kubeconfig is").to_owned()
}

/// Runs a test in a namespace of its own. When it fails, what the namespace holds is printed; it is removed either way. A pod
/// that was restarted, or ended with another exit code than 0, fails the test.
pub async fn in_namespace(name: &str, test: impl AsyncFnOnce(Client, &str)) {
    in_namespace_where(name, &[], test).await;
}

/// The same, where pods whose name begins with one of `may_fail` may do so.
pub async fn in_namespace_where(name: &str, may_fail: &[&str], test: impl AsyncFnOnce(Client, &str)) {
    in_namespace_of(client().await, name, may_fail, test).await;
}

/// The same, with a client.
pub async fn in_namespace_of(client: Client, name: &str, may_fail: &[&str], test: impl AsyncFnOnce(Client, &str)) {
    let name = unique(name);
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let labels = [("pod-security.kubernetes.io/enforce".to_owned(), "restricted".to_owned())].into();
    let metadata = ObjectMeta { name: Some(name.clone()), labels: Some(labels), ..ObjectMeta::default() };
    namespaces.create(&Default::default(), &Namespace { metadata, ..Namespace::default() }).await.unwrap();
    let watch = PodWatch::start(&client, &name);
    let whole = async {
        test(client.clone(), &name).await;
        let_pods_end(&client, &name).await;
        let excused: Vec<_> = may_fail.iter().map(|prefix| (*prefix).to_owned()).collect();
        watch.all_gone("").await;
        let bad = watch.bad_ends(&excused).await;
        assert!(bad.is_empty(), "{}", bad.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    };
    let result = AssertUnwindSafe(whole).catch_unwind().await;
    if result.is_err() {
        match tokio::time::timeout(DEADLINE, report(&client, &name)).await {
            Ok(report) => eprintln!("{report}"),
            Err(_) => eprintln!("the namespace {name} could not be read within {DEADLINE:?}"),
        }
        release_kafka_topics(&client, &name).await;
    }
    namespaces.delete(&name, &Default::default()).await.unwrap();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// Has every pod of a namespace end, as one that is rolled away does, and waits until all are gone.
pub async fn let_pods_end(client: &Client, namespace: &str) {
    let (deployments, pods): (Api<Deployment>, Api<Pod>) =
        (Api::namespaced(client.clone(), namespace), Api::namespaced(client.clone(), namespace));
    deployments.delete_collection(&Default::default(), &Default::default()).await.unwrap();
    super::eventually_ok(&format!("the pods of {namespace} are gone"), async || {
        pods.list(&Default::default()).await.map(|left| left.items.is_empty().then_some(()))
    })
    .await;
}

/// A stand-in that ended with its test no longer answers to the finalizers of its topics.
async fn release_kafka_topics(client: &Client, namespace: &str) {
    let Ok(group) = discovery::group(client, "kafka.strimzi.io").await else { return };
    let Some((resource, _)) = group.recommended_kind("KafkaTopic") else { return };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let none = Patch::Merge(serde_json::json!({"metadata": {"finalizers": null}}));
    for topic in api.list(&Default::default()).await.map(|list| list.items).unwrap_or_default() {
        let _ = api.patch(&topic.name_any(), &PatchParams::default(), &none).await;
    }
}

/// Applies objects that are written in YAML, each to the namespace unless it names another.
pub async fn apply(client: &Client, namespace: &str, yaml: &str) {
    for document in serde_saphyr::from_multiple::<serde_json::Value>(yaml).unwrap() {
        let object: DynamicObject = serde_json::from_value(document).unwrap();
        let types = object.types.as_ref().expect("apiVersion and kind are given");
        let (resource, scope) = served(client, types).await;
        let in_namespace = object.namespace().unwrap_or_else(|| namespace.to_owned());
        let api: Api<DynamicObject> = match scope {
            Scope::Namespaced => Api::namespaced_with(client.clone(), &in_namespace, &resource),
            Scope::Cluster => Api::all_with(client.clone(), &resource),
        };
        let params = PatchParams::apply("the-tests").force();
        let applied = api.patch(&object.name_any(), &params, &Patch::Apply(&object)).await;
        applied.unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    }
}

/// How a kind is served. Only its own group is asked about: another API that does not answer is no matter.
async fn served(client: &Client, types: &TypeMeta) -> (ApiResource, Scope) {
    static KNOWN: Mutex<BTreeMap<(String, String), (ApiResource, Scope)>> = Mutex::new(BTreeMap::new());
    let kind = (types.api_version.clone(), types.kind.clone());
    if let Some(known) = KNOWN.lock().unwrap().get(&kind) {
        return known.clone();
    }
    let pinned = discovery::pinned_kind(client, &GroupVersionKind::try_from(types).unwrap()).await;
    let (resource, capabilities) = pinned.unwrap_or_else(|error| panic!("the cluster knows {kind:?}: {error}"));
    KNOWN.lock().unwrap().insert(kind, (resource.clone(), capabilities.scope.clone()));
    (resource, capabilities.scope)
}

/// What a pod needs in a namespace whose pods are restricted.
const RESTRICTED: &str = "securityContext: {allowPrivilegeEscalation: false, runAsNonRoot: true, \
     readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}";

/// A Deployment of one container with the image of this tree.
pub fn deployment(name: &str, args: &str, more: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {{app: \
         {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      \
         automountServiceAccountToken: false\n      containers:\n      - name: lazaret\n        image: {}\n        \
         args: {args}\n        {RESTRICTED}\n        {}\n",
        image(),
        more.trim().replace('\n', "\n        ")
    )
}

/// A Deployment of a worker that reads a topic, with its configuration. A record whose amount is negative fails.
pub fn worker(name: &str, topic: &str) -> String {
    let pipeline = super::pipeline::yaml(topic, "processor: {rules: [{when: value.amount < 0, error: 'E: bad'}]}");
    let config = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": {"pipeline.yaml": pipeline}});
    let args = format!(
        "[worker, --stage, main, --file, /etc/lazaret/pipeline.yaml, --bootstrap-servers, '{BOOTSTRAP}', --listen, \
         '0.0.0.0:8080']"
    );
    let mounted = "readinessProbe: {httpGet: {path: /readyz, port: 8080}, periodSeconds: 1}\nvolumeMounts: [{name: \
         config, mountPath: /etc/lazaret}]";
    let deployment = deployment(name, &args, mounted);
    format!("{config}\n---\n{deployment}      volumes: [{{name: config, configMap: {{name: {name}}}}}]\n")
}

/// Waits until `probe` finds in the object what the test waits for, and says what it saw last when it never does.
pub async fn wait_for<K, T>(api: &Api<K>, name: &str, what: &str, probe: impl Fn(&K) -> Option<T>) -> T
where
    K: Resource + Clone + Debug + DeserializeOwned + Serialize + Send + 'static,
{
    wait_within(DEADLINE, api, name, what, probe).await
}

/// The same, where it is promised when it happens.
pub async fn wait_within<K, T>(
    deadline: Duration,
    api: &Api<K>,
    name: &str,
    what: &str,
    probe: impl Fn(&K) -> Option<T>,
) -> T
where
    K: Resource + Clone + Debug + DeserializeOwned + Serialize + Send + 'static,
{
    let (mut seen, mut last_error) = (None, None);
    let mut states = Box::pin(watcher::watch_object(api.clone(), name).default_backoff());
    let found = async {
        while let Some(state) = states.next().await {
            let state = match state {
                Ok(state) => state,
                // A watch that breaks is taken up again by itself.
                Err(error) => {
                    last_error = Some(error);
                    continue;
                }
            };
            if let Some(answer) = state.as_ref().and_then(&probe) {
                return answer;
            }
            seen = state.map(|mut state| {
                state.meta_mut().managed_fields = None;
                state
            });
        }
        unreachable!("the watch of one object never ends")
    };
    let found = tokio::time::timeout(deadline, found).await;
    found.unwrap_or_else(|_| {
        let error = last_error.map_or(String::new(), |error| format!("the watch broke: {error}\n"));
        panic!("waited {deadline:?} in vain: {name}: {what}; {error}last seen:\n{}", yaml(&seen))
    })
}

/// Waits until an object is gone.
pub async fn wait_until_gone<K>(api: &Api<K>, name: &str)
where
    K: Resource + Clone + Debug + DeserializeOwned + Serialize + Send + 'static,
{
    super::eventually_ok(&format!("{name} is gone"), async || {
        api.get_opt(name).await.map(|left| left.is_none().then_some(()))
    })
    .await;
}

/// The condition of a type, as (status, reason, message).
pub fn condition(object: &DynamicObject, of_type: &str) -> Option<(String, String, String)> {
    let conditions = object.data["status"]["conditions"].as_array()?;
    let condition = conditions.iter().find(|condition| condition["type"] == of_type)?;
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("reason"), text("message")))
}

fn yaml(object: &impl Serialize) -> String {
    serde_saphyr::to_string(object).unwrap_or_else(|error| error.to_string())
}

/// What one needs to understand a failure in a namespace: events, logs of pods, and every object.
pub async fn report(client: &Client, namespace: &str) -> String {
    let mut report = format!("--- namespace {namespace}\n");
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    report.push_str("--- events\n");
    for event in events.list(&Default::default()).await.map(|list| list.items).unwrap_or_default() {
        let (kind, name) =
            (event.involved_object.kind.unwrap_or_default(), event.involved_object.name.unwrap_or_default());
        let (reason, message) = (event.reason.unwrap_or_default(), event.message.unwrap_or_default());
        let _ = writeln!(report, "{kind}/{name}: {reason}: {message}");
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    for pod in pods.list(&Default::default()).await.map(|list| list.items).unwrap_or_default() {
        for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
            for previous in [true, false] {
                let parameters = LogParams {
                    container: Some(container.name.clone()),
                    previous,
                    tail_lines: Some(200),
                    ..LogParams::default()
                };
                if let Ok(log) = pods.logs(&pod.name_any(), &parameters).await {
                    let which = if previous { ", before its restart" } else { "" };
                    let _ = writeln!(
                        report,
                        "--- log of pod {}, container {}{which}\n{log}",
                        pod.name_any(),
                        container.name
                    );
                }
            }
        }
    }
    report.push_str("--- objects\n");
    let Ok(discovery) = Discovery::new(client.clone()).run().await else { return report };
    for (resource, capabilities) in discovery.groups().flat_map(|group| group.recommended_resources()) {
        let told_already = ["Event", "Lease", "EndpointSlice", "PodMetrics"].contains(&resource.kind.as_str());
        if told_already || capabilities.scope != Scope::Namespaced || !capabilities.supports_operation(verbs::LIST) {
            continue;
        }
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        for mut object in api.list(&Default::default()).await.map(|list| list.items).unwrap_or_default() {
            // Every namespace has these.
            if ["kube-root-ca.crt", "default"].contains(&object.name_any().as_str()) {
                continue;
            }
            object.metadata.managed_fields = None;
            if resource.kind == "Secret" {
                object.data["data"] = "hidden".into();
            }
            let _ = writeln!(report, "# {} {}\n{}", resource.kind, object.name_any(), yaml(&object));
        }
    }
    report
}
