//! The box that the cluster's tests run in: it starts from any state, it comes back from any loss, it leaves nothing.
//!
//! What is claimed here follows from `tests/bed` and the machine's kernel. Where it has been seen of both, a run only sees that the
//! box starts and that nothing of it stays.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::api::{Api, DynamicObject};
use kube::{Client, discovery};
use sha2::{Digest, Sha256};

use crate::support::cluster::{
    KAFKA, KAFKA_NAMESPACE, apply, bed_up, client_of, condition, in_namespace_of, kafka_from_here, wait_for,
    wait_until_gone, worker,
};
use crate::support::{DEADLINE, topics, unique};

fn script(name: &str) -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bed").join(name))
}

fn state() -> PathBuf {
    let kubeconfig = bed_up(&[]);
    Path::new(&kubeconfig).ancestors().nth(2).unwrap().to_owned()
}

/// A client of the box, which is looked at first: the one before may have ended with its certificates.
async fn client() -> Client {
    client_of(&bed_up(&[])).await
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What the box leaves on the machine: processes, mounts, links and cgroups.
fn traces(state: &Path) -> Vec<String> {
    let state = state.to_str().unwrap();
    let mut traces = vec![];
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default().replace('\0', " ");
        let cgroup = fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
        if command.contains("tests/bed/up.sh") || cgroup.contains("/lazaret-bed") {
            traces.push(format!("process {}: {command}", process.file_name().display()));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    traces.extend(mounts.lines().filter(|line| line.contains(state)).map(|line| format!("mount {line}")));
    if Path::new("/sys/class/net/lazaret0").exists() {
        traces.push("link lazaret0".into());
    }
    let cgroups = Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", "lazaret-bed"]).output().unwrap();
    traces.extend(String::from_utf8_lossy(&cgroups.stdout).lines().map(|line| format!("cgroup {line}")));
    if Path::new(state).exists() {
        traces.push(format!("directory {state}"));
    }
    traces
}

async fn works(client: &Client) {
    let nodes: Api<Node> = Api::all(client.clone());
    wait_for(&nodes, "lazaret-bed", "is Ready", |node| {
        let conditions = node.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True").then_some(())
    })
    .await;
    let (resource, _) =
        discovery::group(client, "kafka.strimzi.io").await.unwrap().recommended_kind("KafkaTopic").unwrap();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), KAFKA_NAMESPACE, &resource);
    let name = unique("works");
    let topic = format!(
        "{{apiVersion: {}, kind: KafkaTopic, metadata: {{name: {name}, labels: {{strimzi.io/cluster: {KAFKA}}}}}, spec: \
         {{partitions: 2}}}}",
        resource.api_version
    );
    apply(client, KAFKA_NAMESPACE, &topic).await;
    wait_for(&api, &name, "is Ready", |topic| (condition(topic, "Ready")?.0 == "True").then_some(())).await;
    topics::has(&kafka_from_here(), &name, Some(2)).await;
    // A worker that is ready has reached Kafka by the name of its Service: scheduler, controllers, kubelet, containerd, DNS
    // and the Services' addresses have all done their part, and what they said before counts for nothing.
    in_namespace_of(client.clone(), "works", &[], async |client, namespace| {
        apply(&client, namespace, &worker("worker", &name)).await;
        let deployments: Api<Deployment> = Api::namespaced(client, namespace);
        wait_for(&deployments, "worker", "is available", |d| d.status.as_ref()?.available_replicas).await;
    })
    .await;
    api.delete(&name, &Default::default()).await.unwrap();
    wait_until_gone(&api, &name).await;
    topics::has(&kafka_from_here(), &name, None).await;
}

