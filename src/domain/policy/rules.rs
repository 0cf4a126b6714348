//! The processor that is written in CEL: each rule names the records that fail, and how.

use super::expression::{EvaluationError, Expression, Facts, ValueFields};
use crate::domain::record::Record;
use crate::domain::record::failure::{Failure, FailureKind, Outcome};

/// One rule: the records that fail, and what they fail with.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The records that fail.
    pub when: Expression,
    /// What they fail with, `Type: message`.
    pub error: String,
    /// Whether another attempt is made.
    pub retryable: bool,
}

/// The rules of a pipeline; the first that matches a record fails it.
#[derive(Clone, Debug)]
pub struct RuleSet {
    rules: Vec<Rule>,
    reads: ValueFields,
}

impl RuleSet {
    /// Puts rules together, in order.
    pub fn new(rules: Vec<Rule>) -> Self {
        let mut reads = ValueFields::None;
        rules.iter().for_each(|rule| reads.merge(rule.when.reads()));
        Self { rules, reads }
    }

    /// Applies the rules to a record.
    ///
    /// A record on which a rule cannot be evaluated fails as unreadable: it must not pass for one that the rule cleared.
    pub fn apply(&self, record: &Record) -> Outcome {
        let facts = Facts::of_record(record, &self.reads);
        for rule in &self.rules {
            match rule.when.is_true(&facts) {
                Ok(false) => {}
                Ok(true) => return Outcome::Failed(rule.failure(record)),
                Err(error) => return Outcome::Failed(unreadable(&error)),
            }
        }
        Outcome::Done
    }
}

impl Rule {
    fn failure(&self, record: &Record) -> Failure {
        let kind = if self.retryable { FailureKind::Retryable } else { FailureKind::Permanent };
        let mut failure = Failure::from_text(kind, &self.error);
        let (topic, partition, offset) = (&record.topic, record.partition, record.offset);
        let place = format!("{topic}-{partition}@{offset}");
        failure.stack_trace = Some(format!("{}\n\tat rule `{}` on {place}", self.error, self.when.source()));
        failure
    }
}

fn unreadable(error: &EvaluationError) -> Failure {
    let error_type = match error {
        EvaluationError::NotJson(_) => "MalformedValueException",
        EvaluationError::Failed { .. } | EvaluationError::WrongType { .. } => "RuleEvaluationException",
    };
    Failure::new(FailureKind::Unreadable, error_type, format!("{error_type}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::expression::Vocabulary;
    use bytes::Bytes;

    fn rules() -> RuleSet {
        let rule = |when, error: &str, retryable| Rule {
            when: Expression::compile(when, Vocabulary::Record).unwrap(),
            error: error.into(),
            retryable,
        };
        RuleSet::new(vec![
            rule("value.amount < 0", "ValidationException: Invalid amount", false),
            rule("value.status == 'BUSY'", "BusyException: try later", true),
        ])
    }

    fn applied(value: Option<&[u8]>) -> Outcome {
        rules().apply(&Record {
            topic: "orders".into(),
            partition: 2,
            offset: 7,
            timestamp: None,
            key: None,
            value: value.map(Bytes::copy_from_slice),
            headers: vec![],
        })
    }

    fn failure(value: Option<&[u8]>) -> Failure {
        match applied(value) {
            Outcome::Failed(failure) => failure,
            other => panic!("expected a failure, got {other:?}"),
        }
    }

    #[test]
    fn a_record_that_no_rule_names_is_done() {
        assert_eq!(applied(Some(br#"{"amount": 100, "status": "PENDING"}"#)), Outcome::Done);
    }

    #[test]
    fn the_first_rule_that_matches_fails_the_record_in_its_own_words() {
        let failure = failure(Some(br#"{"amount": -50, "status": "BUSY"}"#));
        assert_eq!(failure.kind, FailureKind::Permanent);
        assert_eq!(failure.error_type, "ValidationException");
        assert_eq!(failure.message, "ValidationException: Invalid amount");
        assert!(failure.stack_trace.unwrap().contains("`value.amount < 0` on orders-2@7"));
    }

    #[test]
    fn a_retryable_rule_makes_a_retryable_failure() {
        assert_eq!(failure(Some(br#"{"amount": 1, "status": "BUSY"}"#)).kind, FailureKind::Retryable);
    }

    #[test]
    fn what_a_rule_cannot_be_evaluated_on_is_unreadable_never_done() {
        for (value, error_type) in [
            (None, "RuleEvaluationException"),
            (Some(b"{}".as_slice()), "RuleEvaluationException"),
            (Some(b"not json"), "MalformedValueException"),
            (Some(b"\xff\xfe"), "MalformedValueException"),
            (Some(b""), "MalformedValueException"),
        ] {
            let failure = failure(value);
            assert_eq!((failure.kind, failure.error_type.as_str()), (FailureKind::Unreadable, error_type));
        }
    }
}
