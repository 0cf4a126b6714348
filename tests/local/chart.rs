//! The Helm chart: what it renders, which rights it asks for, and that its copies of what stands elsewhere are true.
//!
//! Needs no cluster, but helm, which is built when it is not there.

mod readme;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use insta::assert_snapshot;
use k8s_openapi::api::{
    apps::v1 as apps, core::v1 as core, networking::v1 as networking, policy::v1 as policy, rbac::v1 as rbac,
};
use lazaret::api::file;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::helm::helm;

const CHART: &str = "charts/lazaret";

const DEFAULTS: &str = "{}";

const NAMESPACES: &str = "{watchNamespaces: [kafka, lazaret], podMonitor: {enabled: true}}";

const IMAGE: &str = "
image: {repository: registry.example/lazaret, digest: 'sha256:0123'}
workerImage: registry.example/lazaret-worker:1
imagePullSecrets: [{name: registry}]
";

const EVERYTHING: &str = "
fullnameOverride: quarantine
replicas: 3
logLevel: info,kube=debug
extraEnv: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
serviceAccount: {annotations: {example.com/a: b}}
podLabels: {team: shop, app.kubernetes.io/name: stolen}
podAnnotations: {example.com/c: d}
priorityClassName: system-cluster-critical
nodeSelector: {kubernetes.io/os: linux}
tolerations: [{key: spot, operator: Exists, effect: NoSchedule}]
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms: [{matchExpressions: [{key: spot, operator: DoesNotExist}]}]
topologySpreadConstraints:
- {maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule}
- maxSkew: 2
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector: {matchLabels: {team: shop}}
podDisruptionBudget: {maxUnavailable: 50%}
networkPolicy:
  enabled: true
  from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]
  egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}]
podMonitor: {enabled: true, interval: 15s, labels: {release: prometheus}}
prometheusRule: {enabled: true, labels: {release: prometheus}}
dashboard: {enabled: true, labels: {team: shop}}
";

const NOTHING: &str = "
crds: {install: false}
aggregateRoles: {create: false}
serviceAccount: {create: false}
podDisruptionBudget: {enabled: false}
topologySpreadConstraints: []
";

const ALL: [&str; 5] = [DEFAULTS, NAMESPACES, IMAGE, EVERYTHING, NOTHING];

fn rendered(values: &str) -> String {
    helm(&["template", "lazaret", CHART], values).unwrap()
}

/// What is rendered without the CRDs and the dashboard, which other tests read. The version is left out, as it tells nothing of
/// the chart.
fn without_crds(values: &str) -> String {
    let rendered = rendered(values).replace(env!("CARGO_PKG_VERSION"), "VERSION");
    let documents = rendered.trim_start_matches("---\n").split("\n---\n");
    documents
        .filter(|document| !["/crds.yaml", "/dashboard.yaml"].iter().any(|file| document.contains(file)))
        .collect::<Vec<_>>()
        .join("\n---\n")
}

fn objects(values: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&rendered(values)).unwrap()
}

fn of_kind(values: &str, kind: &str) -> Vec<Value> {
    objects(values).into_iter().filter(|object| object["kind"] == kind).collect()
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().expect("every object has a name")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap()
}

fn files(folder: &str) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn by_default_two_operators_look_after_all_namespaces() {
    assert_snapshot!("default", without_crds(DEFAULTS));
}

#[test]
fn with_namespaces_named_the_rights_end_there() {
    assert_snapshot!("namespaces", without_crds(NAMESPACES));
}

#[test]
fn operator_and_workers_may_have_images_of_their_own() {
    assert_snapshot!("image", without_crds(IMAGE));
}

#[test]
fn every_option_can_be_turned_on() {
    assert_snapshot!("everything", without_crds(EVERYTHING));
}

#[test]
fn every_option_can_be_turned_off() {
    assert_snapshot!("nothing", without_crds(NOTHING));
}

#[test]
fn helm_finds_no_fault_with_any_of_them() {
    for values in ALL {
        if let Err(fault) = helm(&["lint", "--strict", CHART], values) {
            panic!("{fault}\n{values}");
        }
    }
}

#[test]
fn a_misspelt_value_is_refused_by_its_name() {
    let misspelt = [
        ("replica: 1", "replica"),
        ("image: {tga: '1'}", "tga"),
        ("podMonitor: {label: {}}", "label"),
        ("extraEnv: [{name: A, vlaue: b}]", "vlaue"),
    ];
    for (values, name) in misspelt {
        let refused = helm(&["template", "lazaret", CHART], values).unwrap_err();
        assert!(refused.contains(&format!("additional properties '{name}' not allowed")), "{values}: {refused}");
    }
}

#[test]
fn a_value_of_the_wrong_form_is_refused() {
    for values in ["replicas: many", "watchNamespaces: kafka", "watchNamespaces: [a, a]", "image: {digest: latest}"] {
        assert!(helm(&["template", "lazaret", CHART], values).is_err(), "{values}");
    }
}

