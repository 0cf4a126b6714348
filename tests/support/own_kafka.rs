//! A Kafka node that belongs to one test, which may stop it: what the tests share must go on.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ports::free_port;

/// A Kafka node with a directory of its own. Nothing of it stays.
pub struct OwnKafka {
    pub address: String,
    /// What `LAZARET_CACHE` is for it.
    cache: PathBuf,
}

impl OwnKafka {
    pub fn start() -> Self {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join(super::unique("kafka"));
        std::fs::create_dir_all(cache.join("kafka")).unwrap();
        // The jars are those that are there already.
        let lib = PathBuf::from(run(&mut Command::new(script("jars.sh"))));
        let jars = lib.parent().unwrap();
        symlink(jars, cache.join("kafka").join(jars.file_name().unwrap())).unwrap();
        // The next port is its controller's.
        let port = free_port([127, 0, 0, 1].into()).to_string();
        let mut this = Self { address: String::new(), cache };
        this.address = this.up(&port);
        this
    }

    fn up(&self, port: &str) -> String {
        run(self.command("up.sh").env("LAZARET_KAFKA_PORT", port).env("LAZARET_KAFKA_HEAP", "256m"))
    }

    /// It answers nobody any more, and keeps its connections.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    pub fn go_on(&self) {
        self.signal("CONT");
    }

    /// It ends as it is and starts anew. What clients had sent and it had not read is gone.
    pub async fn kill_and_start(&self) {
        let pid = self.signal("KILL");
        let command = format!("/proc/{pid}/cmdline");
        // A process that ended stays there until its parent has seen it, without a command.
        let has_ended = || std::fs::read(&command).map_or(true, |command| command.is_empty());
        super::eventually("the node has ended", async || has_ended().then_some(())).await;
        let (_, port) = self.address.rsplit_once(':').unwrap();
        assert_eq!(self.up(port), self.address);
    }

    fn signal(&self, name: &str) -> String {
        let pid = std::fs::read_to_string(self.cache.join("kafka/node/pid")).unwrap().trim().to_owned();
        run(Command::new("kill").args([&format!("-{name}"), &pid]));
        pid
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(script(name));
        command.env("LAZARET_CACHE", &self.cache);
        command
    }
}

impl Drop for OwnKafka {
    fn drop(&mut self) {
        let wiped = self.command("down.sh").arg("--wipe").status();
        let _ = std::fs::remove_dir_all(&self.cache);
        assert!(
            std::thread::panicking() || wiped.is_ok_and(|status| status.success()),
            "the node could not be removed"
        );
    }
}

fn script(name: &str) -> String {
    format!("{}/tests/bed/kafka/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
