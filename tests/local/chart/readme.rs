//! The chart's README lists every value: the list is made from the comments in values.yaml, so that there is one truth.

use std::fmt::Write;

use serde_json::Value;

const BEGIN: &str = "<!-- Made from the comments in values.yaml by `make chart-docs`. -->\n";
const END: &str = "<!-- end of the values -->\n";

/// A value that a comment in values.yaml explains.
pub struct Explained {
    pub section: String,
    pub path: Vec<String>,
    pub text: String,
}

/// Reads values.yaml. `## ` opens a section; a comment belongs to the key on the next line, whose whole value it explains.
pub fn explained(values: &str) -> Vec<Explained> {
    let (mut found, mut section, mut comment, mut path) = (Vec::new(), String::new(), Vec::new(), Vec::new());
    for line in values.lines() {
        let content = line.trim_start();
        if let Some(title) = content.strip_prefix("## ") {
            section = title.to_owned();
        } else if let Some(text) = content.strip_prefix("# ") {
            comment.push(text);
        } else if let Some((key, _)) = content.split_once(':').filter(|(key, _)| !key.contains([' ', '-'])) {
            path.truncate((line.len() - content.len()) / 2);
            path.push(key.to_owned());
            if !comment.is_empty() {
                found.push(Explained { section: section.clone(), path: path.clone(), text: comment.join(" ") });
            }
            comment.clear();
        } else {
            comment.clear();
        }
    }
    found
}

/// The README with its list of values made anew.
pub fn with_values(readme: &str, values: &str) -> String {
    let defaults: Value = serde_saphyr::from_str(values).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("the README says where the values begin");
    let (_, after) = rest.split_once(END).expect("the README says where the values end");
    let mut list = String::new();
    let mut section = String::new();
    for value in explained(values) {
        if value.section != section {
            section = value.section;
            write!(list, "\n### {section}\n\n| value | default | |\n|---|---|---|\n").unwrap();
        }
        let default = match &defaults.pointer(&format!("/{}", value.path.join("/"))) {
            Some(Value::String(text)) if !text.is_empty() => text.clone(),
            Some(default) => default.to_string(),
            None => panic!("{}: explained, but not a value", value.path.join(".")),
        };
        let text = value.text.replace('|', "\\|");
        writeln!(list, "| `{}` | `{default}` | {text} |", value.path.join(".")).unwrap();
    }
    format!("{before}{BEGIN}{list}\n{END}{after}")
}
