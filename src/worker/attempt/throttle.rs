//! What the processor is asked to bear: calls at once, calls a second, and none at all while most of them fail.
//!
//! The rules are [`Breaker`] and [`Pace`]; this holds them for the partitions of a stage, reads the clock for them, lets
//! whoever must wait wait, and says what the breaker does in the log, the metrics and the stats. Waiting is done one
//! after the other, in the order of coming: only the first in the line watches the breaker, and a record whose probe
//! failed goes to its end.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as Line, Notify, Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::domain::flow::breaker::{Answer, Breaker, BreakerPlan, Opening, Pass, State};
use crate::domain::flow::pace::Pace;
use crate::domain::pipeline::ThrottlePlan;
use crate::domain::record::failure::{Failure, Outcome};
use crate::domain::time::Timestamp;
use crate::worker::clock;
use crate::worker::metrics::{BreakerView, StageMetrics};

/// Says when a call may start.
pub struct Throttle {
    /// One for each call that may be under way, over all partitions.
    slots: Semaphore,
    line: Line<()>,
    rules: Mutex<Rules>,
    /// Rung when a call may start before the time that was given.
    changed: Notify,
    /// The breaker's epoch while it is closed, so that a record that needs no waiting takes no lock; else [`SHUT`].
    closed_in: AtomicU64,
    paced: bool,
    plan: Option<BreakerPlan>,
    metrics: Arc<StageMetrics>,
    /// Where the clock of the rules begins. It is one that is never set.
    began: (Instant, Timestamp),
}

/// No epoch: they are counted from 1.
const SHUT: u64 = 0;

struct Rules {
    breaker: Option<Breaker>,
    pace: Option<Pace>,
    last_error: String,
}

/// Allows one call, until it is dropped.
pub struct Permit<'a> {
    throttle: &'a Throttle,
    pass: Pass,
    has_ended: bool,
    _slot: SemaphorePermit<'a>,
}

/// Calls that ended well and that the breaker has not been told of yet: a lock for each of them would cost more than many
/// a call.
#[derive(Debug, Default)]
pub struct Tally {
    pass: Pass,
    successes: u64,
}

impl Throttle {
    pub fn new(plan: &ThrottlePlan, metrics: Arc<StageMetrics>) -> Self {
        let breaker = plan.breaker.clone().map(Breaker::new);
        let epoch = breaker.as_ref().map_or(SHUT + 1, Breaker::epoch);
        let pace = plan.records_per_second.map(Pace::new);
        Self {
            slots: Semaphore::new(plan.max_in_flight),
            line: Line::new(()),
            paced: pace.is_some(),
            rules: Mutex::new(Rules { breaker, pace, last_error: String::new() }),
            changed: Notify::new(),
            closed_in: AtomicU64::new(epoch),
            plan: plan.breaker.clone(),
            metrics,
            began: (Instant::now(), clock::now()),
        }
    }

    /// A pass for a call that ends at once, if nothing has to be waited for.
    pub fn pass_now(&self) -> Option<Pass> {
        let epoch = self.closed_in.load(Relaxed);
        (!self.paced && epoch != SHUT).then_some(Pass { epoch, probe: false })
    }

