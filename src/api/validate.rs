//! From what a user wrote to a [`Pipeline`] with every default filled in and every expression compiled.
//!
//! Shape, bounds and the relations between fields were checked when the object was read (see [`super::file`], and the
//! API server on a cluster). What is left is what only Rust can check: that expressions compile, and that pipelines keep
//! out of each other's way.

use std::collections::BTreeMap;

use kube::ResourceExt;

use super::claims::{Claims, Shared, check_disjoint};
use super::v1alpha1::{self as v1, ErrorHandlingPipeline};
use crate::domain::flow::breaker::BreakerPlan;
use crate::domain::flow::lane::Ordering;
use crate::domain::pipeline::{
    Assignor, Delivery, GroupProtocol, HttpPlan, IngressPlan, Membership, PendingPlan, Pipeline, ProcessorPlan, Source,
    ThrottlePlan, TopicPlan, TracingPlan,
};
use crate::domain::policy::expression::{Expression, ExpressionError, Vocabulary};
use crate::domain::policy::rules::{Rule, RuleSet};
use crate::domain::policy::{Backoff, InPlace, Mode, RetryPolicy, RetryRule, Ruling, Strategy};
use crate::domain::record::envelope::DeadLetterFormat;
use crate::domain::topic::keep_in_sync;

/// Retry records are kept for a week beyond the longest delay: time to mend a retry stage that stands still.
const RETRY_RETENTION: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3600);

/// What giving up partitions may take beyond the drain timeout.
const HAND_OVER_GRACE: std::time::Duration = std::time::Duration::from_secs(10);

/// Why a pipeline cannot run.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPipeline {
    /// An expression cannot be used.
    #[error("{pipeline}: {path}: {error}")]
    Expression {
        /// The pipeline.
        pipeline: String,
        /// The field.
        path: String,
        /// What is wrong with the expression.
        error: ExpressionError,
    },
    /// Both stages would be members of one group.
    #[error(
        "{pipeline}: spec.consumer.groupId and spec.retry.groupId are both `{group}`: each stage needs its own group"
    )]
    OneGroup {
        /// The pipeline.
        pipeline: String,
        /// The group.
        group: String,
    },
    /// Two pipelines would get in each other's way.
    #[error(transparent)]
    Shared(#[from] Shared),
}

/// Validates pipelines that are to run side by side.
pub fn validate_all(objects: &[ErrorHandlingPipeline]) -> Result<Vec<Pipeline>, InvalidPipeline> {
    let pipelines = objects.iter().map(validate).collect::<Result<Vec<_>, _>>()?;
    let claims: Vec<_> = objects.iter().map(Claims::from).collect();
    for (index, one) in claims.iter().enumerate() {
        for other in &claims[index + 1..] {
            check_disjoint(one, other)?;
        }
    }
    Ok(pipelines)
}

