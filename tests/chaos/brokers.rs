//! Three brokers of Apache Kafka, each a controller too, as children of the test: they can be killed, paused and
//! restarted.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::children::{Process, free_ports};
use super::support::eventually_within;

pub const BROKERS: usize = 3;

/// What a broker may take to start beside two others on two cores.
const START: Duration = Duration::from_secs(120);

/// What an orderly stop of a broker may take before it is killed. It is no part of what is tested.
const STOP: Duration = Duration::from_secs(20);

/// What the cluster may take to have all replicas in sync again.
const HEAL: Duration = Duration::from_secs(120);

/// Kafka's defaults make a cluster that loses a broker wait for many seconds: these make it notice soon, so that a run has
/// time for more than one such event. Sessions are as short as members ask for, and transactions that time out are looked
/// for every second.
const SETTINGS: &str = "\
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.min.isr=2
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
replica.lag.time.max.ms=5000
controlled.shutdown.max.retries=1
group.min.session.timeout.ms=6000
group.consumer.min.session.timeout.ms=6000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=1000
group.consumer.heartbeat.interval.ms=2000
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
log.cleaner.backoff.ms=1000
log.cleaner.delete.retention.ms=600000
log.initial.task.delay.ms=5000
num.network.threads=2
num.io.threads=3
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAIN:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAIN
";

pub struct Cluster {
    brokers: Vec<Broker>,
    lib: String,
    pub address: String,
}

struct Broker {
    directory: PathBuf,
    process: Option<Process>,
    /// The length of the log when it was started last.
    log_at_start: u64,
}

impl Cluster {
    /// Starts all brokers, each in a directory of its own, and waits until they are one cluster.
    pub async fn start(directory: &Path) -> Self {
        let ports = free_ports(2 * BROKERS);
        let address = |port: &u16| format!("127.0.0.1:{port}");
        let voters: Vec<_> = (1..).zip(&ports[BROKERS..]).map(|(id, port)| format!("{id}@{}", address(port))).collect();
        let addresses: Vec<_> = ports[..BROKERS].iter().map(address).collect();
        let mut brokers = vec![];
        for index in 0..BROKERS {
            let directory = directory.join(format!("broker-{}", index + 1));
            fs::create_dir_all(&directory).unwrap();
            let common = include_str!("../bed/kafka/common.properties");
            let (plain, controller) = (&addresses[index], address(&ports[BROKERS + index]));
            let own = format!(
                "node.id={}\ncontroller.quorum.voters={}\nlisteners=PLAIN://{plain},CONTROLLER://{controller}\n\
                 advertised.listeners=PLAIN://{plain}\nlog.dirs={}\n",
                index + 1,
                voters.join(","),
                directory.join("data").display(),
            );
            fs::write(directory.join("server.properties"), format!("{common}{SETTINGS}{own}")).unwrap();
            brokers.push(Broker { directory, process: None, log_at_start: 0 });
        }
        let mut cluster = Self { brokers, lib: jars(), address: addresses.join(",") };
        cluster.format().await;
        (0..BROKERS).for_each(|index| cluster.start_broker(index));
        cluster.heal().await;
        cluster
    }

    async fn format(&self) {
        let format = |broker: &Broker| {
            let tool = ["kafka.tools.StorageTool", "format", "-t", "lazaretTestChaosKafkaA", "-c"];
            let args = self.java("128m", &tool, broker);
            Process::start("java", &args, &[], &broker.directory.join("format.log"))
        };
        let formats: Vec<_> = self.brokers.iter().map(format).collect();
        for mut process in formats {
            assert!(process.end_within(START, "the data directory is formatted").await.success());
        }
    }

    /// The arguments of a JVM that lives for minutes: the second compiler would cost more at the start than it saves.
    fn java(&self, heap: &str, main: &[&str], broker: &Broker) -> Vec<String> {
        let log4j = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bed/kafka/log4j2.properties");
        let mut args = vec![
            format!("-Xmx{heap}"),
            "-XX:TieredStopAtLevel=1".into(),
            "-XX:+UseSerialGC".into(),
            format!("-XX:ErrorFile={}/crash.log", broker.directory.display()),
            format!("-Dlog4j2.configurationFile={log4j}"),
            "-cp".into(),
            format!("{}/*", self.lib),
        ];
        args.extend(main.iter().map(|arg| (*arg).to_owned()));
        args.push(broker.directory.join("server.properties").display().to_string());
        args
    }

    pub fn start_broker(&mut self, index: usize) {
        let args = self.java("352m", &["kafka.Kafka"], &self.brokers[index]);
        let broker = &mut self.brokers[index];
        let log = broker.directory.join("broker.log");
        broker.log_at_start = fs::metadata(&log).map_or(0, |log| log.len());
        broker.process = Some(Process::start("java", &args, &[], &log));
    }

    pub fn kill(&mut self, index: usize) {
        self.brokers[index].process = None;
    }

    pub fn signal(&self, index: usize, name: &str) {
        self.brokers[index].process.as_ref().expect("it runs").signal(name);
    }

    /// Waits for a broker that was asked to stop, and does not wait for ever.
    pub async fn ended(&mut self, index: usize) {
        let Some(process) = &mut self.brokers[index].process else { return };
        let ended = tokio::time::timeout(STOP, process.end_within(STOP * 2, "the broker ends")).await;
        if ended.is_err() {
            println!("broker {} was asked to stop and did not within {STOP:?}: it is killed", index + 1);
        }
        self.kill(index);
    }

    /// Whether every broker runs and every replica is in sync.
    pub fn is_whole(&mut self) -> bool {
        let consumer =
            || -> BaseConsumer { ClientConfig::new().set("bootstrap.servers", &self.address).create().unwrap() };
        let are_ready = self.brokers.iter_mut().all(|broker| broker.process.is_some() && broker.is_ready());
        are_ready && tokio::task::block_in_place(|| is_whole(&consumer()))
    }

    /// Waits until every broker runs and every replica is in sync.
    pub async fn heal(&mut self) {
        for (index, broker) in self.brokers.iter_mut().enumerate() {
            let what = format!("broker {} is ready: see {}/broker.log", index + 1, broker.directory.display());
            eventually_within(START, &what, async || broker.is_ready().then_some(())).await;
        }
        let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &self.address).create().unwrap();
        eventually_within(HEAL, "all replicas are in sync", async || {
            tokio::task::block_in_place(|| is_whole(&consumer)).then_some(())
        })
        .await;
    }
}

impl Broker {
    /// The line is written when the broker is registered with its controllers and takes requests.
    fn is_ready(&mut self) -> bool {
        let ended = self.process.as_mut().and_then(Process::ended);
        assert!(ended.is_none(), "a broker ended by itself: {ended:?}, see {}", self.directory.display());
        let mut text = vec![];
        let Ok(mut log) = fs::File::open(self.directory.join("broker.log")) else { return false };
        log.seek(SeekFrom::Start(self.log_at_start)).unwrap();
        log.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).contains("Kafka Server started")
    }
}

fn is_whole(consumer: &BaseConsumer) -> bool {
    let Ok(metadata) = consumer.fetch_metadata(None, Duration::from_secs(5)) else { return false };
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
    metadata.brokers().len() == BROKERS && partitions.into_iter().all(|p| p.isr().len() == p.replicas().len())
}

fn jars() -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bed/kafka/jars.sh");
    let output = Command::new(script).output().expect("tests/bed/kafka/jars.sh can be run");
    assert!(output.status.success(), "no jars: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
