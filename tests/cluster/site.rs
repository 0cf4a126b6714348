//! A namespace in which an operator works: with a Kafka object, a stand-in for Strimzi's topic operator, and operators as
//! processes that a test can kill.
#![allow(dead_code)] // each test file uses its own part of this

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Client, CustomResourceExt, ResourceExt};
use lazaret::api::v1alpha1::{ErrorHandlingPipeline, ErrorHandlingPipelineStatus};
use serde_json::{Value, json};
use tokio::sync::RwLock;
use tokio::task::JoinHandle;

use crate::rights::operator_account;
use crate::support::cluster::{apply, image, in_namespace_where, kafka_from_here, let_pods_end, wait_for, wait_within};
use crate::support::lazaret::{Lazaret, bash};
use crate::support::{DEADLINE, eventually_ok};
use crate::topic_operator;

/// How soon a status tells of records. The operator looks every two seconds; beside other tests it gets three times as long,
/// from when it is so.
pub const SOON: Duration = Duration::from_secs(6);

/// The Kafka object of a site.
pub const KAFKA: &str = "site";

/// A namespace in which an operator works.
pub struct Site {
    pub client: Client,
    pub namespace: String,
    pub pipelines: Api<ErrorHandlingPipeline>,
    pub topics: Api<DynamicObject>,
    pub deployments: Api<Deployment>,
    /// `kafka.strimzi.io/v1` or another.
    pub strimzi: String,
    /// Of the operator's account.
    pub kubeconfig: String,
    topic_operator: JoinHandle<()>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.topic_operator.abort();
    }
}

/// Those that write pipelines, and the one that stores one which no CRD of ours would take.
static CRD: RwLock<()> = RwLock::const_new(());

/// Changes the CRD for a moment, in which nobody else writes a pipeline.
pub async fn with_another_crd(change: impl Future<Output = ()>) {
    let _alone = CRD.write().await;
    change.await;
}

/// Runs a test in a site of its own. Nothing of it stays.
pub async fn in_site(name: &str, test: impl AsyncFnOnce(&Site)) {
    in_site_where(name, &[], test).await;
}

/// The same, where pods whose name begins with one of `may_fail` may be restarted or end badly.
pub async fn in_site_where(name: &str, may_fail: &[&str], test: impl AsyncFnOnce(&Site)) {
    in_namespace_where(name, may_fail, async |client, namespace| {
        let site = Site::open(client, namespace).await;
        test(&site).await;
        site.clear().await;
    })
    .await;
}

impl Site {
    async fn open(client: Client, namespace: &str) -> Self {
        install_crd(&client).await;
        let installed =
            ListParams::default().labels("app.kubernetes.io/name=lazaret,app.kubernetes.io/managed-by=Helm");
        let installed = Api::<Deployment>::all(client.clone()).list(&installed).await.unwrap().items;
        assert!(
            installed.is_empty(),
            "an installed operator would do the work of the one that is tested: uninstall the chart"
        );
        let resource = topic_operator::served(&client).await.unwrap();
        let settings = topic_operator::Settings {
            namespace: namespace.to_owned(),
            cluster: KAFKA.to_owned(),
            bootstrap_servers: kafka_from_here(),
            // A topic is looked at again when it changes, or when Kafka was away: nobody waits for that here.
            resync: Duration::from_secs(3_600),
            kafka_timeout: Duration::from_secs(60),
        };
        let stand_in = client.clone();
        let kubeconfig = operator_account(&client, namespace).await;
        let site = Self {
            kubeconfig,
            namespace: namespace.to_owned(),
            pipelines: Api::namespaced(client.clone(), namespace),
            topics: Api::namespaced_with(client.clone(), namespace, &resource),
            deployments: Api::namespaced(client.clone(), namespace),
            strimzi: resource.api_version,
            topic_operator: tokio::spawn(async move { topic_operator::run(stand_in, settings).await.unwrap() }),
            client,
        };
        site.add_kafka(KAFKA).await;
        site
    }

