//! Processes of a test that are signalled, and that do not outlive it.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rand::Rng;

use super::support::eventually_within;

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

/// Ports on loopback that nothing listens at. They are below those that the system gives to outgoing connections: such a one
/// could otherwise take the port of a process that is just down, or even connect to itself there.
pub fn free_ports(count: usize) -> Vec<u16> {
    let mut ports: Vec<u16> = vec![];
    while ports.len() < count {
        let port = rand::rng().random_range(20_100..32_000);
        if !ports.contains(&port) && std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.push(port);
        }
    }
    ports
}