    /// Waits until a call may start.
    pub async fn permit(&self) -> Permit<'_> {
        let _first = self.line.lock().await;
        let slot = self.slots.acquire().await.expect("nobody closes the semaphore");
        loop {
            match self.ask() {
                Ok(pass) => return Permit { throttle: self, pass, has_ended: false, _slot: slot },
                Err(Some(time)) => tokio::select! {
                    () = tokio::time::sleep_until(time) => {}
                    () = self.changed.notified() => {}
                },
                Err(None) => self.changed.notified().await,
            }
        }
    }

    /// Whether nothing is let through. It half-opens the breaker when its time has come, so that the state is right also
    /// where no record waits.
    pub fn is_open(&self) -> bool {
        if self.closed_in.load(Relaxed) != SHUT {
            return false;
        }
        let look = |breaker: &mut Breaker, now| {
            breaker.look(now);
            matches!(breaker.state(), State::Open { .. })
        };
        self.with_breaker(&mut self.rules(), look).unwrap_or(false)
    }

    /// A pass, or when to ask again; `None` for when something has changed.
    fn ask(&self) -> Result<Pass, Option<Instant>> {
        let rules = &mut *self.rules();
        let since = self.began.0.elapsed();
        if let Some(pace) = &mut rules.pace {
            let earliest = pace.earliest(since);
            if earliest > since {
                return Err(Some(self.began.0 + earliest));
            }
        }
        let answer = self.with_breaker(rules, |breaker, now| (breaker.ask(now), now));
        let pass = match answer {
            None => Pass::default(),
            Some((Answer::Pass(pass), _)) => pass,
            Some((Answer::NotBefore(then), now)) => return Err(Some(Instant::now() + then.since(now))),
            Some((Answer::AfterAProbe, _)) => return Err(None),
        };
        rules.pace.as_mut().map(|pace| pace.start(since));
        Ok(pass)
    }

    fn fail(&self, pass: Pass, failure: &Failure) {
        let rules = &mut *self.rules();
        rules.last_error.clone_from(&failure.error_type);
        self.with_breaker(rules, |breaker, now| breaker.fail(pass, now));
    }

    fn succeed(&self, pass: Pass, calls: u64) {
        self.with_breaker(&mut self.rules(), |breaker, now| breaker.succeed(pass, calls, now));
    }

    fn give_up(&self, pass: Pass) {
        self.with_breaker(&mut self.rules(), |breaker, _| breaker.give_up(pass));
        self.changed.notify_one();
    }

    fn rules(&self) -> std::sync::MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the breaker, if there is one, and says so where that changes its state.
    fn with_breaker<T>(&self, rules: &mut Rules, act: impl FnOnce(&mut Breaker, Timestamp) -> T) -> Option<T> {
        let breaker = rules.breaker.as_mut()?;
        let before = breaker.epoch();
        let now = self.began.1.after(self.began.0.elapsed());
        let done = act(breaker, now);
        if breaker.epoch() != before {
            self.announce(breaker, &rules.last_error, now);
        }
        Some(done)
    }

    fn announce(&self, breaker: &Breaker, last_error: &str, now: Timestamp) {
        let state = breaker.state();
        let closed_in = if state == State::Closed { breaker.epoch() } else { SHUT };
        self.closed_in.store(closed_in, Relaxed);
        let reason = reason(breaker.opening(), self.plan.as_ref(), last_error);
        let (pipeline, stage) = self.metrics.names();
        let view = match state {
            State::Closed => {
                info!(pipeline, stage, "circuit breaker closed: the probes went well");
                BreakerView::Closed
            }
            State::Open { until } => {
                // By the wall clock, which may have been set since this one began.
                let next_probe = clock::now().after(until.since(now));
                warn!(pipeline, stage, reason, %next_probe, "circuit breaker opened: nothing is processed for now");
                BreakerView::Open { reason, next_probe }
            }
            State::HalfOpen => {
                info!(pipeline, stage, "circuit breaker half open: a few records are tried");
                BreakerView::HalfOpen { reason }
            }
        };
        self.metrics.set_breaker(view);
        self.changed.notify_one();
    }
}

/// Why the breaker opened, in words. Of what failed it has only the type, which is a label in the metrics, too.
fn reason(opening: Opening, plan: Option<&BreakerPlan>, last_error: &str) -> String {
    let Opening { failed, calls, probes } = opening;
    match plan.filter(|_| !probes) {
        Some(plan) => format!("{failed} of {calls} calls failed within {:?}; the last: {last_error}", plan.window),
        None => format!("{failed} of {calls} probes failed; the last: {last_error}"),
    }
}

impl Permit<'_> {
    /// Says what came of the call, and returns whether that counts. A probe that failed does not: its record is to be
    /// tried again as if it had not been called.
    pub fn end(mut self, outcome: &Outcome) -> bool {
        self.has_ended = true;
        match outcome {
            Outcome::Failed(failure) => self.throttle.fail(self.pass, failure),
            Outcome::Done | Outcome::Dropped => self.throttle.succeed(self.pass, 1),
        }
        !(self.pass.probe && matches!(outcome, Outcome::Failed(_)))
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.throttle.give_up(self.pass);
        }
    }
}

impl Tally {
    /// Counts a call that ended at once. The breaker learns of a failure now, and of a success
    /// [later](Self::hand_over).
    pub fn count(&mut self, throttle: &Throttle, pass: Pass, outcome: &Outcome) {
        if throttle.plan.is_none() {
            return;
        }
        if self.pass != pass {
            self.hand_over(throttle);
            self.pass = pass;
        }
        match outcome {
            Outcome::Done | Outcome::Dropped => self.successes += 1,
            Outcome::Failed(failure) => {
                self.hand_over(throttle);
                throttle.fail(pass, failure);
            }
        }
    }

