//! The layout is a promise: imports point one way and in no circle, and no file grows past reading.

mod circles;
mod names;
mod source;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};

use circles::circle;
use source::{ModulePath, Source, modules};

const MAX_LINES: usize = 600;

/// For each room, what it may not name. A word in lower case is where a path begins, a room or a crate or a module of one;
/// a word in upper case may stand anywhere in it.
const FORBIDDEN: [(&str, &[&str]); 7] = [
    (
        "domain",
        &[
            "crate::api",
            "crate::kafka",
            "crate::operator",
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

/// The files of a folder of this package, with their names in it.
fn tree(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let named = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().display().to_string();
        (name, fs::read_to_string(path).unwrap())
    };
    sources(&root).into_iter().map(named).collect()
}

/// A tree that a test makes up.
fn made_up(files: &[(&str, &str)]) -> BTreeMap<ModulePath, Source> {
    modules(files.iter().map(|(name, text)| (name.to_string(), text.to_string())))
}

/// Fails with everything that was found.
fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// What a room names and may not.
fn wrong_ways(sources: &BTreeMap<ModulePath, Source>) -> Vec<String> {
    let mut found = vec![];
    for name in names::names(sources) {
        let room = name.of.get(1).map_or("", String::as_str);
        for word in FORBIDDEN.iter().filter(|(of, _)| *of == room).flat_map(|(_, words)| *words) {
            let segments: Vec<_> = word.split("::").collect();
            let anywhere = word.starts_with(char::is_uppercase);
            let is_named = match anywhere {
                true => name.path.windows(segments.len()).any(|part| part == segments),
                false => name.path.iter().zip(&segments).filter(|(a, b)| a == b).count() == segments.len(),
            };
            if is_named {
                let (file, line, path) = (&sources[&name.of].name, name.line, name.path.join("::"));
                found.push(format!("{file}:{line} names `{path}`: {room} may not name `{word}`"));
            }
        }
    }
    found
}

/// The circles that imports close, each with where.
fn all_circles(sources: &BTreeMap<ModulePath, Source>) -> Vec<String> {
    let found = circles::imports(&names::names(sources)).into_iter().filter_map(|imports| {
        let circle = circle(&imports)?;
        let places = circle.windows(2).map(|step| {
            let places = &imports[&(step[0].clone(), step[1].clone())];
            format!("    {} → {}: {}", step[0], step[1], places.iter().cloned().collect::<Vec<_>>().join(", "))
        });
        Some(format!("{}\n{}", circle.join(" → "), places.collect::<Vec<_>>().join("\n")))
    });
    found.collect()
}

/// Calls that end the process, with their lines.
fn panics(tokens: TokenStream) -> Vec<(usize, &'static str)> {
    const MACROS: [&str; 4] = ["panic", "todo", "unimplemented", "dbg"];
    let tokens: Vec<_> = tokens.into_iter().collect();
    let mut found = vec![];
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => found.extend(panics(group.stream())),
            // Called as a method, or passed on as `Result::unwrap`.
            TokenTree::Ident(word) if word == "unwrap" => {
                let follows =
                    |mark: char| matches!(tokens[..at].last(), Some(TokenTree::Punct(p)) if p.as_char() == mark);
                if follows('.') || follows(':') {
                    found.push((word.span().start().line, "unwrap"));
                }
            }
            TokenTree::Ident(word) => {
                let is_macro =
                    matches!(&tokens[at + 1..], [TokenTree::Punct(p), TokenTree::Group(_), ..] if p.as_char() == '!');
                let name = MACROS.into_iter().find(|name| is_macro && word == name);
                found.extend(name.map(|name| (word.span().start().line, name)));
            }
            _ => {}
        }
    }
    found
}

fn all_panics(sources: &BTreeMap<ModulePath, Source>) -> Vec<String> {
    let of_source = |source: &Source| {
        let found = panics(source.tokens.clone()).into_iter();
        found.map(|(line, word)| format!("{}:{line} has `{word}`", source.name)).collect::<Vec<_>>()
    };
    sources.values().flat_map(of_source).collect()
}

#[test]
fn imports_point_one_way() {
    assert_none(&wrong_ways(&modules(tree("src"))));
}

#[test]
fn the_check_for_imports_can_fail() {
    let forbidden = |name: &str, text: &str| {
        let declared = ("domain.rs", "pub mod a; pub mod b; pub use b::deep as passed_on;");
        wrong_ways(&made_up(&[("lib.rs", ""), ("worker.rs", ""), declared, (name, text)])).len()
    };
    let cases = [
        "use rdkafka::Message;",
        "use rdkafka;",
        "use ::rdkafka::Message;",
        "fn f() { rdkafka::f() }",
        "fn f() { crate::worker::f() }",
        "use crate::{worker::clock, domain::b};",
        "use super::super::worker;",
        "use crate as root; fn f() { root::worker::f() }",
        "mod inner { use super::super::super::worker::clock; }",
        "fn f() -> std::time::SystemTime { g() }",
        "use std::time; fn f() { time::SystemTime::now() }",
        "use std::{fs::{self}};",
        "fn f() { tracing::info!(\"\") }",
        "fn f() { g!(x => crate::worker::f()) }",
        "#[derive(kube::CustomResource)] struct A;",
        "#[cfg(test)] mod tests; use rdkafka::Message;",
        "#[cfg(test)] use a::{b}; fn f() { rdkafka::f() }",
        "#[cfg(not(test))] use rdkafka::Message;",
        "struct A { #[cfg(test)] a: B<C, D>, b: rdkafka::E }",
    ];
    for text in cases {
        assert_eq!(forbidden("domain/a.rs", text), 1, "{text}");
    }
    let allowed = [
        "use crate::kafka_like::x;",
        "fn kube() {}",
        "fn f(kube: u8) { g(kube, tokio.x, a.rand()) }",
        "// rdkafka::f()\nconst A: &str = \"rdkafka::f()\";",
        "#[cfg(test)] mod tests { use rdkafka::Message; }",
        "#[cfg(all(test, unix))] use rdkafka::Message;",
        "impl A { #[cfg(test)] fn f(&self) { rdkafka::f() } }",
    ];
    for text in allowed {
        assert_eq!(forbidden("domain/a.rs", text), 0, "{text}");
    }
    assert_eq!(forbidden("worker/a.rs", "use rdkafka::Message;"), 0);
}

