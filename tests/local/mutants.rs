//! The patches that break a promise on purpose, of which `make chaos-proof` and `make simulate-proof` demand that they are noticed.

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn every_mutant_still_applies_to_the_tree_and_says_what_it_must_be_caught_as() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let patches = ["chaos", "simulation"].map(|test| root.join("tests").join(test).join("mutants"));
    for entry in patches.iter().flat_map(|folder| fs::read_dir(folder).unwrap()) {
        let patch = entry.unwrap().path();
        let check = Command::new("git").current_dir(root).args(["apply", "--check"]).arg(&patch).output().unwrap();
        assert!(check.status.success(), "{}: {}", patch.display(), String::from_utf8_lossy(&check.stderr));
        let text = fs::read_to_string(&patch).unwrap();
        assert!(text.lines().any(|line| line.starts_with("Expected: ")), "{}", patch.display());
    }
}
