//! The binary, as a user runs it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::DEADLINE;

/// A running `lazaret`. When this is dropped it is asked to stop, and has to do so with exit code 0: one that ended by itself,
/// whatever the test has seen of it before, fails the test.
pub struct Lazaret {
    child: Child,
    /// Whether the test knows that it ended, or had it killed.
    is_known_to_end: AtomicBool,
    output: Arc<Mutex<String>>,
    log: Arc<Mutex<String>>,
}

impl Lazaret {
    pub fn start(args: &[&str]) -> Self {
        Self::start_with(args, &[])
    }

    pub fn start_with(args: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::run(env!("CARGO_BIN_EXE_lazaret"), args, environment)
    }

    fn run(program: &str, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(program)
            .args(args)
            .env_remove("RUST_LOG")
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = collect(child.stdout.take().unwrap());
        let log = collect(child.stderr.take().unwrap());
        Self { child, is_known_to_end: AtomicBool::new(false), output, log }
    }

    /// Starts a worker that runs a stage of a pipeline, which is given as YAML, on this Kafka.
    pub fn worker(kafka: &str, stage: &str, yaml: &str, listen: &str, environment: &[(&str, &str)]) -> Self {
        Self::worker_of(env!("CARGO_BIN_EXE_lazaret"), kafka, stage, yaml, listen, environment)
    }

    /// The same of this program.
    pub fn worker_of(
        program: &str,
        kafka: &str,
        stage: &str,
        yaml: &str,
        listen: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        let file = format!("{}/{}.yaml", env!("CARGO_TARGET_TMPDIR"), super::unique("worker"));
        std::fs::write(&file, yaml).unwrap();
        let args = ["worker", "--stage", stage, "--file", &file, "--bootstrap-servers", kafka, "--listen", listen];
        Self::run(program, &args, environment)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that it has had, in MiB.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The lines of the log that hold all of the words, as with one `grep` after the other.
    pub fn grep(&self, words: &[&str]) -> Vec<String> {
        let log = self.log();
        log.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect()
    }

    /// Waits until the output or the log has `text`, and returns the rest of that line.
    pub fn wait_for(&mut self, text: &str) -> String {
        self.wait_within(DEADLINE, text)
    }

    /// The same, where it is promised when it has.
    pub fn wait_within(&mut self, deadline: Duration, text: &str) -> String {
        let began = Instant::now();
        loop {
            for all in [self.output(), self.log()] {
                if let Some((_, rest)) = all.split_once(text)
                    && let Some((line, _)) = rest.split_once('\n')
                {
                    return line.to_owned();
                }
            }
            let ended = self.child.try_wait().unwrap();
            let (output, log) = (self.output(), self.log());
            assert!(ended.is_none(), "it ended with {ended:?} before it said {text:?}\n{output}\n{log}");
            assert!(began.elapsed() < deadline, "it did not say {text:?} within {deadline:?}\n{output}\n{log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends it a signal. Who sends KILL knows that it ends.
    pub fn signal(&self, name: &str) {
        if name == "KILL" {
            self.is_known_to_end.store(true, Ordering::Relaxed);
        }
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Waits until it has ended by itself.
    pub fn ended(&mut self) -> ExitStatus {
        self.is_known_to_end.store(true, Ordering::Relaxed);
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < DEADLINE, "it does not end\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks it to stop and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended()
    }
}

impl Drop for Lazaret {
    fn drop(&mut self) {
        let said = |this: &Self| format!("--- output of lazaret\n{}--- log of lazaret\n{}", this.output(), this.log());
        if std::thread::panicking() || self.is_known_to_end.load(Ordering::Relaxed) {
            let _ = self.child.kill();
            let _ = self.child.wait();
            if std::thread::panicking() {
                eprintln!("{}", said(self));
            }
        } else {
            let before = self.child.try_wait().unwrap();
            assert!(before.is_none(), "it ended by itself: {before:?}\n{}", said(self));
            let status = self.stop();
            assert!(status.success(), "it was asked to stop and ended with {status}\n{}", said(self));
        }
        assert!(std::thread::panicking() || !self.log().contains("panicked"), "{}", said(self));
    }
}

fn collect(stream: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let into = text.clone();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
    text
}

/// Runs it to its end.
pub fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_lazaret")).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Runs a command line in bash, as a reader of the exercises would type it.
pub fn bash(line: &str) -> String {
    let output = Command::new("bash").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The stats page: of all workers that this one knows of.
pub fn stats(api: &str) -> Value {
    serde_json::from_str(&bash(&format!("curl -sf {api}/api/v1/stats"))).unwrap()
}

/// The same of this worker.
pub fn own_stats(api: &str) -> Value {
    serde_json::from_str(&bash(&format!("curl -sf '{api}/api/v1/stats?scope=worker'"))).unwrap()
}
