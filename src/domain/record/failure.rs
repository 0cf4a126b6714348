//! What can come of calling a processor.

use std::time::Duration;

/// The longest error message that is kept, in bytes. A header that grows with every hop would one day exceed the
/// broker's limit and stop the partition.
pub const MESSAGE_MAX_BYTES: usize = 1024;

/// What one attempt to process a record ended in.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The record was processed.
    Done,
    /// The processor said that the record needs no processing and is to leave no trace.
    Dropped,
    /// The attempt failed.
    Failed(Failure),
}

/// How a failure is to be understood before any rule of the pipeline has its say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Another attempt may succeed: a timeout, an overload, a dependency that is away.
    Retryable,
    /// No attempt will succeed: the record itself is at fault.
    Permanent,
    /// The record could not be read as what the processor needs (bad JSON, a rule that cannot be evaluated on it).
    Unreadable,
    /// The processor asked for the dead letter topic outright.
    Rejected,
}

/// One failed attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// How it is to be understood.
    pub kind: FailureKind,
    /// The type of the root cause, never a wrapper's, so that grouping by it means something.
    pub error_type: String,
    /// The message for people, at most [`MESSAGE_MAX_BYTES`].
    pub message: String,
    /// Where in the processor's code it happened, when the processor says.
    pub stack_trace: Option<String>,
    /// The HTTP status of the answer, when there was an answer.
    pub status: Option<u16>,
    /// The earliest next attempt that the processor asks for.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure with a type and a message, and nothing else known.
    pub fn new(kind: FailureKind, error_type: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            error_type: shortened(error_type.into(), 256),
            message: shortened(message.into(), MESSAGE_MAX_BYTES),
            stack_trace: None,
            status: None,
            retry_after: None,
        }
    }

    /// A failure written the way exceptions print themselves, `Type: message`.
    ///
    /// Text without a leading type is its own message and gets the type `ProcessingException`.
    pub fn from_text(kind: FailureKind, text: &str) -> Self {
        match text.split_once(": ") {
            Some((error_type, _)) if is_type_name(error_type) => Self::new(kind, error_type, text),
            _ => Self::new(kind, "ProcessingException", text),
        }
    }
}

fn is_type_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '$' | ':' | '-'))
}

/// Cuts `text` to at most `max_bytes`, on a character boundary, and marks the cut with an ellipsis where one fits.
pub fn shortened(mut text: String, max_bytes: usize) -> String {
    const MARK: &str = "…";
    if text.len() <= max_bytes {
        return text;
    }
    let marked = max_bytes >= MARK.len();
    let mut end = if marked { max_bytes - MARK.len() } else { max_bytes };
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    if marked {
        text.push_str(MARK);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_that_begins_with_a_type_is_grouped_by_it_and_kept_whole() {
        let failure = Failure::from_text(FailureKind::Permanent, "ValidationException: Invalid amount");
        assert_eq!(failure.error_type, "ValidationException");
        assert_eq!(failure.message, "ValidationException: Invalid amount");
    }

    #[test]
    fn text_without_a_type_is_only_a_message() {
        for text in ["Invalid amount", "the amount: is bad", ": x", ""] {
            let failure = Failure::from_text(FailureKind::Permanent, text);
            assert_eq!((failure.error_type.as_str(), failure.message.as_str()), ("ProcessingException", text));
        }
    }

    proptest! {
        #[test]
        fn a_shortened_text_never_exceeds_its_limit(text in ".*", max in 0usize..64) {
            let cut = shortened(text.clone(), max);
            prop_assert!(cut.len() <= max || cut == text);
            prop_assert!(cut == text || text.starts_with(cut.trim_end_matches('…')));
        }
    }
}