#[test]
fn a_parent_chart_may_share_its_values() {
    assert_eq!(without_crds("{global: {a: 1}, enabled: true}"), without_crds(DEFAULTS));
}

/// Whether Kubernetes' own types hold all that stands in an object; what they do not know they leave out.
fn known<T: DeserializeOwned + Serialize>(object: &Value) -> bool {
    let typed: T = serde_json::from_value(object.clone()).unwrap();
    serde_json::to_value(typed).unwrap() == *object
}

#[test]
fn every_field_is_one_that_kubernetes_has() {
    for object in ALL.iter().flat_map(|values| objects(values)) {
        let known = match object["kind"].as_str().unwrap() {
            "Deployment" => known::<apps::Deployment>(&object),
            "ServiceAccount" => known::<core::ServiceAccount>(&object),
            "NetworkPolicy" => known::<networking::NetworkPolicy>(&object),
            "PodDisruptionBudget" => known::<policy::PodDisruptionBudget>(&object),
            "ClusterRole" => known::<rbac::ClusterRole>(&object),
            "ClusterRoleBinding" => known::<rbac::ClusterRoleBinding>(&object),
            "Role" => known::<rbac::Role>(&object),
            "RoleBinding" => known::<rbac::RoleBinding>(&object),
            "ConfigMap" => known::<core::ConfigMap>(&object),
            // The first has a test of its own, the others are not Kubernetes'.
            "CustomResourceDefinition" | "PodMonitor" | "PrometheusRule" => true,
            other => panic!("{other}: who knows its fields?"),
        };
        assert!(known, "{object:#}");
    }
}

#[test]
fn every_pod_keeps_to_the_restricted_profile_and_names_no_user() {
    for values in ALL {
        let deployments = of_kind(values, "Deployment");
        assert_eq!(deployments.len(), 1);
        let pod = &deployments[0]["spec"]["template"]["spec"];
        let wanted = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
        assert_eq!(pod["securityContext"], wanted);
        for field in ["hostNetwork", "hostPID", "hostIPC", "volumes", "initContainers"] {
            assert_eq!(pod[field], Value::Null, "{field}");
        }
        for container in pod["containers"].as_array().unwrap() {
            let wanted = json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]}});
            assert_eq!(container["securityContext"], wanted);
            assert_eq!(container["ports"][0]["hostPort"], Value::Null);
        }
    }
}

