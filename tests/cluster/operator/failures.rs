//! What must not go wrong: permissions that are missing, an API server that is busy, objects that get in each other's way.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::{CustomResourceExt, Resource, ResourceExt};
use lazaret::api::v1alpha1::ErrorHandlingPipeline;
use serde_json::{Value, json};

use crate::rights::{change_kubeconfig, set_rights};
use crate::site::{Site, in_site, with_another_crd};
use crate::support::api_proxy::ApiProxy;
use crate::support::cluster::wait_until_gone;
use crate::support::link::Link;
use crate::support::{eventually, stays};

#[tokio::test(flavor = "multi_thread")]
async fn with_the_charts_rights_everything_works_and_a_missing_one_is_named() {
    in_site("rights", async |site| {
        set_rights(&site.client, &site.namespace, Some("deployments")).await;
        let operator = site.operator();
        site.apply(&site.pipeline("orders", "retry: {autoscaling: {maxReplicas: 2}}")).await;
        let message = site.reason("orders", "Forbidden").await;
        for word in ["lacks a permission", "deployments.apps", "patch", &*site.namespace] {
            assert!(message.contains(word), "{word:?} is not in {message}");
        }
        set_rights(&site.client, &site.namespace, None).await;
        site.reason("orders", "Ready").await;
        let events = eventually("an event", async || {
            let events = site.events("orders").await;
            events.iter().any(|(reason, _)| reason == "Ready").then_some(events)
        })
        .await;
        assert!(
            events.iter().any(|(reason, note)| reason == "Forbidden" && note.contains("deployments")),
            "{events:?}"
        );
        // Removing what is no longer wanted is within its rights, too.
        site.merge("orders", json!({"spec": {"retry": {"autoscaling": null}}})).await;
        let autoscalers: Api<HorizontalPodAutoscaler> = Api::namespaced(site.client.clone(), &site.namespace);
        wait_until_gone(&autoscalers, "orders-retry").await;
        assert!(operator.grep(&["an event could not be written"]).is_empty(), "{}", operator.log());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_refuses_each_write_a_few_times_is_asked_again() {
    in_site("refuses", async |site| {
        let proxy = ApiProxy::start(&site.kubeconfig, &site.namespace).await;
        let mut seen = BTreeMap::new();
        proxy.disturb(move |method, path| {
            let is_write = method != Method::GET && !path.contains("/leases");
            let times = if is_write { seen.entry(format!("{method} {path}")).or_insert(0) } else { return None };
            *times += 1;
            match times {
                1 => Some(StatusCode::CONFLICT),
                2 => Some(StatusCode::TOO_MANY_REQUESTS),
                3 => Some(StatusCode::INTERNAL_SERVER_ERROR),
                _ => None,
            }
        });
        let operator = site.operator_with(&site.namespace, &proxy.kubeconfig);
        site.apply(&site.pipeline("orders", "consumer: {replicas: 0}\nretry: {replicas: 0}")).await;
        let is_ready = async || {
            let status = site.pipelines.get("orders").await.unwrap().status?;
            let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
            (ready.status == "True").then_some(())
        };
        let (mut change, mut failures) = (0, 0);
        while is_ready().await.is_none() {
            // Each failure makes the operator wait longer; a change of the spec is looked at at once.
            change += 1;
            site.merge("orders", json!({"spec": {"retry": {"maxAttempts": change % 9 + 1}}})).await;
            eventually("another failure, or all is well", async || {
                let now = operator.grep(&["could not be reconciled"]).len();
                let has_failed = now > failures;
                failures = now;
                if has_failed { Some(()) } else { is_ready().await }
            })
            .await;
        }
        site.reason("orders", "Ready").await;
        assert!(failures >= 20, "more than ten writes were refused twice and more, but only {failures} failed");
        assert!(operator.grep(&["panicked"]).is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_server_does_not_take_is_said_in_its_words_until_it_does() {
    in_site("error", async |site| {
        let proxy = ApiProxy::start(&site.kubeconfig, &site.namespace).await;
        let is_deployment = |method: &Method, path: &str| method == Method::PATCH && path.contains("/deployments/");
        proxy.disturb(move |method, path| is_deployment(method, path).then_some(StatusCode::INTERNAL_SERVER_ERROR));
        let _operator = site.operator_with(&site.namespace, &proxy.kubeconfig);
        site.apply(&site.pipeline("orders", "consumer: {replicas: 0}\nretry: {replicas: 0}")).await;
        let message = site.reason("orders", "ApiServerError").await;
        assert!(message.contains("the API server refused: a test answers with 500"), "{message}");
        assert!(site.deployments.list(&Default::default()).await.unwrap().items.is_empty());
        let told = async || site.events("orders").await.into_iter().find(|(reason, _)| reason == "ApiServerError");
        eventually("an event tells of it", told).await;
        // It is tried again by itself.
        proxy.disturb(|_, _| None);
        site.reason("orders", "Ready").await;
    })
    .await;
}

/// The address of the API server in a kubeconfig.
fn api_server(kubeconfig: &str) -> String {
    let config: Value = serde_saphyr::from_str(&std::fs::read_to_string(kubeconfig).unwrap()).unwrap();
    config["clusters"][0]["cluster"]["server"].as_str().unwrap().trim_start_matches("https://").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_for_a_minute_is_found_again() {
    in_site("away", async |site| {
        // Away for this operator alone: the others' tests go on.
        let link = Link::to(&api_server(&site.kubeconfig)).await;
        let by_link = change_kubeconfig(&site.kubeconfig, &format!("{}-link", site.namespace), |config| {
            config["clusters"][0]["cluster"]["server"] = format!("https://{}", link.address).into();
        });
        let mut operator = site.operator_with(&site.namespace, &by_link);
        site.apply(&site.pipeline("orders", "")).await;
        site.reason("orders", "Ready").await;
        link.hold();
        tokio::time::sleep(Duration::from_secs(60)).await;
        link.mend();
        operator.wait_for("the lease is lost");
        site.merge("orders", json!({"spec": {"retry": {"maxAttempts": 3}}})).await;
        site.reason("orders", "Ready").await;
        assert_eq!(operator.grep(&["this replica acts now"]).len(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_pipelines_on_one_topic_the_older_goes_on_and_the_other_names_it() {
    in_site("conflict", async |site| {
        let _operator = site.operator();
        site.apply(&site.pipeline("older", "")).await;
        site.reason("older", "Ready").await;
        let same = format!("topic: {{name: {}, partitions: 2}}", site.named("older"));
        site.apply(&site.pipeline("younger", &same)).await;
        let message = site.reason("younger", "Conflict").await;
        for word in [&*format!("{}/older", site.namespace), "the topic", &*site.named("older")] {
            assert!(message.contains(word), "{word:?} is not in {message}");
        }
        site.apply(&site.pipeline("member", &format!("consumer: {{groupId: {}}}", site.named("older-retry")))).await;
        let message = site.reason("member", "Conflict").await;
        assert!(message.contains("the consumer group") && message.contains("/older"), "{message}");
        assert!(site.deployments.get_opt("younger-consumer").await.unwrap().is_none());
        site.reason("older", "Ready").await;
        // When the older one goes, the others go on by themselves.
        site.pipelines.delete("older", &Default::default()).await.unwrap();
        site.reason("younger", "Ready").await;
        site.reason("member", "Ready").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_somebody_else_is_not_taken() {
    in_site("taken", async |site| {
        let _operator = site.operator();
        site.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: orders-worker}\ndata: {a: b}\n").await;
        site.apply(&site.pipeline("orders", "")).await;
        let message = site.reason("orders", "NameTaken").await;
        assert!(message.contains("ConfigMap `orders-worker`"), "{message}");
        let maps: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(site.client.clone(), &site.namespace);
        assert_eq!(maps.get("orders-worker").await.unwrap().data.unwrap(), [("a".into(), "b".into())].into());
        maps.delete("orders-worker", &Default::default()).await.unwrap();
        site.reason("orders", "Ready").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processors_service_that_does_not_exist_is_a_warning() {
    in_site("warning", async |site| {
        let _operator = site.operator();
        let url = format!("http://nobody.{}.svc:8080/orders", site.namespace);
        site.apply(&site.pipeline("orders", &format!("processor: {{http: {{url: '{url}'}}}}"))).await;
        site.reason("orders", "Ready").await;
        let message = site.condition("orders", "Warning", "ServiceNotFound").await;
        assert!(message.contains("`nobody`") && message.contains(&site.namespace), "{message}");
        let events = async || site.events("orders").await.into_iter().find(|(reason, _)| reason == "ServiceNotFound");
        eventually("a warning event", events).await;
        site.merge("orders", json!({"spec": {"processor": {"http": {"url": "http://127.0.0.1:9/"}}}})).await;
        crate::support::cluster::wait_for(&site.pipelines, "orders", "has no warning", |pipeline| {
            let conditions = &pipeline.status.as_ref()?.conditions;
            conditions.iter().all(|condition| condition.type_ != "Warning").then_some(())
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expression_that_does_not_compile_is_named_and_mended() {
    in_site("invalid", async |site| {
        let _operator = site.operator();
        site.apply(&site.pipeline("orders", "processor: {rules: [{when: value.amount <, error: E}]}")).await;
        let message = site.reason("orders", "InvalidSpec").await;
        assert!(message.contains("spec.processor.rules[0].when"), "{message}");
        assert!(site.topics.list(&Default::default()).await.unwrap().items.is_empty());
        site.apply(&site.pipeline("orders", "")).await;
        site.reason("orders", "Ready").await;
    })
    .await;
}

async fn is_there<K>(api: &Api<K>, name: &str)
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize + Send + 'static,
{
    crate::support::cluster::wait_for(api, name, "is there", |_| Some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_is_deleted_while_it_is_being_made_leaves_nothing_but_its_topics() {
    in_site("fleeting", async |site| {
        let operator = site.operator();
        // At once, and then further and further on the way.
        for step in 0..4 {
            site.apply(&site.pipeline("orders", "")).await;
            match step {
                0 => {}
                1 => is_there(&site.topics, &site.named("orders.dlt")).await,
                2 => is_there(&site.deployments, "orders-consumer").await,
                _ => is_there(&site.deployments, "orders-retry").await,
            }
            site.pipelines.delete("orders", &Default::default()).await.unwrap();
            wait_until_gone(&site.deployments, "orders-consumer").await;
        }
        wait_until_gone(&site.deployments, "orders-consumer").await;
        wait_until_gone(&site.deployments, "orders-retry").await;
        assert!(operator.grep(&["panicked"]).is_empty());
        site.apply(&site.pipeline("orders", "")).await;
        site.reason("orders", "Ready").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_deleted_goes_and_nothing_is_made_in_it() {
    in_site("doomed", async |site| {
        let mut operator = site.operator();
        site.apply(&site.pipeline("orders", "deletionPolicy: Delete")).await;
        site.reason("orders", "Ready").await;
        let namespaces: Api<Namespace> = Api::all(site.client.clone());
        namespaces.delete(&site.namespace, &Default::default()).await.unwrap();
        wait_until_gone(&namespaces, &site.namespace).await;
        assert!(operator.stop().success());
        // The site tidies up what is there no more.
        let again = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": site.namespace}});
        site.apply(&again.to_string()).await;
    })
    .await;
}

/// Puts a pipeline into the store that no version of the code wrote.
async fn store_malformed(site: &Site, name: &str) {
    let crds: Api<CustomResourceDefinition> = Api::all(site.client.clone());
    let crd = ErrorHandlingPipeline::crd();
    let mut loose = serde_json::to_value(&crd).unwrap();
    let schema = &mut loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    *schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    crds.patch(&crd.name_any(), &PatchParams::apply("the-tests").force(), &Patch::Apply(&loose)).await.unwrap();
    let gvk = kube::core::GroupVersionKind::gvk("lazaret.dev", "v1alpha1", "ErrorHandlingPipeline");
    let resource = kube::api::ApiResource::from_gvk_with_plural(&gvk, &ErrorHandlingPipeline::plural(&()));
    let api: Api<DynamicObject> = Api::namespaced_with(site.client.clone(), &site.namespace, &resource);
    let object = DynamicObject::new(name, &resource).data(json!({"spec": {"topic": {"name": 7}}}));
    // The API server takes the new schema up a moment later.
    eventually("the malformed object is stored", async || api.create(&PostParams::default(), &object).await.ok()).await;
    crds.patch(&crd.name_any(), &PatchParams::apply("the-tests").force(), &Patch::Apply(&crd)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_object_says_so_and_holds_up_nobody() {
    in_site("malformed", async |site| {
        with_another_crd(store_malformed(site, "broken")).await;
        let operator = site.operator();
        site.apply(&site.pipeline("orders", "")).await;
        site.reason("orders", "Ready").await;
        let told = async || site.events("broken").await.into_iter().find(|(reason, _)| reason == "InvalidSpec");
        let (_, note) = eventually("an event", told).await;
        assert!(note.contains("cannot be read"), "{note}");
        // It is said once, and not tried again and again: a change of it would be looked at after another retry of the same.
        site.merge("orders", json!({"spec": {"retry": {"maxAttempts": 3}}})).await;
        site.reason("orders", "Ready").await;
        stays(Duration::from_secs(3), "it is not tried again", async || operator.grep(&["broken"]).len()).await;
        assert!(operator.grep(&["could not be reconciled", "broken"]).is_empty(), "{}", operator.log());
    })
    .await;
}
