//! Processes of a test that are signalled, and that do not outlive it.

use std::fs::{File, OpenOptions};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::support::eventually_within;
use super::support::ports::free_port;

/// A child with a log. It is killed when this is dropped, and by the kernel when the thread that started it ends, however
/// that happens: start it in the test's own task, which has one thread for all its life.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a program. What it prints is added to the log.
    pub fn start(program: &str, args: &[String], environment: &[(&str, &str)], log: &Path) -> Self {
        let log: File = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", program]).args(args).envs(environment.to_vec());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self { child: command.spawn().unwrap() }
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// The most memory that it has had, in MiB, as long as it runs.
    pub fn peak_memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? / 1_024)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it has ended.
    pub async fn end_within(&mut self, deadline: Duration, what: &str) -> ExitStatus {
        eventually_within(deadline, what, async || self.ended()).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ports on loopback that nothing listens at.
pub fn free_ports(count: usize) -> Vec<u16> {
    (0..count).map(|_| free_port(Ipv4Addr::LOCALHOST.into())).collect()
}