#[test]
fn with_namespaces_named_nothing_of_the_operators_is_cluster_wide() {
    let aggregated = ["lazaret-view", "lazaret-edit"];
    for role in of_kind(NAMESPACES, "ClusterRole") {
        assert!(aggregated.contains(&name(&role)), "{role:#}");
        assert!(role["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true");
    }
    assert_eq!(of_kind(NAMESPACES, "ClusterRoleBinding"), [] as [Value; 0]);
    let roles = of_kind(NAMESPACES, "Role");
    let of_lazaret = roles.iter().filter(|role| name(role) == "lazaret");
    let namespaces: Vec<_> = of_lazaret.clone().map(|role| role["metadata"]["namespace"].clone()).collect();
    assert_eq!(namespaces, ["kafka", "lazaret"]);
    let everywhere = of_kind(DEFAULTS, "ClusterRole").into_iter().find(|role| name(role) == "lazaret").unwrap();
    of_lazaret.for_each(|role| assert_eq!(role["rules"], everywhere["rules"]));
}

#[test]
fn no_right_reaches_further_than_it_must() {
    let roles =
        [DEFAULTS, NAMESPACES].iter().flat_map(|values| [of_kind(values, "ClusterRole"), of_kind(values, "Role")]);
    for role in roles.flatten() {
        for rule in role["rules"].as_array().unwrap() {
            let text = rule.to_string();
            for word in ["*", "secrets", "escalate", "bind", "impersonate", "pods/exec"] {
                assert!(!text.contains(&format!("\"{word}\"")), "{}: {text}", name(&role));
            }
            let changes = ["update", "patch", "get"].iter().any(|verb| text.contains(&format!("\"{verb}\"")));
            let named = rule["resourceNames"] == json!([name(&role).trim_end_matches("-lease")]);
            assert!(!text.contains("\"leases\"") || !changes || named, "{text}");
        }
    }
}

#[test]
fn the_operator_is_told_its_lease_and_namespaces() {
    let arguments =
        |values| of_kind(values, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["args"].clone();
    let image = concat!("lazaret.dev/lazaret:", env!("CARGO_PKG_VERSION"));
    let mut wanted = vec!["operator", "--worker-image", image, "--listen", "0.0.0.0:8080", "--lease", "lazaret"];
    assert_eq!(arguments(DEFAULTS), json!(wanted));
    wanted.extend(["--namespace", "kafka", "--namespace", "lazaret"]);
    assert_eq!(arguments(NAMESPACES), json!(wanted));
    assert_eq!(arguments(EVERYTHING)[6], "quarantine");
}

#[test]
fn the_version_is_the_one_of_the_code() {
    let chart = yaml("charts/lazaret/Chart.yaml");
    for field in ["version", "appVersion"] {
        assert_eq!(chart[field], env!("CARGO_PKG_VERSION"), "{field} in Chart.yaml");
    }
}

/// Numbers in one form: what has gone through helm says `1` for `1.0`.
fn numbers_alike(value: &mut Value) {
    match value {
        Value::Number(number) => *value = json!(number.as_f64()),
        Value::Array(items) => items.iter_mut().for_each(numbers_alike),
        Value::Object(fields) => fields.values_mut().for_each(numbers_alike),
        _ => {}
    }
}

#[test]
fn the_charts_crds_are_the_published_ones() {
    assert_eq!(files("charts/lazaret/files/crds"), files("crds"));
    let rendered = of_kind(DEFAULTS, "CustomResourceDefinition");
    assert_eq!(rendered.len(), files("crds").len());
    for file in files("crds") {
        let published = Path::new("crds").join(&file);
        let copy = Path::new("charts/lazaret/files/crds").join(&file);
        assert!(read(&copy) == read(&published), "{} is not {file}: run `make crds`", copy.display());
        let mut published: Value = yaml(published.to_str().unwrap());
        let mut rendered = rendered.iter().find(|crd| name(crd) == name(&published)).unwrap().clone();
        let metadata = rendered["metadata"].as_object_mut().unwrap();
        let annotations = metadata.remove("annotations").unwrap();
        assert_eq!(annotations["helm.sh/resource-policy"], "keep");
        metadata.remove("labels");
        numbers_alike(&mut rendered);
        numbers_alike(&mut published);
        assert!(rendered == published, "{file} is not rendered as it is");
    }
}

/// A copy of the chart in which the notes are an object: helm shows them only where there is a cluster.
#[test]
fn the_pipeline_in_the_notes_can_be_applied() {
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chart-with-notes");
    let _ = fs::remove_dir_all(&copy);
    fs::create_dir_all(copy.join("templates")).unwrap();
    for file in ["Chart.yaml", "values.yaml", "templates/_helpers.tpl"] {
        fs::copy(Path::new(CHART).join(file), copy.join(file)).unwrap();
    }
    let notes = read(Path::new(CHART).join("templates/NOTES.txt")).replace('\n', "\n  ");
    fs::write(copy.join("templates/notes.yaml"), format!("notes: |\n  {notes}")).unwrap();
    for (values, place, namespace) in
        [(DEFAULTS, "all namespaces", "kafka"), ("watchNamespaces: [shop]", "shop", "shop")]
    {
        let rendered = helm(&["template", "lazaret", copy.to_str().unwrap()], values).unwrap();
        let notes = serde_saphyr::from_str::<Value>(&rendered).unwrap()["notes"].as_str().unwrap().to_owned();
        assert!(notes.contains(&format!("in {place}.\n")), "{notes}");
        let (_, rest) = notes.split_once("<<'EOF'\n").unwrap();
        let (pipeline, rest) = rest.split_once("\nEOF\n").unwrap();
        let pipelines = file::parse("NOTES.txt", pipeline).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(pipelines[0].metadata.namespace.as_deref(), Some(namespace));
        assert!(rest.contains("\nkubectl get pipelines"));
    }
}

#[test]
fn the_readme_lists_every_value_as_values_yaml_explains_it() {
    let path = Path::new(CHART).join("README.md");
    let values = read(Path::new(CHART).join("values.yaml"));
    let wanted = readme::with_values(&read(&path), &values);
    if std::env::var_os("LAZARET_WRITE").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    assert!(read(&path) == wanted, "{} differs from values.yaml: run `make chart-docs`", path.display());
}

#[test]
fn every_value_is_explained_and_has_its_place_in_the_schema() {
    let explained = readme::explained(&read(Path::new(CHART).join("values.yaml")));
    let explained: BTreeSet<_> = explained.into_iter().map(|value| value.path).collect();
    fn check(path: &[String], value: &Value, schema: &Value, explained: &BTreeSet<Vec<String>>) {
        if explained.contains(path) {
            return;
        }
        let fields = value.as_object().unwrap_or_else(|| panic!("values.yaml does not explain {}", path.join(".")));
        let mut in_schema: BTreeSet<_> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        if path.is_empty() {
            // What a parent chart sets is no value of this one.
            in_schema.retain(|name| !["global", "enabled"].contains(name));
        }
        assert_eq!(fields.keys().map(String::as_str).collect::<BTreeSet<_>>(), in_schema, "in {path:?}");
        for (key, value) in fields {
            let path = [path, std::slice::from_ref(key)].concat();
            check(&path, value, &schema["properties"][key], explained);
        }
    }
    let schema: Value = serde_json::from_str(&read(Path::new(CHART).join("values.schema.json"))).unwrap();
    check(&[], &yaml("charts/lazaret/values.yaml"), &schema, &explained);
}
