//! The workers of a run: the real binary, several processes a stage. Each has a name and a port that it keeps over all its
//! lives, as a pod of a StatefulSet would.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lazaret::domain::pipeline::TopicPlan;

use super::children::{Process, free_ports};
use super::source::Extra;
use super::support::pipeline::yaml;
use super::support::processor::now;
use super::variant::{DRAIN_SECONDS, Variant};
use super::verdict::Fault;

/// How many workers each stage has.
pub const STAGES: [(&str, usize); 2] = [("main", 3), ("retry", 2)];

/// The longest that a stop may take: the drain, the grace that the worker gives itself, and a busy machine.
const STOP: Duration = Duration::from_secs(DRAIN_SECONDS + 15 + 10);

/// What a worker logs when it loses partitions without having been asked to give them up, when what runs takes too long, and
/// when Kafka does not take a commit.
const LOSSES: [&str; 4] =
    ["dropping what was started", "drain timeout", "could not commit", "could not read the committed offsets"];

/// A pipeline, as workers are told of it.
#[derive(Clone, Debug)]
pub struct Told {
    pub name: String,
    pub topic: String,
    pub dead_letter_topic: String,
    pub partitions: usize,
    pub compacted: bool,
    pub topics: Vec<TopicPlan>,
    pub extra: Arc<Extra>,
}

pub struct Worker {
    pub name: String,
    pub stage: &'static str,
    port: u16,
    life: u32,
    process: Option<Process>,
    /// The most memory that it has had in any of its lives, in MiB, but for what it took to stop.
    pub peak: u64,
    log: PathBuf,
    /// The length of the log when it was started last.
    log_at_start: u64,
    /// When it was asked to stop.
    asked: Option<(Instant, i64)>,
}

/// How a worker ended after it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The worker, and which of its lives.
    pub worker: String,
    /// Epoch milliseconds.
    pub from: i64,
    pub until: i64,
    /// `None` when it did not end in time, -1 when a signal ended it.
    pub code: Option<i32>,
}

/// What all workers of a run share.
pub struct Site {
    pub directory: PathBuf,
    pub bootstrap_servers: String,
    pub endpoint: String,
    pub variant: Variant,
    pub pipelines: Vec<Told>,
}

impl Site {
    /// All workers, none of which runs yet.
    pub fn workers(&self) -> Vec<Worker> {
        let names = STAGES.iter().flat_map(|(stage, count)| (1..=*count).map(move |number| (*stage, number)));
        let ports = free_ports(STAGES.iter().map(|(_, count)| count).sum());
        let worker = |((stage, number), port)| Worker {
            name: format!("{stage}-{number}"),
            stage,
            port,
            life: 0,
            process: None,
            peak: 0,
            log: self.directory.join(format!("{stage}-{number}.log")),
            log_at_start: 0,
            asked: None,
        };
        names.zip(ports).map(worker).collect()
    }
}

impl Worker {
    /// Starts it. Each life calls an address of its own, so that the endpoint knows who called.
    pub fn start(&mut self, site: &Site) {
        self.life += 1;
        let mut args: Vec<String> = ["worker", "--stage", self.stage, "--listen"].map(str::to_owned).into();
        args.extend([format!("127.0.0.1:{}", self.port), "--bootstrap-servers".into(), site.bootstrap_servers.clone()]);
        for (index, told) in site.pipelines.iter().enumerate() {
            let url = format!("{}/{index}/{}/{}", site.endpoint, self.name, self.life);
            let file = site.directory.join(format!("{}.{index}.yaml", self.name));
            fs::write(&file, yaml(&told.name, &site.variant.spec(&told.topic, &url, told.compacted))).unwrap();
            args.extend(["--file".into(), file.display().to_string()]);
        }
        self.log_at_start = fs::metadata(&self.log).map_or(0, |log| log.len());
        let environment = [("HOSTNAME", &*self.name), ("RUST_BACKTRACE", "1")];
        self.process = Some(Process::start(env!("CARGO_BIN_EXE_lazaret"), &args, &environment, &self.log));
    }

    /// Its name and its life, as the endpoint hears them.
    pub fn caller(&self) -> String {
        format!("{}/{}", self.name, self.life)
    }

    fn has_begun(&self) -> bool {
        self.says("listening")
    }

    /// Whether it has said this in its present life.
    fn says(&self, words: &str) -> bool {
        let log = fs::read(&self.log).unwrap_or_default();
        let of_this_life = log.get(self.log_at_start as usize..).unwrap_or_default();
        String::from_utf8_lossy(of_this_life).contains(words)
    }

    /// When it said, in any of its lives, that it went on without partitions that it had, or could not finish what it had
    /// started. Epoch milliseconds.
    pub fn losses(&self) -> Vec<i64> {
        let log = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let is_loss = |line: &&str| LOSSES.iter().any(|words| line.contains(words));
        let time = |line: &str| line.split(' ').next()?.parse::<jiff::Timestamp>().ok().map(|at| at.as_millisecond());
        log.lines().filter(is_loss).filter_map(time).collect()
    }

    /// How it ended, if it did without having been asked to.
    pub fn died(&mut self) -> Option<std::process::ExitStatus> {
        self.process.as_mut().filter(|_| self.asked.is_none()).and_then(Process::ended)
    }

    /// That it ended is no fault where the group had expelled it, which it finds out when it wakes up from a pause, and librdkafka
    /// did not say: then it starts anew on purpose.
    pub fn ended_by_itself(&self, status: std::process::ExitStatus) -> Option<Fault> {
        let was_expelled = self.says("the group had expelled this worker");
        (!was_expelled).then(|| Fault::Died { worker: self.name.clone(), status: status.to_string() })
    }

    /// Kills it. How it ended, if it had ended by itself.
    pub fn kill(&mut self) -> Option<std::process::ExitStatus> {
        self.measure();
        let ended = self.died();
        self.process = None;
        ended
    }

    pub fn signal(&self, name: &str) {
        self.process.as_ref().expect("it runs").signal(name);
    }

    fn measure(&mut self) {
        let peak = self.process.as_ref().and_then(Process::peak_memory);
        self.peak = self.peak.max(peak.unwrap_or_default());
    }

    pub fn ask_to_stop(&mut self) {
        self.measure();
        self.asked = Some((Instant::now(), now()));
        self.signal("TERM");
    }

    /// Waits for one that was asked to stop.
    pub async fn stopped(&mut self) -> Stop {
        let (asked, from) = self.asked.take().expect("it was asked to");
        let mut process = self.process.take().expect("it runs");
        let left = STOP.saturating_sub(asked.elapsed());
        let ended = tokio::time::timeout(left, process.end_within(STOP * 2, "the worker stops")).await;
        let code = ended.ok().map(|status| match status.code() {
            Some(code) => code,
            // The signal came before the process had learned to listen to it, and there was nothing to finish.
            None if !self.has_begun() => 0,
            None => -1,
        });
        Stop { worker: self.caller(), from, until: now(), code }
    }
}
