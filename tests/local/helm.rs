//! Helm, which is built when it is not there.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The oldest Kubernetes that the chart takes; helm by itself would assume one of its own age.
const KUBERNETES: &str = "1.29.0";

/// Runs helm; values are given to it as a file.
pub fn helm(arguments: &[&str], values: &str) -> Result<String, String> {
    static HELM: OnceLock<String> = OnceLock::new();
    let helm = HELM.get_or_init(|| {
        let output = Command::new("tests/bed/helm.sh").output().expect("tests/bed/helm.sh can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "no helm, which these tests need: {said}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    });
    let mut child = Command::new(helm)
        .args(arguments)
        .args(["--namespace", "lazaret", "--kube-version", KUBERNETES, "--values", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("helm can be run");
    child.stdin.take().unwrap().write_all(values.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stdout) + &text(output.stderr)) }
}