#[test]
fn a_file_of_tests_may_name_everything() {
    let tests = ("domain/tests.rs", "use rdkafka::Message; fn f() { g().unwrap() }");
    let declared = |text| made_up(&[("lib.rs", ""), ("domain.rs", text), tests]);
    assert_none(&wrong_ways(&declared("#[cfg(test)] mod tests;")));
    assert_none(&all_panics(&declared("#[cfg(test)] mod tests;")));
    assert_eq!(wrong_ways(&declared("mod tests;")).len(), 1);
}

#[test]
fn nothing_imports_in_a_circle() {
    assert_none(&all_circles(&modules(tree("src"))));
}

#[test]
fn the_check_for_circles_can_fail() {
    let first = |files: &[(&str, &str)]| {
        let declared = [("lib.rs", ""), ("a.rs", "mod x; mod y; pub use y::Y; mod z;")];
        let found = all_circles(&made_up(&[&declared, files].concat()));
        found.first().map(|found| found.lines().next().unwrap_or_default().to_owned()).unwrap_or_default()
    };
    let (to_y, to_z, to_x) =
        (("a/x.rs", "use super::y;"), ("a/y.rs", "use crate::a::{z::Z};"), ("a/z.rs", "fn f() { super::x::f() }"));
    assert_eq!(first(&[to_y, to_z, to_x]), "a/x → a/y → a/z → a/x");
    assert_eq!(first(&[to_y, to_z, ("a/z.rs", "")]), "");
    // What a parent re-exports is an import of the one that has it; what it has itself is one of the parent.
    assert_eq!(first(&[("a/x.rs", "use super::Y;"), ("a/y.rs", "use super::x::X;")]), "a/x → a/y → a/x");
    assert_eq!(first(&[("a/x.rs", "use super::Y;"), ("a/y.rs", "")]), "");
    assert_eq!(
        first(&[("a.rs", "mod x; fn f() { x::f() }"), ("a/x.rs", ""), ("a/x/v.rs", "use crate::a::A;")]),
        "a → a/x → a"
    );
    assert_eq!(first(&[("a.rs", "mod x; fn f() { x::f() }"), ("a/x.rs", "use super::A;")]), "");
    // No file is in a circle here, but the folders are.
    let folders = [("b/x.rs", "use crate::c::y;"), ("c/y.rs", ""), ("c/z.rs", "use crate::b::w;"), ("b/w.rs", "")];
    assert_eq!(first(&folders), "b → c → b");
}

#[test]
fn nothing_outside_of_tests_unwraps() {
    assert_none(&all_panics(&modules(tree("src"))));
}

#[test]
fn the_check_for_panics_can_fail() {
    let found = |text: &str| all_panics(&made_up(&[("lib.rs", text)])).len();
    assert_eq!(found("fn f() { a.unwrap() }"), 1);
    assert_eq!(found("fn f() { a\n.b()\n. unwrap () }"), 1);
    assert_eq!(found("fn f() { a.map(Result::unwrap) }"), 1);
    assert_eq!(found("fn f() { info!(\"{}\", a.unwrap()) }"), 1);
    assert_eq!(found("fn f() { panic!(\"\"); std::todo!(); unimplemented! {} dbg!(a) }"), 4);
    assert_eq!(found("#[cfg(test)] mod tests; fn f() { a.unwrap() }"), 1);
    assert_eq!(found("#[cfg(test)] mod tests { fn f() { a.unwrap() } }"), 0);
    assert_eq!(found("fn f() { a.unwrap_or(panic != b) } // .unwrap()"), 0);
}

/// Lengths and first lines are as much a matter of the tests.
fn everything() -> Vec<(String, String)> {
    let of =
        |folder: &'static str| tree(folder).into_iter().map(move |(name, text)| (format!("{folder}/{name}"), text));
    of("src").chain(of("tests")).collect()
}

fn too_long(files: &[(String, String)]) -> Vec<String> {
    let long = files.iter().map(|(name, text)| (name, text.lines().count())).filter(|(_, lines)| *lines > MAX_LINES);
    long.map(|(name, lines)| format!("{name} has {lines} lines, more than {MAX_LINES}: look for the second noun"))
        .collect()
}

fn without_opening(files: &[(String, String)]) -> Vec<String> {
    let silent = files.iter().filter(|(_, text)| !text.starts_with("//! "));
    silent.map(|(name, _)| format!("{name} does not open with `//!`")).collect()
}

#[test]
fn no_file_is_longer_than_one_can_read() {
    assert_none(&too_long(&everything()));
}

#[test]
fn every_file_says_first_what_it_is() {
    assert_none(&without_opening(&everything()));
}

#[test]
fn the_checks_for_lengths_and_first_lines_can_fail() {
    let file = |text: String| [("a.rs".to_owned(), text)];
    assert_eq!(too_long(&file("\n".repeat(MAX_LINES + 1))).len(), 1);
    assert_none(&too_long(&file("\n".repeat(MAX_LINES))));
    assert_eq!(without_opening(&file("// A comment.\n".into())).len(), 1);
    assert_none(&without_opening(&file("//! What it is.\n".into())));
}
