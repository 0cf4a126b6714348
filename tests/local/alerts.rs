//! What the chart gives Prometheus and Grafana: alerts that fire when they should, and names of metrics that there are.
//!
//! Needs no cluster, but helm and promtool, which are built when they are not there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::helm::helm;

/// Has promtool built, and says where it is.
fn promtool() -> PathBuf {
    let output = Command::new("tests/prometheus/build.sh")
        .arg("promtool")
        .output()
        .expect("tests/prometheus/build.sh can be run");
    assert!(output.status.success(), "no promtool, which this test needs: {}", said(&output));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn template(values: &str) -> Result<String, String> {
    helm(&["template", "lazaret", "charts/lazaret"], values)
}

/// The object of a kind that the chart renders with these values.
fn rendered(kind: &str, values: &str) -> Value {
    let objects: Vec<Value> = serde_saphyr::from_multiple(&template(values).unwrap()).unwrap();
    objects.into_iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

#[test]
fn every_alert_fires_when_it_should_and_not_before() {
    let rule = rendered("PrometheusRule", "{prometheusRule: {enabled: true}, podMonitor: {enabled: true}}");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("alerts");
    fs::create_dir_all(&directory).unwrap();
    // What is JSON is YAML.
    fs::write(directory.join("alerts.yaml"), rule["spec"].to_string()).unwrap();
    let tests = read("tests/prometheus/alerts_test.yaml");
    fs::write(directory.join("alerts_test.yaml"), &tests).unwrap();
    let promtool = promtool();
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]] {
        let output = Command::new(&promtool).args(arguments).current_dir(&directory).output().unwrap();
        assert!(output.status.success(), "promtool {}: {}", arguments.join(" "), said(&output));
    }
    // Each has been seen to fire.
    let tests: Value = serde_saphyr::from_str(&tests).unwrap();
    let cases = tests["tests"].as_array().unwrap().iter().flat_map(|test| test["alert_rule_test"].as_array().unwrap());
    let fired: BTreeSet<_> =
        cases.filter(|case| !case["exp_alerts"].is_null()).map(|case| case["alertname"].clone().to_string()).collect();
    let rules = rule["spec"]["groups"][0]["rules"].as_array().unwrap();
    assert_eq!(fired, rules.iter().map(|rule| rule["alert"].to_string()).collect());
}

#[test]
fn an_alert_can_be_left_out_by_its_name() {
    let rule = rendered("PrometheusRule", "prometheusRule: {enabled: true, except: [LazaretNewErrorType]}");
    let rules = rule["spec"]["groups"][0]["rules"].as_array().unwrap();
    let names: Vec<_> = rules.iter().map(|rule| rule["alert"].as_str().unwrap()).collect();
    assert!(names.contains(&"LazaretConsumerStuck") && !names.contains(&"LazaretNewErrorType"), "{names:?}");
    assert!(!names.contains(&"LazaretOperatorAbsent"), "it would always fire where nothing is scraped");
}

#[test]
fn an_alert_that_is_misspelt_is_refused() {
    let refused = template("prometheusRule: {enabled: true, except: [LazaretNewErrorTypes]}").unwrap_err();
    let named = "there is no alert LazaretNewErrorTypes; there are LazaretConsumerStuck,";
    assert!(refused.contains(named), "{refused}");
}

#[test]
fn every_page_that_an_alert_names_is_there() {
    let alerts = read("charts/lazaret/files/alerts.yaml");
    let pages: BTreeSet<_> = alerts.split_whitespace().filter(|word| word.starts_with("docs/")).collect();
    assert!(pages.len() > 5, "{pages:?}");
    for page in pages {
        assert!(Path::new(page.trim_end_matches('.')).exists(), "{page}");
    }
}

#[test]
fn the_dashboard_is_whole_and_no_two_of_its_panels_are_one() {
    let map = rendered("ConfigMap", "dashboard: {enabled: true}");
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let dashboard: Value = serde_json::from_str(map["data"]["lazaret.json"].as_str().unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_i64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(!panel["targets"][0]["expr"].as_str().unwrap().is_empty(), "{}", panel["title"]);
    }
}