/// Validates one pipeline.
pub fn validate(object: &ErrorHandlingPipeline) -> Result<Pipeline, InvalidPipeline> {
    let spec = &object.spec;
    // One of the two may be a default, which the rules of the CRD cannot see: it has the object's name in it.
    if !object.is_external() && object.consumer_group() == object.retry_group() {
        return Err(InvalidPipeline::OneGroup { pipeline: object.name_any(), group: object.retry_group() });
    }
    let invalid = |path: String| {
        let pipeline = object.name_any();
        move |error| InvalidPipeline::Expression { pipeline, path, error }
    };
    let compile =
        |source: &str, vocabulary, path: String| Expression::compile(source, vocabulary).map_err(invalid(path));
    let rule = |(index, rule): (usize, &v1::Rule)| {
        let when = compile(&rule.when, Vocabulary::Record, format!("spec.processor.rules[{index}].when"))?;
        Ok::<_, InvalidPipeline>(Rule { when, error: rule.error.clone(), retryable: rule.retryable })
    };
    let processor = match &spec.processor {
        v1::Processor { http: Some(http), .. } => ProcessorPlan::Http(http_plan(http)),
        v1::Processor { container: Some(container), .. } => ProcessorPlan::Http(container_plan(container)),
        v1::Processor { external: Some(_), .. } => ProcessorPlan::External,
        v1::Processor { rules, .. } => {
            let rules = rules.iter().flatten().enumerate().map(rule).collect::<Result<_, _>>()?;
            ProcessorPlan::Rules(RuleSet::new(rules))
        }
    };
    let default = default_ruling(object);
    let retry_rule = |(index, rule): (usize, &v1::RetryRule)| {
        let when = compile(&rule.when, Vocabulary::Failure, format!("spec.retry.rules[{index}].when"))?;
        Ok::<_, InvalidPipeline>(RetryRule { when, ruling: ruling(rule, &default) })
    };
    let rules = spec.retry.rules.iter().enumerate().map(retry_rule).collect::<Result<_, _>>()?;
    let policy = RetryPolicy {
        mode: match spec.retry.mode {
            v1::RetryMode::NonBlocking => Mode::NonBlocking,
            v1::RetryMode::KeepOrder => Mode::KeepOrder,
        },
        default: default.clone(),
        in_place: InPlace { attempts: spec.retry.in_place.attempts, delay: spec.retry.in_place.delay.into() },
        timeout: spec.retry.timeout.map(Into::into),
        rules,
    };
    let key = match spec.ingress.key.as_str() {
        "" => None,
        source => Some(compile(source, Vocabulary::Document, "spec.ingress.key".into())?),
    };
    let max_bytes = usize::try_from(spec.ingress.max_bytes.as_bytes()).unwrap_or(usize::MAX);
    Ok(Pipeline {
        name: object.name_any(),
        bootstrap_servers: spec.kafka.bootstrap_servers.clone(),
        main: Source { topic: spec.topic.name.as_str().into(), group_id: object.consumer_group() },
        retry: Source { topic: object.retry_topic().into(), group_id: object.retry_group() },
        topics: topics(object, &policy),
        ordering: match spec.ordering {
            v1::Ordering::Partition => Ordering::Partition,
            v1::Ordering::Key => Ordering::Key,
            v1::Ordering::Unordered => Ordering::Unordered,
        },
        delivery: match spec.delivery {
            v1::Delivery::ExactlyOnce => Delivery::ExactlyOnce,
            v1::Delivery::AtLeastOnce => Delivery::AtLeastOnce,
        },
        processor,
        throttle: throttle_plan(spec),
        policy,
        pending: PendingPlan {
            records: spec.retry.pending_records as usize,
            bytes: usize::try_from(spec.retry.pending_bytes.as_bytes()).unwrap_or(usize::MAX),
        },
        dead_letter_format: match spec.dlt.format {
            v1::DeadLetterFormat::Envelope => DeadLetterFormat::Envelope,
            v1::DeadLetterFormat::Raw => DeadLetterFormat::Raw,
        },
        stack_trace_max_bytes: usize::try_from(spec.dlt.stack_trace.max_bytes.as_bytes()).unwrap_or(usize::MAX),
        membership: membership(&spec.consumer),
        drain_timeout: spec.consumer.drain_timeout.into(),
        ingress: spec.ingress.enabled.then_some(IngressPlan { key, max_bytes }),
        fault_injection: spec.fault_injection.enabled,
        tracing: spec
            .tracing
            .as_ref()
            .map(|tracing| TracingPlan { endpoint: tracing.endpoint.clone(), sampling_ratio: tracing.sampling_ratio }),
    })
}

/// At least the session timeout, or librdkafka refuses it; and at least what giving up partitions may take.
fn max_poll_interval(consumer: &v1::Consumer) -> std::time::Duration {
    let [asked_for, session, drain] =
        [consumer.max_poll_interval, consumer.session_timeout, consumer.drain_timeout].map(std::time::Duration::from);
    asked_for.max(session).max(drain + HAND_OVER_GRACE)
}

