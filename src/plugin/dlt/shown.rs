//! Dead letters as text. Pure.

use k8s_openapi::jiff::Timestamp;

use super::letter::{Content, Found, Letter};
use crate::plugin::layout::{age, columns, one_line};

/// The longest error type, key, message and value of a line.
const TYPE: usize = 80;
const KEY: usize = 40;
const MESSAGE: usize = 60;
const VALUE: usize = 120;

/// Lists dead letters, a line each.
pub fn table(found: &Found, now: Timestamp) -> String {
    if found.items.is_empty() {
        return match found.total {
            0 => "There is no dead letter.\n".to_owned(),
            total => format!("None of {total} dead letters is like that.\n"),
        };
    }
    let (has_topics, has_values) = (
        found.items.iter().any(|letter| letter.topic != found.items[0].topic),
        found.items.iter().any(|letter| letter.value.is_some()),
    );
    let optional = |is_there: bool, cell: String| is_there.then_some(cell);
    let row = |topic, cells: [String; 7], value| {
        let cells = cells.into_iter().map(Some);
        let all = std::iter::once(optional(has_topics, topic)).chain(cells).chain([optional(has_values, value)]);
        all.flatten().collect::<Vec<_>>()
    };
    let titles = ["POSITION", "AGE", "ERROR TYPE", "REASON", "ATTEMPTS", "KEY", "MESSAGE"].map(str::to_owned);
    let mut rows = vec![row("TOPIC".to_owned(), titles, "VALUE".to_owned())];
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for letter in &found.items {
        let cells = [
            letter.position().to_string(),
            or_dash(letter.time.map(|time| age(now.duration_since(time).as_secs()))),
            one_line(&letter.error_type, TYPE),
            or_dash(letter.reason.as_ref().map(|reason| one_line(reason, TYPE))),
            or_dash(letter.attempts.map(|attempts| attempts.to_string())),
            one_line(&text(letter.key.as_ref()), KEY),
            one_line(letter.message.as_deref().unwrap_or("-"), MESSAGE),
        ];
        rows.push(row(letter.topic.clone(), cells, one_line(&text(letter.value.as_ref()), VALUE)));
    }
    let mut lines = columns(&rows);
    let shown = found.items.len() as u64;
    if shown < found.matching {
        lines.push(format!("{shown} of {}: --limit shows more", found.matching));
    }
    lines.join("\n") + "\n"
}

/// Shows all of one dead letter.
pub fn page(letter: &Letter, now: Timestamp) -> String {
    let mut facts = vec![];
    let mut fact = |name: &str, value: Option<String>| {
        facts.extend(value.map(|value| vec![format!("{name}:"), indented(&value)]));
    };
    fact("Dead letter", Some(format!("{} {}", letter.topic, letter.position())));
    let since = |time: Timestamp| format!("{time}, {} ago", age(now.duration_since(time).as_secs()));
    fact("Written", letter.time.map(since));
    fact("Error type", Some(letter.error_type.clone()));
    fact("Message", letter.message.clone());
    fact("Reason", letter.reason.clone());
    fact("Attempts", letter.attempts.map(|attempts| attempts.to_string()));
    let place = |of: &super::letter::Original| {
        let time = of.time.map(|time| format!(", of {time}")).unwrap_or_default();
        format!("{} {}:{}{time}", of.topic, of.partition, of.offset)
    };
    fact("Came from", letter.original.as_ref().map(place));
    fact("Key", Some(text(letter.key.as_ref())));
    let mut lines = columns(&facts);
    if !letter.headers.is_empty() {
        lines.extend([String::new(), "Headers".to_owned()]);
        let header = |(name, value): &(String, Option<Content>)| {
            vec![format!("  {}", one_line(name, KEY)), indented(&text(value.as_ref()))]
        };
        lines.extend(columns(&letter.headers.iter().map(header).collect::<Vec<_>>()));
    }
    if let Some(value) = &letter.value {
        lines.extend([String::new(), "Value".to_owned()]);
        // JSON is easier to read over several lines.
        let pretty = match value {
            Content::Text(text) => serde_json::from_str::<serde_json::Value>(text)
                .ok()
                .and_then(|value| serde_json::to_string_pretty(&value).ok()),
            Content::Base64(_) => None,
        };
        let value = pretty.unwrap_or_else(|| text(Some(value)));
        lines.extend(value.lines().map(|line| format!("  {line}")));
    }
    lines.join("\n") + "\n"
}

/// What has several lines is still of one fact.
fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n      ")
}

/// Bytes as text; null is a dash.
fn text(content: Option<&Content>) -> String {
    match content {
        None => "-".to_owned(),
        Some(Content::Text(text)) => text.clone(),
        Some(Content::Base64(base64)) => format!("base64:{base64}"),
    }
}
