//! The workers of a run: the real binary, several processes a stage. Each has a name and a port that it keeps over all its
//! lives, as a pod of a StatefulSet would.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::children::{Process, free_ports};
use super::support::pipeline::yaml;
use super::support::processor::now;
use super::variant::{DRAIN_SECONDS, Variant};

/// How many workers each stage has.
pub const STAGES: [(&str, usize); 2] = [("main", 3), ("retry", 2)];

/// The longest that a stop may take: the drain, the grace that the worker gives itself, and a busy machine.
const STOP: Duration = Duration::from_secs(DRAIN_SECONDS + 15 + 10);

/// A pipeline, as workers are told of it.
#[derive(Clone, Debug)]
pub struct Told {
    pub name: String,
    pub topic: String,
    pub compacted: bool,
}

pub struct Worker {
    pub name: String,
    stage: &'static str,
    port: u16,
    life: u32,
    process: Option<Process>,
    /// When it was asked to stop.
    asked: Option<(Instant, i64)>,
}

/// How a worker ended after it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    pub worker: String,
    /// Epoch milliseconds.
    pub from: i64,
    pub until: i64,
    /// `None` when it did not end in time.
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
        let log = site.directory.join(format!("{}.log", self.name));
        let environment = [("HOSTNAME", &*self.name), ("RUST_BACKTRACE", "1")];
        self.process = Some(Process::start(env!("CARGO_BIN_EXE_lazaret"), &args, &environment, Path::new(&log)));
    }

    /// How it ended, if it did without having been asked to.
    pub fn died(&mut self) -> Option<std::process::ExitStatus> {
        self.process.as_mut().filter(|_| self.asked.is_none()).and_then(Process::ended)
    }

    pub fn kill(&mut self) {
        self.process = None;
    }

    pub fn signal(&self, name: &str) {
        self.process.as_ref().expect("it runs").signal(name);
    }

    pub fn ask_to_stop(&mut self) {
        self.asked = Some((Instant::now(), now()));
        self.signal("TERM");
    }

    /// Waits for one that was asked to stop.
    pub async fn stopped(&mut self) -> Stop {
        let (asked, from) = self.asked.take().expect("it was asked to");
        let mut process = self.process.take().expect("it runs");
        let left = STOP.saturating_sub(asked.elapsed());
        let ended = tokio::time::timeout(left, process.end_within(STOP * 2, "the worker stops")).await;
        let code = ended.ok().map(|status| status.code().unwrap_or(-1));
        Stop { worker: self.name.clone(), from, until: now(), code }
    }
}