fn membership(consumer: &v1::Consumer) -> Membership {
    let protocol = match (consumer.group_protocol, consumer.assignor) {
        (v1::GroupProtocol::Classic, v1::Assignor::CooperativeSticky) => {
            GroupProtocol::Classic(Assignor::CooperativeSticky)
        }
        (v1::GroupProtocol::Classic, v1::Assignor::Range) => GroupProtocol::Classic(Assignor::Range),
        (v1::GroupProtocol::Classic, v1::Assignor::RoundRobin) => GroupProtocol::Classic(Assignor::RoundRobin),
        (v1::GroupProtocol::Consumer, v1::Assignor::Range) => GroupProtocol::Consumer { assignor: "range" },
        (v1::GroupProtocol::Consumer, _) => GroupProtocol::Consumer { assignor: "uniform" },
    };
    Membership {
        protocol,
        session_timeout: consumer.session_timeout.into(),
        max_poll_interval: max_poll_interval(consumer),
        is_static: consumer.static_membership,
    }
}

fn http_plan(http: &v1::HttpProcessor) -> HttpPlan {
    HttpPlan {
        url: http.url.clone(),
        method: format!("{:?}", http.method).to_uppercase(),
        timeout: http.timeout.into(),
        headers: http.headers.clone(),
    }
}

/// A container in the same pod has the worker's own address.
fn container_plan(container: &v1::ContainerProcessor) -> HttpPlan {
    HttpPlan {
        url: format!("http://127.0.0.1:{}{}", container.port, container.path),
        method: "POST".to_owned(),
        timeout: container.timeout.into(),
        headers: BTreeMap::new(),
    }
}

fn throttle_plan(spec: &v1::ErrorHandlingPipelineSpec) -> ThrottlePlan {
    let breaker = &spec.circuit_breaker;
    let plan = BreakerPlan {
        failure_rate: breaker.failure_rate,
        minimum_calls: breaker.minimum_calls,
        window: breaker.window.into(),
        open_for: breaker.open_for.into(),
        half_open_calls: breaker.half_open_calls,
    };
    ThrottlePlan {
        max_in_flight: spec.processor.max_in_flight as usize,
        records_per_second: spec.processor.records_per_second,
        breaker: breaker.enabled.then_some(plan),
    }
}

fn default_ruling(object: &ErrorHandlingPipeline) -> Ruling {
    let retry = &object.spec.retry;
    Ruling {
        retryable: None,
        max_attempts: retry.max_attempts,
        backoff: Backoff {
            strategy: strategy(retry.strategy),
            initial_delay: retry.initial_delay.into(),
            max_delay: retry.max_delay.into(),
            multiplier: retry.multiplier,
            jitter_factor: retry.jitter_factor,
        },
        dead_letter_topic: object.dead_letter_topic().into(),
    }
}

/// What a rule leaves out is as it is without the rule.
fn ruling(rule: &v1::RetryRule, default: &Ruling) -> Ruling {
    let backoff = &default.backoff;
    Ruling {
        retryable: rule.retryable,
        max_attempts: rule.max_attempts.unwrap_or(default.max_attempts),
        backoff: Backoff {
            strategy: rule.strategy.map_or(backoff.strategy, strategy),
            initial_delay: rule.initial_delay.map_or(backoff.initial_delay, Into::into),
            max_delay: rule.max_delay.map_or(backoff.max_delay, Into::into),
            multiplier: rule.multiplier.unwrap_or(backoff.multiplier),
            jitter_factor: rule.jitter_factor.unwrap_or(backoff.jitter_factor),
        },
        dead_letter_topic: rule.dlt.as_deref().map_or_else(|| default.dead_letter_topic.clone(), Into::into),
    }
}

fn strategy(strategy: v1::Strategy) -> Strategy {
    match strategy {
        v1::Strategy::Immediate => Strategy::Immediate,
        v1::Strategy::Fixed => Strategy::Fixed,
        v1::Strategy::Exponential => Strategy::Exponential,
        v1::Strategy::ExponentialJitter => Strategy::ExponentialJitter,
    }
}

