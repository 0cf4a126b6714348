//! What a user gets who takes a wrong turn: one clear line and exit code 2, or an answer that says what is awaited.

use std::io::Write;

use crate::support::eventually;
use crate::support::lazaret::{Lazaret, bash, run};
use crate::support::pipeline::yaml;
use crate::support::ports::closed_port;

const RULES: &str = "processor: {rules: [{when: value.amount < 0, error: E}]}";

/// Runs `lazaret dev` on files that it must refuse, and returns the one line that it says.
fn refused(files: &[String]) -> String {
    let folder = std::env::temp_dir().join(crate::support::unique("wrong"));
    std::fs::create_dir_all(&folder).unwrap();
    let paths: Vec<String> = files
        .iter()
        .enumerate()
        .map(|(n, text)| {
            let path = folder.join(format!("{n}.yaml")).display().to_string();
            std::fs::write(&path, text).unwrap();
            path
        })
        .collect();
    let args: Vec<&str> = std::iter::once("dev").chain(paths.iter().map(String::as_str)).collect();
    let (code, output, error) = run(&args);
    assert_eq!(code, Some(2), "{error}");
    assert_eq!(output, "");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    error
}

#[test]
fn an_unknown_field_is_named_with_its_line() {
    let error = refused(&[yaml("orders", &format!("{RULES}\nretry:\n  maxAttemps: 3"))]);
    assert!(error.contains("0.yaml:10: spec.retry.maxAttemps: unknown field, did you mean `maxAttempts`?"), "{error}");
}

#[test]
fn a_longest_delay_below_the_first_one_is_refused() {
    let error = refused(&[yaml("orders", &format!("{RULES}\nretry: {{initialDelay: 10s, maxDelay: 1s}}"))]);
    assert!(error.contains("spec.retry.maxDelay") && error.contains("initialDelay"), "{error}");
}

#[test]
fn an_expression_that_does_not_compile_is_named() {
    let error = refused(&[yaml("orders", "processor: {rules: [{when: 'value.amount <', error: E}]}")]);
    assert!(error.contains("spec.processor.rules[0].when"), "{error}");
}

#[test]
fn two_pipelines_on_one_topic_are_refused_by_name() {
    let pipeline = |name| yaml(name, &format!("topic: {{name: orders}}\n{RULES}"));
    let error = refused(&[pipeline("one"), pipeline("two")]);
    assert!(error.contains("`one` and `two` both use the topic `orders`"), "{error}");
}