    /// Tells the breaker of the successes since the last time.
    pub fn hand_over(&mut self, throttle: &Throttle) {
        let successes = std::mem::take(&mut self.successes);
        if successes > 0 {
            throttle.succeed(self.pass, successes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use futures::future::join_all;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::domain::record::failure::FailureKind;
    use crate::domain::record::provenance::Stage;
    use crate::worker::metrics::Metrics;

    const OPEN_FOR: Duration = Duration::from_millis(200);

    fn throttle(max_in_flight: usize, records_per_second: Option<u32>) -> Throttle {
        let breaker = BreakerPlan {
            failure_rate: 0.5,
            minimum_calls: 4,
            window: Duration::from_secs(60),
            open_for: OPEN_FOR,
            half_open_calls: 2,
        };
        let metrics = Metrics::register(&mut Registry::default()).stage("orders", Stage::Main);
        let plan = ThrottlePlan { max_in_flight, records_per_second, breaker: Some(breaker) };
        Throttle::new(&plan, Arc::new(metrics))
    }

    fn failed() -> Outcome {
        Outcome::Failed(Failure::from_text(FailureKind::Permanent, "ValidationException: Invalid amount"))
    }

    async fn open(throttle: &Throttle) {
        for _ in 0..4 {
            assert!(throttle.permit().await.end(&failed()), "what opens it counts");
        }
        assert!(throttle.is_open());
    }

    #[tokio::test]
    async fn it_opens_says_why_and_closes_after_probes_that_went_well() {
        let throttle = throttle(10, None);
        let late = throttle.permit().await;
        assert!(throttle.pass_now().is_some());
        open(&throttle).await;
        assert_eq!(throttle.pass_now(), None);
        assert_eq!(throttle.permit().now_or_never().map(drop), None);
        let BreakerView::Open { reason, next_probe } = throttle.metrics.breaker() else { panic!("open") };
        assert_eq!(reason, "4 of 4 calls failed within 60s; the last: ValidationException");
        assert!(next_probe <= clock::now().after(OPEN_FOR));
        assert!(late.end(&failed()), "what began before it opened is settled as ever");
        let probes = [throttle.permit().await, throttle.permit().await];
        assert!(matches!(throttle.metrics.breaker(), BreakerView::HalfOpen { .. }));
        assert_eq!(throttle.permit().now_or_never().map(drop), None, "two probes, not three");
        for probe in probes {
            assert!(probe.end(&Outcome::Done));
        }
        assert_eq!(throttle.metrics.breaker(), BreakerView::Closed);
        assert!(throttle.pass_now().is_some());
        assert_eq!(throttle.metrics.breaker_openings.get(), 1);
    }

    #[tokio::test]
    async fn a_probe_that_failed_does_not_count_and_one_that_is_dropped_makes_room() {
        let throttle = throttle(10, None);
        open(&throttle).await;
        assert!(!throttle.permit().await.end(&failed()));
        let dropped = throttle.permit().await;
        let waiting = throttle.permit();
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(dropped);
        let probe = waiting.await;
        assert!(!probe.end(&failed()));
        assert!(throttle.is_open());
        let BreakerView::Open { reason, .. } = throttle.metrics.breaker() else { panic!("open") };
        assert_eq!(reason, "2 of 2 probes failed; the last: ValidationException");
        assert_eq!(throttle.metrics.breaker_openings.get(), 2);
    }

    #[tokio::test]
    async fn whoever_came_first_is_the_first_to_be_let_through() {
        let throttle = throttle(1, None);
        open(&throttle).await;
        let order = Mutex::new(vec![]);
        let calls = (0..20).map(|n| {
            let (throttle, order) = (&throttle, &order);
            async move {
                let permit = throttle.permit().await;
                order.lock().unwrap().push(n);
                tokio::task::yield_now().await;
                permit.end(&Outcome::Done);
            }
        });
        join_all(calls).await;
        assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn successes_are_told_before_a_failure_and_with_the_phase_that_they_belong_to() {
        let (throttle, mut tally) = (throttle(10, None), Tally::default());
        let pass = throttle.pass_now().unwrap();
        (0..4).for_each(|_| tally.count(&throttle, pass, &Outcome::Done));
        (0..3).for_each(|_| tally.count(&throttle, pass, &failed()));
        assert!(!throttle.is_open(), "three of seven");
        (0..2).for_each(|_| tally.count(&throttle, pass, &Outcome::Done));
        (0..3).for_each(|_| tally.count(&throttle, pass, &failed()));
        assert!(throttle.is_open(), "six of twelve");
        tally.count(&throttle, pass, &Outcome::Done);
        let probes = [throttle.permit().await, throttle.permit().await];
        tally.hand_over(&throttle);
        assert!(matches!(throttle.metrics.breaker(), BreakerView::HalfOpen { .. }), "an old success is no probe's");
        drop(probes);
    }

    #[tokio::test]
    async fn calls_are_paced_and_none_goes_past_the_line() {
        let throttle = throttle(10, Some(100));
        assert_eq!(throttle.pass_now(), None);
        let began = Instant::now();
        for _ in 0..31 {
            assert!(throttle.permit().await.end(&Outcome::Done));
        }
        assert!(began.elapsed() >= Duration::from_millis(190), "{:?}", began.elapsed());
    }
}
