//! The layout is a promise: imports point one way, and no file grows past reading.

use std::fs;
use std::path::{Path, PathBuf};

const MAX_LINES: usize = 600;

/// For each room, what it may not name. `crate::x` forbids another room, anything else a crate.
const FORBIDDEN: [(&str, &[&str]); 7] = [
    (
        "domain",
        &[
            "crate::api",
            "crate::kafka",
            "crate::worker",
            "crate::plugin",
            "crate::dev",
            "crate::cli",
            "kube",
            "k8s_openapi",
            "rdkafka",
            "tokio",
            "axum",
            "reqwest",
            "tracing",
            "rand",
            "SystemTime",
            "Instant::now",
            "Timestamp::now",
            "std::fs",
            "std::env",
            "std::net",
        ],
    ),
    (
        "api",
        &[
            "crate::kafka",
            "crate::operator",
            "crate::worker",
            "crate::plugin",
            "crate::dev",
            "crate::cli",
            "rdkafka",
            "tokio",
            "axum",
            "reqwest",
        ],
    ),
    (
        "kafka",
        &[
            "crate::api",
            "crate::operator",
            "crate::worker",
            "crate::plugin",
            "crate::dev",
            "crate::cli",
            "kube",
            "k8s_openapi",
            "axum",
            "reqwest",
        ],
    ),
    ("operator", &["crate::worker", "crate::plugin", "crate::dev", "crate::cli", "rdkafka"]),
    // The plugin only reads: what would write is not named either.
    (
        "plugin",
        &["crate::worker", "crate::dev", "crate::cli", "rdkafka", "reqwest", "Patch", "PostParams", "DeleteParams"],
    ),
    ("worker", &["crate::api", "crate::operator", "crate::plugin", "crate::dev", "crate::cli", "kube", "k8s_openapi"]),
    ("dev", &["crate::cli", "crate::plugin", "crate::operator", "crate::api", "kube", "k8s_openapi"]),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

fn tree(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = |path: PathBuf| {
        let name = path.strip_prefix(root).unwrap().display().to_string();
        (name, fs::read_to_string(path).unwrap())
    };
    sources(&root.join(folder)).into_iter().map(named).collect()
}

/// The code of a file: neither comments nor the tests at its end.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether `name` stands in `code` as a word of its own.
fn names(code: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let stands_alone = |at: usize| {
        !code[..at].ends_with(is_word) && !code[..at].ends_with("::") && !code[at + name.len()..].starts_with(is_word)
    };
    code.match_indices(name).any(|(at, _)| {
        let used = name.contains("::") || name.starts_with(char::is_uppercase);
        stands_alone(at) && (used || code[at + name.len()..].starts_with("::"))
    })
}

#[test]
fn imports_point_one_way() {
    for (name, text) in tree("src") {
        let code = code(&text);
        let room = name.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default();
        let forbidden = FORBIDDEN.iter().filter(|(of, _)| *of == room).flat_map(|(_, words)| *words);
        for word in forbidden {
            assert!(!names(&code, word), "{name} names `{word}`, which {room} may not");
        }
    }
}

#[test]
fn the_check_for_imports_can_fail() {
    assert!(names("use rdkafka::Message;", "rdkafka"));
    assert!(names("let x = crate::worker::clock::now();", "crate::worker"));
    assert!(names("SystemTime::now()", "SystemTime"));
    assert!(!names("use crate::kafka::x;", "rdkafka"));
    assert!(!names("fn kube() {}", "kube"));
}

#[test]
fn no_file_is_longer_than_one_can_read() {
    for (name, text) in tree("src").into_iter().chain(tree("tests")) {
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{name} has {lines} lines, more than {MAX_LINES}: look for the second noun");
    }
}

#[test]
fn every_file_says_first_what_it_is() {
    for (name, text) in tree("src").into_iter().chain(tree("tests")) {
        assert!(text.starts_with("//! "), "{name} does not open with `//!`");
    }
}

#[test]
fn nothing_outside_of_tests_unwraps() {
    for (name, text) in tree("src") {
        if name.ends_with("/tests.rs") {
            continue;
        }
        let code = code(&text);
        assert!(!code.contains(".unwrap()"), "{name} unwraps");
        for word in ["panic", "todo", "unimplemented", "dbg"] {
            assert!(!code.contains(&format!("{word}!(")), "{name} has `{word}!`");
        }
    }
}
