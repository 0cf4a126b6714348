//! JSON as CEL values, without converting what nobody reads.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use cel::objects::{Key, Map, Value};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::ValueFields;

/// Parses a whole document, and of an object keeps the fields in `reads`. Any other document is kept as it is.
pub(super) fn parse(bytes: &[u8], reads: &ValueFields) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Document(reads).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Reads one document; its parts are read as a whole.
#[derive(Clone, Copy)]
struct Document<'a>(&'a ValueFields);

impl Document<'_> {
    fn keeps(self, field: &str) -> bool {
        match self.0 {
            ValueFields::None => false,
            ValueFields::Some(fields) => fields.contains(field),
            ValueFields::All => true,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Int(v))
    }

    /// A JSON number has no sign of its own: what fits is an int, so that it compares with the literals people write.
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(i64::try_from(v).map_or(Value::UInt(v), Value::Int))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Value::Float(v))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(Arc::new(v.to_owned())))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(Arc::new(v)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Document(&ValueFields::All))? {
            items.push(item);
        }
        Ok(Value::List(Arc::new(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = HashMap::new();
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if self.keeps(&name) {
                let value = map.next_value_seed(Document(&ValueFields::All))?;
                fields.insert(Key::String(Arc::new(name.into_owned())), value);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Value::Map(Map { map: Arc::new(fields) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn only_the_named_fields_of_an_object_are_kept_and_they_are_kept_whole() {
        let reads = ValueFields::Some(BTreeSet::from(["a".to_owned()]));
        let value = parse(br#"{"a": {"b": [1, null, true, 1.5, "x"]}, "c": "\u0000"}"#, &reads).unwrap();
        let Value::Map(map) = value else { panic!("an object") };
        assert_eq!(map.map.len(), 1);
        assert!(matches!(map.map[&Key::from("a")], Value::Map(_)));
    }

    #[test]
    fn a_document_nested_too_deep_is_an_error() {
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes(), &ValueFields::All).is_err());
    }

    #[test]
    fn numbers_keep_their_value() {
        let number = |text: &str| parse(text.as_bytes(), &ValueFields::All).unwrap();
        assert_eq!(number("-5"), Value::Int(-5));
        assert_eq!(number("9223372036854775807"), Value::Int(i64::MAX));
        assert_eq!(number("18446744073709551615"), Value::UInt(u64::MAX));
        assert_eq!(number("0.5"), Value::Float(0.5));
    }
}
