//! What expressions can ask about: a record, and how it failed.

use std::collections::HashMap;
use std::sync::OnceLock;

use cel::common::types::{CelBytes, CelInt, CelMap, CelMapKey, CelNull, CelString};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;

use super::{EvaluationError, ValueFields, json};
use crate::domain::record::Record;
use crate::domain::record::failure::Failure;

/// What expressions can ask about. The value is parsed at the first question about it, and only once.
pub struct Facts<'a> {
    document: Option<&'a [u8]>,
    record: Option<&'a Record>,
    failure: Option<(&'a Failure, u32)>,
    reads: &'a ValueFields,
    value: OnceLock<Result<Box<dyn Val>, EvaluationError>>,
}

impl<'a> Facts<'a> {
    /// A document that is not a record yet, of which `reads` is read.
    pub fn of_document(document: &'a [u8], reads: &'a ValueFields) -> Self {
        Self { document: Some(document), record: None, failure: None, reads, value: OnceLock::new() }
    }

    /// A record, of whose value `reads` is read.
    pub fn of_record(record: &'a Record, reads: &'a ValueFields) -> Self {
        let document = record.value.as_deref();
        Self { document, record: Some(record), failure: None, reads, value: OnceLock::new() }
    }

    /// A record that failed, after so many attempts.
    pub fn of_failure(record: &'a Record, failure: &'a Failure, attempts: u32) -> Self {
        Self { failure: Some((failure, attempts)), ..Self::of_record(record, &ValueFields::All) }
    }

    pub(super) fn value(&self) -> &Result<Box<dyn Val>, EvaluationError> {
        self.value.get_or_init(|| match self.document {
            None => Ok(Box::new(CelNull)),
            Some(bytes) => json::parse(bytes, self.reads).map_err(|e| EvaluationError::NotJson(e.to_string())),
        })
    }
}

impl VariableResolver for Facts<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        if name == "value" {
            return self.value().as_ref().ok().map(|value| CowVal::Borrowed(&**value));
        }
        if let Some((failure, attempts)) = self.failure {
            match name {
                "status" => return Some(CowVal::owned(CelInt::from(i64::from(failure.status.unwrap_or(0))))),
                "errorType" => return Some(CowVal::owned(CelString::from(&*failure.error_type))),
                "errorMessage" => return Some(CowVal::owned(CelString::from(&*failure.message))),
                "attempts" => return Some(CowVal::owned(CelInt::from(i64::from(attempts)))),
                _ => {}
            }
        }
        let record = self.record?;
        match name {
            "key" => Some(CowVal::Owned(text_or_bytes(record.key.as_deref()))),
            "topic" => Some(CowVal::owned(CelString::from(&*record.topic))),
            "partition" => Some(CowVal::owned(CelInt::from(i64::from(record.partition)))),
            "offset" => Some(CowVal::owned(CelInt::from(record.offset))),
            "timestamp" => Some(match record.timestamp {
                Some(timestamp) => CowVal::owned(CelInt::from(timestamp.0)),
                None => CowVal::owned(CelNull),
            }),
            "headers" => {
                let entry = |h: &'b crate::domain::record::Header| {
                    (CelMapKey::from(h.name.as_str()), text_or_bytes(h.value.as_deref()))
                };
                let headers: HashMap<_, _> = record.headers.iter().map(entry).collect();
                Some(CowVal::owned(CelMap::from(headers)))
            }
            _ => None,
        }
    }
}

fn text_or_bytes<'b>(bytes: Option<&'b [u8]>) -> Box<dyn Val + 'b> {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => Box::new(CelNull),
        Some((_, Ok(text))) => Box::new(CelString::from(text)),
        Some((bytes, Err(_))) => Box::new(CelBytes::from(bytes)),
    }
}