async fn a_second_up_finds_everything_and_changes_nothing() {
    let state = state();
    let pids = || {
        let files = fs::read_dir(state.join("run")).unwrap().map(|file| file.unwrap());
        let mut pids: Vec<_> = files.map(|file| (file.file_name(), fs::read_to_string(file.path()).unwrap())).collect();
        pids.sort();
        pids
    };
    let before = pids();
    bed_up(&[]);
    assert_eq!(before, pids());
    works(&client().await).await;
}

async fn any_part_that_is_killed_is_back_after_the_next_up() {
    let state = state();
    let mut parts: Vec<_> = fs::read_dir(state.join("run")).unwrap().map(|file| file.unwrap().file_name()).collect();
    parts.sort();
    assert!(parts.len() >= 9, "{parts:?}");
    for part in parts {
        let part = part.to_str().unwrap();
        // The numbers are those that the box knows its processes by.
        let pid = fs::read_to_string(state.join("run").join(part)).unwrap();
        let killed = script("in.sh").args(["kill", "-9", pid.trim()]).output().unwrap();
        assert!(killed.status.success(), "{part}: {}", said(&killed));
        bed_up(&[]);
        works(&client().await).await;
        let again = fs::read_to_string(state.join("run").join(part)).unwrap();
        assert_ne!(pid, again, "{part} was started again");
        // It is noted, as a death that nobody meant would make the run fail.
        let died = fs::read_to_string(state.join("died")).unwrap();
        assert_eq!(died.trim(), part);
        fs::remove_file(state.join("died")).unwrap();
    }
}

async fn a_part_that_died_by_itself_is_told_of_when_the_box_goes_down() {
    let pid = fs::read_to_string(state().join("run/kube-scheduler")).unwrap();
    assert!(script("in.sh").args(["kill", "-9", pid.trim()]).status().unwrap().success());
    let down = script("down.sh").output().unwrap();
    assert!(!down.status.success() && said(&down).contains("parts of it had died: kube-scheduler"), "{}", said(&down));
}

async fn a_box_whose_first_process_is_killed_is_made_anew() {
    let init = fs::read_to_string(state().join("init.pid")).unwrap();
    assert!(Command::new("kill").args(["-9", init.trim()]).status().unwrap().success());
    works(&client().await).await;
}

async fn the_newest_version_of_strimzi_and_an_old_one_both_serve_their_topics() {
    for flavour in ["v1beta2", "v1"] {
        bed_up(&[("BED_STRIMZI", flavour)]);
        let client = client().await;
        let group = discovery::group(&client, "kafka.strimzi.io").await.unwrap();
        assert_eq!(group.recommended_kind("Kafka").unwrap().0.version, flavour);
        works(&client).await;
    }
}

/// With Kafka's own client, as librdkafka is built here without what SCRAM needs.
async fn the_secure_listener_takes_the_password_in_the_secret_and_no_other() {
    let secrets: Api<Secret> = Api::namespaced(client().await, KAFKA_NAMESPACE);
    let text = async |secret: &str, key: &str| {
        String::from_utf8(secrets.get(secret).await.unwrap().data.unwrap()[key].0.clone()).unwrap()
    };
    let (ca, jaas) = (text("bhf-kafka-cluster-ca-cert", "ca.crt").await, text("lazaret", "sasl.jaas.config").await);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::write(folder.join("ca.crt"), ca).unwrap();
    let jars = script("kafka/jars.sh").output().unwrap();
    let jars = format!("{}/*", String::from_utf8(jars.stdout).unwrap().trim());
    let list = |jaas: &str| {
        let settings = format!(
            "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\nsasl.jaas.config={jaas}\n\
             ssl.truststore.type=PEM\nssl.truststore.location={}\n",
            folder.join("ca.crt").display()
        );
        fs::write(folder.join("scram.properties"), settings).unwrap();
        let mut java = Command::new("java");
        java.args([
            "-cp",
            &jars,
            "org.apache.kafka.tools.TopicCommand",
            "--list",
            "--bootstrap-server",
            "172.31.255.2:9093",
        ]);
        java.arg("--command-config").arg(folder.join("scram.properties")).output().unwrap()
    };
    let name = unique("secure");
    topics::create(&kafka_from_here(), &name, 1, &[]).await;
    let listed = list(&jaas);
    assert!(listed.status.success() && said(&listed).contains(&name), "{}", said(&listed));
    topics::delete(&kafka_from_here(), &name).await;
    let refused = list(&jaas.replace("password=\"", "password=\"not-"));
    assert!(said(&refused).contains("SaslAuthenticationException"), "{}", said(&refused));
}

