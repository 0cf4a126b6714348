//! JSON as CEL values, without converting what nobody reads.

use std::collections::HashMap;
use std::fmt;

use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt};
use cel::common::value::Val;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::ValueFields;

/// Parses a whole document, and of an object keeps the fields in `reads`. Any other document is kept as it is.
pub(super) fn parse(bytes: &[u8], reads: &ValueFields) -> serde_json::Result<Box<dyn Val>> {
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
    type Value = Box<dyn Val>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Box<dyn Val>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = Box<dyn Val>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Box<dyn Val>, E> {
        Ok(Box::new(CelNull))
    }

    fn visit_bool<E>(self, v: bool) -> Result<Box<dyn Val>, E> {
        Ok(Box::new(CelBool::from(v)))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Box<dyn Val>, E> {
        Ok(Box::new(CelInt::from(v)))
    }

    /// A JSON number has no sign of its own: what fits is an int, so that it compares with the literals people write.
    fn visit_u64<E>(self, v: u64) -> Result<Box<dyn Val>, E> {
        Ok(match i64::try_from(v) {
            Ok(v) => Box::new(CelInt::from(v)),
            Err(_) => Box::new(CelUInt::from(v)),
        })
    }

    fn visit_f64<E>(self, v: f64) -> Result<Box<dyn Val>, E> {
        Ok(Box::new(CelDouble::from(v)))
    }

    fn visit_str<E>(self, v: &str) -> Result<Box<dyn Val>, E> {
        Ok(Box::new(CelString::from(v.to_owned())))
    }

    fn visit_string<E>(self, v: String) -> Result<Box<dyn Val>, E> {
        Ok(Box::new(CelString::from(v)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Box<dyn Val>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Document(&ValueFields::All))? {
            items.push(item);
        }
        Ok(Box::new(CelList::from(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Box<dyn Val>, A::Error> {
        let mut fields: HashMap<CelMapKey<'static>, Box<dyn Val>> = HashMap::new();
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if self.keeps(&name) {
                let value = map.next_value_seed(Document(&ValueFields::All))?;
                fields.insert(CelMapKey::from(name.into_owned()), value);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Box::new(CelMap::from(fields)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cel::objects::{Key, Value};
    use std::collections::BTreeSet;

    #[test]
    fn only_the_named_fields_of_an_object_are_kept_and_they_are_kept_whole() {
        let reads = ValueFields::Some(BTreeSet::from(["a".to_owned()]));
        let value = parse(br#"{"a": {"b": [1, null, true, 1.5, "x"]}, "c": "\u0000"}"#, &reads).unwrap();
        let Ok(Value::Map(object)) = Value::try_from(&*value) else { panic!("an object") };
        assert_eq!(object.map.len(), 1);
        assert!(matches!(object.map[&Key::from("a")], Value::Map(_)));
    }

    #[test]
    fn a_document_nested_too_deep_is_an_error() {
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes(), &ValueFields::All).is_err());
    }

    #[test]
    fn numbers_keep_their_value() {
        let number = |text: &str| Value::try_from(&*parse(text.as_bytes(), &ValueFields::All).unwrap()).unwrap();
        assert_eq!(number("-5"), Value::Int(-5));
        assert_eq!(number("9223372036854775807"), Value::Int(i64::MAX));
        assert_eq!(number("18446744073709551615"), Value::UInt(u64::MAX));
        assert_eq!(number("0.5"), Value::Float(0.5));
    }
}