/// Main, retry (if there is a stage that reads it) and dead letter topics. The last two are never compacted: compaction would
/// keep one failed record a key. What they take over from the main topic when they are created is not in here yet: the main
/// topic may exist and have it.
fn topics(object: &ErrorHandlingPipeline, policy: &RetryPolicy) -> Vec<TopicPlan> {
    let (topic, retry, dlt) = (&object.spec.topic, &object.spec.retry.topic, &object.spec.dlt.topic);
    let kept = |config: &BTreeMap<String, String>, retention: u128, replicas: i32| {
        let mut kept = BTreeMap::from([
            ("cleanup.policy".to_owned(), "delete".to_owned()),
            ("retention.ms".to_owned(), retention.to_string()),
        ]);
        kept.extend(config.clone());
        keep_in_sync(&mut kept, replicas);
        kept
    };
    let retry_retention = (RETRY_RETENTION + policy.longest_delay()).as_millis();
    let is_force = |adopt| adopt == v1::Adopt::Force;
    let main = TopicPlan {
        name: topic.name.as_str().into(),
        partitions: topic.partitions,
        replicas: topic.replicas,
        config: topic.config.clone(),
        manage: topic.manage,
        force: is_force(topic.adopt),
    };
    let retry = (!object.is_external()).then(|| TopicPlan {
        name: object.retry_topic().into(),
        partitions: retry.partitions,
        replicas: retry.replicas,
        config: kept(&retry.config, retry_retention, retry.replicas),
        manage: true,
        force: is_force(retry.adopt),
    });
    let mut topics: Vec<_> = std::iter::once(main).chain(retry).collect();
    let dlt_config = kept(&dlt.config, dlt.retention.as_millis().into(), dlt.replicas);
    topics.extend(policy.dead_letter_topics().into_iter().map(|name| TopicPlan {
        name,
        partitions: dlt.partitions,
        replicas: dlt.replicas,
        config: dlt_config.clone(),
        manage: true,
        force: is_force(dlt.adopt),
    }));
    topics
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::file;
    use crate::domain::record::provenance::Stage;

    fn object(name: &str, more: &str) -> ErrorHandlingPipeline {
        let text = format!(
            "apiVersion: lazaret.dev/v1alpha1\nkind: ErrorHandlingPipeline\nmetadata: {{name: {name}}}\nspec:\n  \
             kafka: {{bootstrapServers: 'k:9092'}}\n  {}\n",
            more.replace('\n', "\n  ")
        );
        file::parse("test.yaml", &text).unwrap_or_else(|e| panic!("{e}\n{text}")).remove(0)
    }

    fn pipeline(name: &str, topic: &str) -> ErrorHandlingPipeline {
        object(name, &format!("topic: {{name: {topic}}}\nprocessor: {{rules: [{{when: 'false', error: E}}]}}"))
    }

    #[test]
    fn names_follow_from_the_topic_and_the_object() {
        let pipeline = validate(&pipeline("shop", "orders")).unwrap();
        let names: Vec<_> = pipeline.topics.iter().map(|topic| &*topic.name).collect();
        assert_eq!(names, ["orders", "orders.retry", "orders.dlt"]);
        assert_eq!((&*pipeline.main.group_id, &*pipeline.retry.group_id), ("shop-consumer-group", "shop-retry-group"));
    }

    #[test]
    fn retry_records_and_dead_letters_are_kept_for_a_time_of_their_own() {
        let pipeline = validate(&pipeline("shop", "orders")).unwrap();
        let config = |index: usize| &pipeline.topics[index].config;
        assert!(config(0).is_empty());
        assert_eq!(config(1)["cleanup.policy"], "delete");
        assert_eq!(config(1)["retention.ms"], (7 * 86_400_000 + 360_000).to_string());
        assert_eq!(config(2)["retention.ms"], (30 * 86_400_000_i64).to_string());
    }

    #[test]
    fn a_retry_rule_changes_only_what_it_names() {
        let object = object(
            "shop",
            "topic: {name: orders}\nprocessor: {rules: [{when: 'false', error: E}]}\nretry: {maxAttempts: 7, rules: [\
             {when: status == 422, retryable: false, dlt: orders.invalid.dlt}, {when: 'true', maxDelay: 10m}]}",
        );
        let pipeline = validate(&object).unwrap();
        let [invalid, slow] = &pipeline.policy.rules[..] else { panic!("two rules") };
        assert_eq!((invalid.ruling.retryable, invalid.ruling.max_attempts), (Some(false), 7));
        assert_eq!(&*invalid.ruling.dead_letter_topic, "orders.invalid.dlt");
        assert_eq!(slow.ruling.backoff.max_delay.as_secs(), 600);
        assert_eq!(pipeline.topics.last().map(|topic| &*topic.name), Some("orders.invalid.dlt"));
        assert_eq!(pipeline.policy.longest_delay().as_secs(), 720);
    }

    #[test]
    fn with_an_external_consumer_there_is_no_retry_stage_and_its_group_may_read_more() {
        let external = |name: &str, topic: &str| {
            object(name, &format!("topic: {{name: {topic}}}\nprocessor: {{external: {{groupId: shop}}}}"))
        };
        let alone = validate(&external("orders", "orders")).unwrap();
        let names: Vec<_> = alone.topics.iter().map(|topic| &*topic.name).collect();
        assert_eq!(names, ["orders", "orders.dlt"]);
        assert_eq!((&*alone.main.group_id, alone.stages()), ("shop", [Stage::Main].as_slice()));
        assert!(validate_all(&[external("orders", "orders"), external("bills", "bills")]).is_ok());
        assert!(validate_all(&[external("orders", "orders"), external("bills", "orders")]).is_ok(), "and read it too");
        assert!(validate_all(&[external("orders", "orders"), pipeline("bills", "orders")]).is_err());
        let joins = object(
            "bills",
            "topic: {name: bills}\nprocessor: {rules: [{when: 'false', error: E}]}\nconsumer: {groupId: shop}",
        );
        assert!(validate_all(&[external("orders", "orders"), joins]).is_err(), "workers in the application's group");
    }

    #[test]
    fn an_expression_that_does_not_compile_is_named_by_its_field() {
        let object = object("shop", "topic: {name: t}\nprocessor: {rules: [{when: value.amount <, error: E}]}");
        let error = validate(&object).unwrap_err().to_string();
        assert!(error.starts_with("shop: spec.processor.rules[0].when: `value.amount <` does not compile"), "{error}");
        assert!(!error.contains('\n'));
    }

    #[test]
    fn a_group_that_is_the_other_stages_default_is_refused() {
        let object = object(
            "a",
            "topic: {name: t}\nprocessor: {rules: [{when: 'false', error: E}]}\nconsumer: {groupId: a-retry-group}",
        );
        assert!(validate(&object).unwrap_err().to_string().contains("are both `a-retry-group`"));
    }

    #[test]
    fn an_expression_over_several_lines_is_named_on_one() {
        let object = object("a", "topic: {name: t}\nprocessor: {rules: [{when: \"value.a <\\n  1 +\", error: E}]}");
        let error = validate(&object).unwrap_err().to_string();
        assert!(error.contains("`value.a < 1 +` does not compile"), "{error}");
    }

    #[test]
    fn pipelines_that_share_a_topic_a_group_or_a_name_are_refused() {
        let refused = |other| validate_all(&[pipeline("a", "orders"), other]).unwrap_err().to_string();
        assert!(refused(pipeline("b", "orders")).contains("both use the topic `orders`"));
        assert!(refused(pipeline("b", "orders.dlt")).contains("both use the topic `orders.dlt`"));
        assert!(refused(pipeline("a", "other")).contains("both use the name `a`"));
        let group = object(
            "b",
            "topic: {name: x}\nprocessor: {rules: [{when: 'false', error: E}]}\n\
            consumer: {groupId: a-retry-group}",
        );
        assert!(refused(group).contains("both use the consumer group `a-retry-group`"));
        assert!(validate_all(&[pipeline("a", "orders"), pipeline("b", "bills")]).is_ok());
    }
}
