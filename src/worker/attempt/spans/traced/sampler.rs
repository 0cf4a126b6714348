//! Which spans are sent.

use opentelemetry::trace::{Link, SpanKind, TraceContextExt, TraceId};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SamplingDecision, SamplingResult, ShouldSample};

/// Lets a retry, which begins a trace of its own, follow the first attempt that it has a link to: all attempts at a record
/// are sent, or none. Everything else is for the sampler within.
#[derive(Clone, Debug)]
pub(super) struct FollowsFirstAttempt(pub Box<dyn ShouldSample>);

impl ShouldSample for FollowsFirstAttempt {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let is_root = !parent.is_some_and(|parent| parent.span().span_context().is_valid());
        match links {
            [first, ..] if is_root => SamplingResult {
                decision: match first.span_context.is_sampled() {
                    true => SamplingDecision::RecordAndSample,
                    false => SamplingDecision::Drop,
                },
                attributes: vec![],
                trace_state: Default::default(),
            },
            _ => self.0.should_sample(parent, trace_id, name, kind, attributes, links),
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags};
    use opentelemetry_sdk::trace::Sampler;

    use super::*;

    fn decision(parent: Option<TraceFlags>, link: Option<TraceFlags>, within: Sampler) -> SamplingDecision {
        let span = |flags| SpanContext::new(TraceId::from(1), SpanId::from(2), flags, true, Default::default());
        let parent = parent.map(|flags| Context::new().with_remote_span_context(span(flags))).unwrap_or_default();
        let links: Vec<_> = link.map(|flags| Link::with_context(span(flags))).into_iter().collect();
        let within = Sampler::ParentBased(Box::new(within));
        let sampler = FollowsFirstAttempt(Box::new(within));
        sampler.should_sample(Some(&parent), TraceId::from(3), "process", &SpanKind::Consumer, &[], &links).decision
    }

    #[test]
    fn a_retry_is_sent_if_the_first_attempt_is_and_all_else_is_as_ever() {
        use Sampler::{AlwaysOff, AlwaysOn};
        let (sent, not_sent) = (Some(TraceFlags::SAMPLED), Some(TraceFlags::default()));
        for (parent, link, within, expected) in [
            (None, sent, AlwaysOff, SamplingDecision::RecordAndSample),
            (None, not_sent, AlwaysOn, SamplingDecision::Drop),
            (None, None, AlwaysOn, SamplingDecision::RecordAndSample),
            (None, None, AlwaysOff, SamplingDecision::Drop),
            (sent, not_sent, AlwaysOff, SamplingDecision::RecordAndSample),
            (not_sent, sent, AlwaysOn, SamplingDecision::Drop),
        ] {
            assert_eq!(decision(parent, link, within.clone()), expected, "{parent:?} {link:?} {within:?}");
        }
    }
}