    /// Makes a Kafka object that says where the tests' Kafka is.
    pub async fn add_kafka(&self, name: &str) {
        self.apply(&self.kafka(name)).await;
        let address = kafka_from_here();
        let (host, port) = address.rsplit_once(':').unwrap();
        let status = json!({"status": {
            "conditions": [{"type": "Ready", "status": "True"}], "observedGeneration": 1,
            "listeners": [{"name": "plain", "addresses": [{"host": host, "port": port.parse::<u16>().unwrap()}],
                "bootstrapServers": address}],
        }});
        self.kafkas().patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    /// A Kafka object that Strimzi has not looked at yet.
    pub fn kafka(&self, name: &str) -> String {
        format!(
            "apiVersion: {}\nkind: Kafka\nmetadata: {{name: {name}}}\nspec:\n  kafka:\n    listeners:\n    - {{name: plain, \
             port: 9092, type: internal, tls: false}}\n",
            self.strimzi
        )
    }

    pub fn kafkas(&self) -> Api<DynamicObject> {
        let (group, version) = self.strimzi.split_once('/').unwrap();
        let gvk = kube::core::GroupVersionKind::gvk(group, version, "Kafka");
        let resource = ApiResource::from_gvk_with_plural(&gvk, "kafkas");
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    pub async fn apply(&self, yaml: &str) {
        let _as_it_is = CRD.read().await;
        apply(&self.client, &self.namespace, yaml).await;
    }

    /// A name that no other site uses, of a topic or a group in Kafka.
    pub fn named(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    /// A pipeline on a topic of the same name. What is added begins at the margin.
    pub fn pipeline(&self, name: &str, more: &str) -> String {
        let topic = match more.contains("topic: ") && more.starts_with("topic") {
            true => String::new(),
            false => format!("  topic: {{name: {}, partitions: 2}}\n", self.named(name)),
        };
        let kafka = match more.contains("kafka: ") {
            true => String::new(),
            false => format!("  kafka: {{cluster: {KAFKA}}}\n"),
        };
        let processor = match more.contains("processor: ") {
            true => "",
            false => "  processor: {rules: [{when: value.amount < 0, error: 'E: bad'}]}\n",
        };
        let consumer = match more.contains("consumer: ") {
            true => String::new(),
            false => format!(
                "  consumer: {{groupId: {}, sessionTimeout: 6s, drainTimeout: 5s}}\n",
                self.named(&format!("{name}-main"))
            ),
        };
        let retry = match more.contains("retry: ") {
            true => String::new(),
            false => format!("  retry: {{groupId: {}}}\n", self.named(&format!("{name}-retry"))),
        };
        format!(
            "apiVersion: lazaret.dev/v1alpha1\nkind: ErrorHandlingPipeline\nmetadata: {{name: {name}}}\nspec:\n\
             {kafka}{topic}{processor}{consumer}{retry}  {}\n",
            more.trim().replace('\n', "\n  ")
        )
    }

    /// Starts an operator for the namespace. Several of one site take turns.
    pub fn operator(&self) -> Lazaret {
        self.operator_with(&self.namespace, &self.kubeconfig)
    }

    /// Starts one that takes turns with others of the same lease, as the user of a kubeconfig. The chart's rights are for the
    /// lease that is named after the namespace.
    pub fn operator_with(&self, lease: &str, kubeconfig: &str) -> Lazaret {
        let (image, namespace) = (image(), &*self.namespace);
        let args = ["operator", "--namespace", namespace, "--lease", lease, "--worker-image", &image];
        let environment = [("KUBECONFIG", kubeconfig)];
        Lazaret::start_with(&[&args[..], &["--listen", "127.0.0.1:0"]].concat(), &environment)
    }

    /// Waits for the `Ready` condition of a pipeline to have a reason, and returns its message.
    pub async fn reason(&self, name: &str, reason: &str) -> String {
        self.condition(name, "Ready", reason).await
    }

    /// Waits for a condition of a pipeline, as it is now, to have a reason, and returns its message.
    pub async fn condition(&self, name: &str, of_type: &str, reason: &str) -> String {
        self.condition_within(DEADLINE, name, of_type, reason).await
    }

    /// The same, where it is promised when it has.
    pub async fn condition_within(&self, deadline: Duration, name: &str, of_type: &str, reason: &str) -> String {
        wait_within(deadline, &self.pipelines, name, &format!("{of_type} has the reason {reason}"), |pipeline| {
            let status = pipeline.status.as_ref()?;
            let condition = status.conditions.iter().find(|condition| condition.type_ == of_type)?;
            let is_current = condition.observed_generation == pipeline.metadata.generation;
            (is_current && condition.reason == reason).then(|| condition.message.clone())
        })
        .await
    }

    /// Waits for the status of a pipeline to say something.
    pub async fn says<T>(
        &self,
        name: &str,
        what: &str,
        probe: impl Fn(&ErrorHandlingPipelineStatus) -> Option<T>,
    ) -> T {
        self.says_within(DEADLINE, name, what, probe).await
    }

    /// The same, where it is promised when it does.
    pub async fn says_within<T>(
        &self,
        deadline: Duration,
        name: &str,
        what: &str,
        probe: impl Fn(&ErrorHandlingPipelineStatus) -> Option<T>,
    ) -> T {
        wait_within(deadline, &self.pipelines, name, what, |pipeline| probe(pipeline.status.as_ref()?)).await
    }

    pub async fn merge(&self, name: &str, patch: Value) {
        let _as_it_is = CRD.read().await;
        self.pipelines.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// The events of a pipeline, each as its reason and its note.
    pub async fn events(&self, name: &str) -> Vec<(String, String)> {
        let events: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let of_pipeline = |event: &k8s_openapi::api::events::v1::Event| {
            event.regarding.as_ref().is_some_and(|regarding| regarding.name.as_deref() == Some(name))
        };
        let events = events.list(&Default::default()).await.unwrap().items;
        let said = |event: k8s_openapi::api::events::v1::Event| {
            (event.reason.unwrap_or_default(), event.note.unwrap_or_default())
        };
        events.into_iter().filter(of_pipeline).map(said).collect()
    }

    /// Deletes pipelines and topics, and waits until they are gone.
    async fn clear(&self) {
        // Not as pipelines: one of them may be none.
        let resource = ApiResource::erase::<ErrorHandlingPipeline>(&());
        let pipelines: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        pipelines.delete_collection(&Default::default(), &Default::default()).await.unwrap();
        // Workers end while what they read is there, as in an ordinary life.
        let_pods_end(&self.client, &self.namespace).await;
        self.topics.delete_collection(&Default::default(), &Default::default()).await.unwrap();
        none_left(&self.topics).await;
    }
}

async fn none_left<K>(api: &Api<K>)
where
    K: Clone + Debug + serde::de::DeserializeOwned,
{
    let all_gone = async || api.list(&Default::default()).await.map(|left| left.items.is_empty().then_some(()));
    eventually_ok("all are gone", all_gone).await;
}

/// Has the cluster know pipelines.
async fn install_crd(client: &Client) {
    static IS_DONE: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    IS_DONE.get_or_init(async || apply_crd(client).await).await;
}

async fn apply_crd(client: &Client) {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let crd = ErrorHandlingPipeline::crd();
    let parameters = PatchParams::apply("the-tests").force();
    crds.patch(&crd.name_any(), &parameters, &Patch::Apply(&crd)).await.unwrap();
    wait_for(&crds, &crd.name_any(), "is established", |crd| {
        let conditions = crd.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().any(|c| c.type_ == "Established" && c.status == "True").then_some(())
    })
    .await;
}

/// What an operator counts, by the name of the metric with its labels.
pub fn metric(operator: &mut Lazaret, name: &str) -> u64 {
    let address = operator.wait_for("listening address=");
    let metrics = bash(&format!("curl -sf http://{address}/metrics"));
    let value = metrics.lines().filter_map(|line| line.strip_prefix(name)?.rsplit(' ').next()?.parse::<u64>().ok());
    value.sum()
}
