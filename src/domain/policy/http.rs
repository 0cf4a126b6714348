//! What a processor's HTTP answer means.
//!
//! | answer | meaning |
//! |---|---|
//! | 2xx | done |
//! | 404, 408, 409, 425, 429, 5xx | retryable; 404 because a pod that is starting answers it (Knative's rule too) |
//! | any other 3xx, 4xx | permanent |
//!
//! The body of an error answer may be `application/problem+json` (RFC 9457), and the header `lazaret-disposition` says
//! the verdict outright.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::domain::record::failure::{Failure, FailureKind, Outcome};

/// The header by which a processor says its verdict: `done`, `retry`, `dead-letter` or `drop`.
pub const DISPOSITION: &str = "lazaret-disposition";

/// An answer, as far as it matters here.
#[derive(Clone, Debug, Default)]
pub struct Answer<'a> {
    /// The status code.
    pub status: u16,
    /// The `lazaret-disposition` header.
    pub disposition: Option<&'a str>,
    /// The `retry-after` header, in seconds from now.
    pub retry_after: Option<Duration>,
    /// The beginning of the body.
    pub body: &'a [u8],
}

/// The members of a problem document that are read; `retryable` and `stackTrace` are extensions.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Problem {
    #[serde(rename = "type", deserialize_with = "if_of_its_type")]
    type_uri: Option<String>,
    #[serde(deserialize_with = "if_of_its_type")]
    title: Option<String>,
    #[serde(deserialize_with = "if_of_its_type")]
    detail: Option<String>,
    #[serde(deserialize_with = "if_of_its_type")]
    retryable: Option<bool>,
    #[serde(deserialize_with = "if_of_its_type")]
    stack_trace: Option<String>,
}

/// A member whose value has another type than it should is as good as absent (RFC 9457, section 3.1).
fn if_of_its_type<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).ok())
}

/// Says what an answer means.
pub fn classify(answer: &Answer<'_>) -> Outcome {
    match answer.disposition.map(|verdict| verdict.trim().to_ascii_lowercase()).as_deref() {
        Some("done") => Outcome::Done,
        Some("drop") => Outcome::Dropped,
        Some("retry") => Outcome::Failed(failure(answer, Some(FailureKind::Retryable))),
        Some("dead-letter") => Outcome::Failed(failure(answer, Some(FailureKind::Rejected))),
        // A verdict that nobody knows is no verdict: the status decides, as if it were absent.
        _ if (200..300).contains(&answer.status) => Outcome::Done,
        _ => Outcome::Failed(failure(answer, None)),
    }
}

fn failure(answer: &Answer<'_>, verdict: Option<FailureKind>) -> Failure {
    // A body that is no problem document says nothing; the status still does.
    let problem: Problem = serde_json::from_slice(answer.body).unwrap_or_default();
    let status = format!("HTTP {}", answer.status);
    let named = |text: Option<String>| text.filter(|text| !text.is_empty());
    let type_uri = named(problem.type_uri).filter(|uri| uri != "about:blank");
    let title = named(problem.title);
    let error_type = type_uri.or_else(|| title.clone()).unwrap_or_else(|| status.clone());
    let detail = named(problem.detail).or(title);
    let message = match detail {
        Some(detail) if detail != error_type => format!("{error_type}: {detail}"),
        _ if error_type == status => status,
        _ => format!("{error_type}: {status}"),
    };
    let guess = match problem.retryable.unwrap_or_else(|| is_retryable(answer.status)) {
        true => FailureKind::Retryable,
        false => FailureKind::Permanent,
    };
    let mut failure = Failure::new(verdict.unwrap_or(guess), error_type, message);
    failure.status = Some(answer.status);
    failure.retry_after = answer.retry_after;
    failure.stack_trace = problem.stack_trace;
    failure
}

fn is_retryable(status: u16) -> bool {
    matches!(status, 404 | 408 | 409 | 425 | 429 | 500..=599)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16) -> Answer<'static> {
        Answer { status, ..Answer::default() }
    }

    fn failed(answer: &Answer<'_>) -> Failure {
        match classify(answer) {
            Outcome::Failed(failure) => failure,
            other => panic!("expected a failure, got {other:?}"),
        }
    }

    #[test]
    fn the_status_decides() {
        for code in [200, 201, 202, 204, 299] {
            assert_eq!(classify(&status(code)), Outcome::Done, "{code}");
        }
        for code in [404, 408, 409, 425, 429, 500, 502, 503, 504, 599] {
            assert_eq!(failed(&status(code)).kind, FailureKind::Retryable, "{code}");
        }
        for code in [301, 304, 400, 401, 403, 405, 410, 413, 415, 422, 451] {
            assert_eq!(failed(&status(code)).kind, FailureKind::Permanent, "{code}");
        }
    }

    #[test]
    fn a_problem_document_names_the_error_and_may_overrule_the_status() {
        let body = br#"{"type":"https://shop/out-of-stock","title":"Out of stock","detail":"SKU 7","retryable":true,
            "stackTrace":"at Shop.java:7","instance":"/x"}"#;
        let failure = failed(&Answer { body, ..status(422) });
        assert_eq!(failure.kind, FailureKind::Retryable);
        assert_eq!(failure.error_type, "https://shop/out-of-stock");
        assert_eq!(failure.message, "https://shop/out-of-stock: SKU 7");
        assert_eq!(failure.stack_trace.as_deref(), Some("at Shop.java:7"));
        assert_eq!(failure.status, Some(422));
    }

    #[test]
    fn without_a_type_the_title_names_the_error_and_without_a_title_the_status() {
        let titled = failed(&Answer { body: br#"{"type":"about:blank","title":"Conflict"}"#, ..status(409) });
        assert_eq!((titled.error_type.as_str(), titled.message.as_str()), ("Conflict", "Conflict: HTTP 409"));
        for body in [b"<html>".as_slice(), b"", b"[]", br#"{"type": 7}"#] {
            let bare = failed(&Answer { body, ..status(500) });
            assert_eq!((bare.error_type.as_str(), bare.message.as_str()), ("HTTP 500", "HTTP 500"));
        }
    }

    #[test]
    fn a_member_of_another_type_does_not_spoil_the_others() {
        let body = br#"{"type":"urn:x","title":"T","retryable":"true","stackTrace":[]}"#;
        let failure = failed(&Answer { body, ..status(422) });
        assert_eq!((failure.error_type.as_str(), failure.kind), ("urn:x", FailureKind::Permanent));
        assert_eq!((failure.message.as_str(), failure.stack_trace), ("urn:x: T", None));
    }

    #[test]
    fn a_verdict_outweighs_the_status() {
        let said = |verdict, code| classify(&Answer { disposition: Some(verdict), ..status(code) });
        assert_eq!(said("done", 500), Outcome::Done);
        assert_eq!(said("drop", 200), Outcome::Dropped);
        assert!(matches!(said("Retry", 200), Outcome::Failed(f) if f.kind == FailureKind::Retryable));
        assert!(matches!(said("dead-letter", 503), Outcome::Failed(f) if f.kind == FailureKind::Rejected));
        assert_eq!(said("perhaps", 200), Outcome::Done);
    }
}
