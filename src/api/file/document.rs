//! YAML as JSON values that remember their lines.
//!
//! Knows nothing of pipelines. Anchors, merge keys and repeated keys are the YAML reader's business.

use std::{collections::BTreeMap, fmt};

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};
use serde_saphyr::{Spanned, UserMessageFormatter};

/// One YAML document.
pub(super) struct Document {
    pub(super) value: Value,
    lines: BTreeMap<String, u64>,
}

impl Document {
    /// Returns the line of a field; of the nearest one around it when it is not in the file.
    pub(super) fn line(&self, path: &str) -> u64 {
        let mut path = path;
        loop {
            match (self.lines.get(path), path.rfind(['.', '['])) {
                (Some(line), _) => return *line,
                (None, Some(end)) => path = &path[..end],
                (None, None) => return self.lines[""],
            }
        }
    }

    fn new(tree: Spanned<Tree>) -> Self {
        let mut lines = BTreeMap::new();
        let value = flatten(tree.value, String::new(), tree.referenced.line(), &mut lines);
        Self { value, lines }
    }
}

/// Reads all documents that have content. An error is a line and a message of one line.
pub(super) fn read(text: &str) -> Result<Vec<Document>, (u64, String)> {
    let trees: Vec<Spanned<Tree>> = serde_saphyr::from_multiple(text).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        let message = error.without_snippet().render_with_formatter(&UserMessageFormatter);
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
        (line, message.lines().collect::<Vec<_>>().join(" "))
    })?;
    Ok(trees.into_iter().map(Document::new).filter(|document| !document.value.is_null()).collect())
}

/// Joins the path of an object and the name of a field in it.
pub(super) fn field_path(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

/// Writes down the line of a value and of all within it, and returns the bare value.
fn flatten(tree: Tree, path: String, line: u64, lines: &mut BTreeMap<String, u64>) -> Value {
    let value = match tree {
        Tree::Scalar(scalar) => scalar,
        Tree::List(items) => items
            .into_iter()
            .enumerate()
            .map(|(at, item)| flatten(item.value, format!("{path}[{at}]"), item.referenced.line(), lines))
            .collect(),
        Tree::Map(fields) => fields
            .into_iter()
            .map(|(name, field)| {
                let value = flatten(field.value, field_path(&path, &name.value), name.referenced.line(), lines);
                (name.value, value)
            })
            .collect(),
    };
    lines.insert(path, line);
    value
}

/// Any YAML value; a field's line is that of its name.
enum Tree {
    Scalar(Value),
    List(Vec<Spanned<Tree>>),
    Map(Vec<(Spanned<String>, Spanned<Tree>)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Tree, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number must be finite"))?;
        Ok(Tree::Scalar(number.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_none<E: de::Error>(self) -> Result<Tree, E> {
        self.visit_unit()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Tree::Map(fields))
    }
}