fn down_leaves_nothing(state: &Path) {
    let down = script("down.sh").output().unwrap();
    assert!(down.status.success(), "{}", said(&down));
    let left = traces(state);
    assert!(left.is_empty(), "{left:#?}");
}

async fn down_leaves_nothing_however_far_up_had_come() {
    let state = state();
    assert!(!traces(&state).is_empty(), "the traces of a running box are seen");
    let down = || down_leaves_nothing(&state);
    down();
    let interrupt_up_at = |reached: &str| {
        // In a session of its own, to be killed with everything that it runs.
        let mut up = Command::new("setsid")
            .arg(script("up.sh").get_program())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        while !state.join(reached).exists() {
            assert!(began.elapsed() < DEADLINE, "up never made {reached}");
            assert!(up.try_wait().unwrap().is_none(), "up ended before it made {reached}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let group = format!("-{}", up.id());
        assert!(Command::new("kill").args(["-9", "--", &group]).status().unwrap().success());
        up.wait().unwrap();
    };
    for reached in ["pki", "init.pid", "box-is-made", "strimzi"] {
        interrupt_up_at(reached);
        down();
        interrupt_up_at(reached);
        works(&client().await).await;
        down();
    }
}

/// A file that is there where all of this was seen, of this bed and on this kernel.
fn proof(state: &Path) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bed");
    let files = Command::new("find").arg(folder).args(["-type", "f"]).output().unwrap();
    let mut files: Vec<_> = String::from_utf8(files.stdout).unwrap().lines().map(str::to_owned).collect();
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(fs::read(file).unwrap());
    }
    hash.update(include_str!("bed.rs"));
    hash.update(fs::read("/proc/sys/kernel/osrelease").unwrap());
    let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    state.parent().unwrap().join("proved").join(hash)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_box_starts_from_any_state_and_leaves_nothing() {
    let _alone = crate::BOX.lock().await;
    assert!(
        std::env::var("E2E_CONTEXT").is_err(),
        "these tests are of the box: on a cluster of your own run --test cluster e2e"
    );
    let proof = proof(&state());
    if proof.exists() {
        eprintln!("seen before: {}", proof.display());
        a_second_up_finds_everything_and_changes_nothing().await;
        down_leaves_nothing(&state());
        return;
    }
    let asked_for = |name: &str| fs::read_to_string(state().join(name)).unwrap().trim().to_owned();
    let (brokers, strimzi) = (asked_for("brokers"), asked_for("strimzi"));
    a_second_up_finds_everything_and_changes_nothing().await;
    the_newest_version_of_strimzi_and_an_old_one_both_serve_their_topics().await;
    the_secure_listener_takes_the_password_in_the_secret_and_no_other().await;
    any_part_that_is_killed_is_back_after_the_next_up().await;
    a_box_whose_first_process_is_killed_is_made_anew().await;
    down_leaves_nothing_however_far_up_had_come().await;
    a_part_that_died_by_itself_is_told_of_when_the_box_goes_down().await;
    bed_up(&[("BED_BROKERS", "3")]);
    works(&client().await).await;
    assert!(script("down.sh").status().unwrap().success());
    bed_up(&[("BED_BROKERS", &brokers), ("BED_STRIMZI", &strimzi)]);
    fs::create_dir_all(proof.parent().unwrap()).unwrap();
    fs::write(&proof, "").unwrap();
}