#[test]
fn what_is_no_pipeline_is_refused() {
    assert!(refused(&["kind: ConfigMap\napiVersion: v1\n".into()]).contains("ConfigMap"));
    assert!(refused(&["{".into()]).contains("0.yaml"));
    assert!(refused(&[String::new()]).contains("no ErrorHandlingPipeline in this file"));
    let (code, _, error) = run(&["dev", "no-such-file.yaml"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("no-such-file.yaml"), "{error}");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/orders.yaml");
    let (code, _, error) = run(&["dev", example, "--listen", &address]);
    assert_eq!(code, Some(1));
    assert!(error.contains(&format!("cannot listen on {address}")), "{error}");
}

#[test]
fn pipelines_on_different_kafkas_are_not_run_by_one_worker() {
    let folder = std::env::temp_dir().join(crate::support::unique("kafkas"));
    std::fs::create_dir_all(&folder).unwrap();
    let path = |name: &str, address: &str| {
        let path = folder.join(name).display().to_string();
        std::fs::write(&path, yaml(name, RULES).replace("localhost:9092", address)).unwrap();
        path
    };
    let (one, two) = (path("one", "here:9092"), path("two", "there:9092"));
    let (code, _, error) = run(&["worker", "--stage", "main", "--file", &one, "--file", &two]);
    assert_eq!(code, Some(2));
    assert!(error.contains("not all on one Kafka"), "{error}");
}

#[test]
fn a_worker_without_a_kafka_is_refused() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/orders.yaml");
    let (code, _, error) = run(&["worker", "--stage", "main", "--file", example]);
    assert_eq!(code, Some(2));
    assert!(error.contains("--bootstrap-servers"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_cannot_be_reached_is_named_and_tried_again() {
    let free = closed_port();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/orders.yaml");
    let worker = ["worker", "--stage", "main", "--file", example, "--bootstrap-servers", &free];
    for command in [["dev", example, "--bootstrap-servers", &free].as_slice(), &worker] {
        let mut lazaret = Lazaret::start(&[command, &["--listen", "127.0.0.1:0"]].concat());
        let api = lazaret.wait_for("listening address=");
        lazaret.wait_for(&format!("Kafka cannot be reached, trying again address=\"{free}\""));
        let unready = bash(&format!("curl -s -o /dev/null -w '%{{http_code}}' http://{api}/readyz"));
        assert_eq!(unready, "503");
        assert!(bash(&format!("curl -s http://{api}/readyz")).contains(&free), "the address is named");
        assert_eq!(bash(&format!("curl -s -o /dev/null -w '%{{http_code}}' http://{api}/healthz")), "200");
        assert!(lazaret.stop().success(), "it stops when it is asked to, Kafka or not");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_comes_with_the_broker() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/orders.yaml");
    let mut lazaret = Lazaret::start(&["dev", example, "--listen", "127.0.0.1:0"]);
    let api = lazaret.wait_for("listening address=");
    let ready = async || {
        let code = bash(&format!("curl -s -o /dev/null -w '%{{http_code}}' http://{api}/readyz"));
        (code == "200").then_some(())
    };
    eventually("it is ready", ready).await;
}

#[test]
fn an_endpoint_that_cannot_be_called_is_refused_before_anything_starts() {
    for (url, headers) in [("http://h:99999/", "{}"), ("http://a b/", "{}"), ("http://h/", "{bad name: x}")] {
        let error = refused(&[yaml("orders", &format!("processor: {{http: {{url: '{url}', headers: {headers}}}}}"))]);
        assert!(error.contains("orders: spec.processor.http."), "{error}");
    }
}

#[test]
fn a_session_timeout_that_brokers_refuse_is_refused() {
    let error = refused(&[yaml("orders", &format!("{RULES}\nconsumer: {{sessionTimeout: 1ms, drainTimeout: 0s}}"))]);
    assert!(error.contains("spec.consumer.sessionTimeout: must be 6s to 30m"), "{error}");
}

#[test]
fn more_partitions_than_anyone_can_want_are_refused() {
    let error = refused(&[yaml("orders", &format!("topic: {{name: orders, partitions: 2147483647}}\n{RULES}"))]);
    assert!(error.contains("spec.topic.partitions: must be at most 10000"), "{error}");
}

#[test]
fn addresses_that_are_none_are_refused() {
    for address in ["", "localhost", "http://localhost:9092", "localhost:notaport", "localhost:99999", "a:1,,b:2"] {
        let (code, _, error) = run(&["dev", "examples/orders.yaml", "--bootstrap-servers", address]);
        assert_eq!(code, Some(2), "{address}: {error}");
        assert!(error.contains("must be HOST:PORT"), "{error}");
        let worker = ["worker", "--stage", "main", "--file", "examples/orders.yaml", "--peers", address];
        let (code, _, error) = run(&worker);
        assert_eq!(code, Some(2), "{address}: {error}");
        assert!(error.contains("--peers <HOST:PORT>") && error.contains("must be HOST:PORT"), "{error}");
    }
}

/// Asks a cluster with this kubeconfig, and returns the exit code and the one line that is said.
fn asked(kubeconfig: Option<&str>, args: &[&str]) -> (Option<i32>, String) {
    let path = std::env::temp_dir().join(crate::support::unique("kubeconfig"));
    if let Some(text) = kubeconfig {
        std::fs::write(&path, text).unwrap();
    }
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lazaret"));
    command.args(args).env("KUBECONFIG", &path).env_remove("RUST_LOG").env_remove("KUBERNETES_SERVICE_HOST");
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.stdout.is_empty(), "{error}");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    (output.status.code(), error)
}

const NOBODY: &str = "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: c}}], \
                      clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], users: [{name: c, user: {}}]}";

#[test]
fn who_asks_a_cluster_without_saying_which_hears_how_to_say_it() {
    for args in [["status"].as_slice(), &["status", "orders"], &["explain", "orders"]] {
        let (code, error) = asked(None, args);
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains("no cluster can be chosen") && error.contains("--kubeconfig"), "{error}");
    }
    let (code, error) = asked(Some(NOBODY), &["status", "--context", "other"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("other") && error.contains("--context"), "{error}");
}

#[test]
fn a_cluster_that_does_not_answer_is_named() {
    for args in [["status"].as_slice(), &["explain", "orders"], &["explain", "-f", "examples/orders.yaml"]] {
        let (code, error) = asked(Some(NOBODY), args);
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains("http://127.0.0.1:1 does not answer") && error.contains("refused"), "{error}");
    }
}

#[test]
fn a_file_that_is_to_be_explained_is_read_before_a_cluster_is_asked() {
    let (code, error) = asked(None, &["explain", "-f", "no-such-file.yaml"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("no-such-file.yaml"), "{error}");
}

#[test]
fn as_a_plugin_of_kubectl_the_binary_has_only_the_plugins_commands() {
    let folder = std::env::temp_dir().join(crate::support::unique("plugin"));
    std::fs::create_dir_all(&folder).unwrap();
    let plugin = folder.join("kubectl-lazaret");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_lazaret"), &plugin).unwrap();
    let run = |args: &[&str]| std::process::Command::new(&plugin).args(args).output().unwrap();
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    assert!(help.contains("Usage: kubectl lazaret <COMMAND>"), "{help}");
    assert!(help.contains("explain") && !help.contains("worker"), "{help}");
    assert_eq!(run(&["dev", "examples/orders.yaml"]).status.code(), Some(2));
    assert_eq!(run(&["status", "orders", "-A"]).status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_any_more_does_not_keep_the_work_from_being_done() {
    let folder = std::env::temp_dir().join(crate::support::unique("unread"));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("orders.yaml");
    std::fs::write(&file, yaml("orders", &format!("{RULES}\ningress: {{enabled: true}}"))).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lazaret"));
    command.args(["dev", file.to_str().unwrap(), "--listen", "127.0.0.1:0"]).stdin(std::process::Stdio::null());
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut log, &mut line).unwrap();
    let api = line.trim().rsplit_once("address=").unwrap().1.to_owned();
    drop((log, child.stdout.take()));
    let posted = async || {
        let post = format!("curl -sf -X POST http://{api}/api/v1/orders -d '{{\"amount\": -1}}'");
        std::process::Command::new("bash").args(["-c", &post]).output().ok().filter(|output| output.status.success())
    };
    eventually("a record is taken in", posted).await;
    let stats = async || {
        let stats = bash(&format!("curl -sf http://{api}/api/v1/stats"));
        stats.contains("\"deadLettered\":1").then_some(())
    };
    eventually("it is dead-lettered, which is logged", stats).await;
    bash(&format!("kill -INT {}", child.id()));
    assert!(child.wait().unwrap().success(), "it drains and ends as if the log were read");
}

#[test]
fn an_operator_without_a_cluster_says_so_and_ends() {
    let (code, error) = asked(None, &["operator", "--worker-image", "x"]);
    assert_eq!(code, Some(1));
    assert!(error.starts_with("lazaret: no cluster is configured: run in a pod with a service account"), "{error}");
}

/// In a container it is the first process: a signal that it does not listen for yet is lost, and it would be killed half a minute
/// later.
#[test]
fn a_worker_that_is_asked_to_stop_while_it_reads_its_configuration_stops() {
    let fifo = std::env::temp_dir().join(format!("{}.yaml", crate::support::unique("starts")));
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let (path, nobody) = (fifo.display().to_string(), closed_port());
    let worker = ["worker", "--stage", "main", "--file", &path, "--bootstrap-servers", &nobody];
    let mut lazaret = Lazaret::start(&[&worker[..], &["--listen", "127.0.0.1:0"]].concat());
    // This returns when the worker has opened the other end, and waits for what is in it.
    let mut configuration = std::fs::File::create(&fifo).unwrap();
    lazaret.signal("TERM");
    configuration.write_all(yaml("orders", RULES).as_bytes()).unwrap();
    drop(configuration);
    assert!(lazaret.ended().success(), "{}", lazaret.log());
    std::fs::remove_file(fifo).unwrap();
}
