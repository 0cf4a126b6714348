//! One assigned partition: from the gate to the decision.
//!
//! Each partition is a task of its own, so a slow one holds up no other. The task owns what waits and what runs; when it
//! is told to stop it starts nothing more and waits for what runs. Records that it has not settled by then stay in
//! flight, and whoever gets the partition next reads them again.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::refetch::{Found, Wanted};
use super::spans::AttemptSpan;
use super::throttle::Tally;
use crate::domain::commit::offsets::Begun;
use crate::domain::commit::partition_state::PartitionState;
use crate::domain::commit::settlement::AssignmentId;
use crate::domain::flow::delay_queue::{DelayQueue, Due};
use crate::domain::flow::lane::{LaneId, Lanes};
use crate::domain::flow::pace::share_of_calls;
use crate::domain::policy::Mode;
use crate::domain::policy::decide::{Decision, Situation, decide};
use crate::domain::record::failure::{Failure, Outcome, shortened};
use crate::domain::record::topic_id::TopicId;
use crate::domain::time::Timestamp;
use crate::worker::attempt::context::Context;
use crate::worker::clock;
use crate::worker::fail::FailOnPanic;
use crate::worker::work::{Destination, Route, ToSettle, Work};

/// The task of one assigned partition.
pub struct Partition {
    context: Arc<Context>,
    id: AssignmentId,
    inbox: mpsc::UnboundedReceiver<Vec<Work>>,
    stop: CancellationToken,
    state: Arc<PartitionState>,
    partition: i32,
    topic_id: Option<TopicId>,
    /// Records that wait until they are due.
    delayed: DelayQueue<Work>,
    /// Where those come that were let go of and asked for again.
    found: Option<mpsc::UnboundedReceiver<Found>>,
    lanes: Lanes<Work>,
    calls: FuturesUnordered<BoxFuture<'static, Ended>>,
    busy: Busy,
    /// Settled since the last [`flush`](Self::flush).
    finished: Vec<i64>,
    routes: Vec<Route>,
    /// Counted since then.
    tally: Tally,
}

/// How long a record whose probe failed waits before it may be a probe again, so that others get their turn.
const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// How many records are concluded without a pause that take no call: others on the same thread wait meanwhile.
const AT_ONCE: usize = 1_000;

/// How long to wait until it is seen whether there is room for records that are due.
const ROOM_PAUSE: Duration = Duration::from_millis(50);

/// How long to wait until it is seen whether records that wait may still take as much memory.
const SHARE_PAUSE: Duration = Duration::from_secs(1);

/// An attempt that ended, or was given up before it started when there is no outcome.
struct Ended {
    work: Work,
    lane: Option<LaneId>,
    outcome: Option<(Outcome, AttemptSpan)>,
}

impl Partition {
    pub fn new(
        context: Arc<Context>,
        (partition, topic_id): (i32, Option<TopicId>),
        id: AssignmentId,
        inbox: mpsc::UnboundedReceiver<Vec<Work>>,
        stop: CancellationToken,
        state: Arc<PartitionState>,
    ) -> Self {
        Self {
            context: context.clone(),
            id,
            inbox,
            stop,
            state,
            partition,
            topic_id,
            delayed: DelayQueue::default(),
            found: None,
            lanes: Lanes::default(),
            calls: FuturesUnordered::new(),
            busy: Busy { context, is_busy: false },
            finished: vec![],
            routes: vec![],
            tally: Tally::default(),
        }
    }

    /// Runs until it is told to stop, and then until what runs has ended.
    pub async fn run(mut self) {
        let _fail_on_panic = FailOnPanic(self.context.failed.clone());
        loop {
            let is_done = self.start_what_may();
            self.flush();
            if !is_done && !self.stop.is_cancelled() {
                tokio::task::yield_now().await;
                continue;
            }
            let wake = self.next_wake();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                Some(ended) = self.calls.next(), if !self.calls.is_empty() => self.end(ended),
                batch = self.inbox.recv() => match batch {
                    Some(batch) => self.admit(batch),
                    None => break,
                },
                found = receive(&mut self.found), if self.found.is_some() => self.take_back(found),
                () = clock::until(wake) => {}
            }
        }
        (self.delayed, self.found) = Default::default();
        self.lanes.clear();
        while let Some(ended) = self.calls.next().await {
            self.end(ended);
            self.flush();
        }
    }

    fn next_wake(&self) -> Option<Timestamp> {
        // Room comes where records are settled, which nobody says here.
        let room = self.delayed.is_stuck().then(|| clock::now().after(ROOM_PAUSE));
        // So does the end of what this partition may hold, when the worker is given others.
        let share = (!self.delayed.is_empty()).then(|| clock::now().after(SHARE_PAUSE));
        self.delayed.next().into_iter().chain(room).chain(share).min()
    }

    /// Takes in what was read, but for what is known already.
    fn admit(&mut self, batch: Vec<Work>) {
        let limit = self.context.pending_bytes();
        let mut offsets = self.state.offsets();
        for work in batch {
            if offsets.begin(work.record.offset) == Begun::Known {
                self.context.metrics.skipped.inc();
                continue;
            }
            match work.past.due {
                Some(due) => wait(&mut self.delayed, due, work, limit),
                None => admit_to_lane(&self.context, &mut self.lanes, work),
            }
        }
    }

    /// Asks again for records that were let go of, when their time has come.
    fn ask_again(&mut self) {
        let offsets = self.delayed.ask(clock::now(), self.context.pending_bytes());
        if !offsets.is_empty() {
            let (reply, found) = mpsc::unbounded_channel();
            self.found = Some(found);
            self.context.refetch.ask(Wanted { partition: self.partition, offsets, reply });
        }
    }

    /// Takes back what was asked for again. Nothing means that no more will come.
    fn take_back(&mut self, found: Option<Found>) {
        match found {
            Some(Found::Record(record)) => {
                let now = clock::now();
                let past = self.context.past_of(&record, self.topic_id, now);
                let due = past.due.unwrap_or(now);
                wait(&mut self.delayed, due, Work { record, past, charge: None }, self.context.pending_bytes());
            }
            Some(Found::Gone(offset)) => {
                let (topic, partition) = (&*self.context.pipeline.retry.topic, self.partition);
                error!(
                    topic,
                    partition, offset, "the record was deleted before it was due: is the topic's retention too short?"
                );
                self.delayed.forget(offset);
                self.context.metrics.lost.inc();
                self.finished.push(offset);
            }
            None => {
                self.found = None;
                self.delayed.give_up_asking();
            }
        }
    }

    /// Starts what may start, and concludes at once what takes no time, as far as others need not wait for it. Returns whether
    /// that was all.
    fn start_what_may(&mut self) -> bool {
        if !self.delayed.is_empty() {
            self.ask_again();
            let (now, room) = (clock::now(), self.context.partition_bytes());
            while let Some(due) = self.delayed.take_due(now, self.state.load.charged() < room) {
                match due {
                    Due::New(mut work) => {
                        work.charge = Some(self.state.load.charge(work.record.footprint()));
                        admit_to_lane(&self.context, &mut self.lanes, work);
                    }
                    Due::InLane(lane, work) => self.lanes.resume(lane, work),
                }
            }
        }
        self.busy.set(!self.calls.is_empty() || self.lanes.has_ready());
        let (max, partitions) = (self.context.pipeline.throttle.max_in_flight, self.context.metrics.partitions());
        let share = share_of_calls(max, partitions, self.busy.are_others());
        let mut concluded = 0;
        while self.calls.len() < share
            && concluded < AT_ONCE
            && !self.stop.is_cancelled()
            && let Some((lane, mut work)) = self.lanes.take_ready()
        {
            let Context { throttle, processor, spans, .. } = &*self.context;
            let passed = throttle.pass_now().and_then(|pass| Some((pass, processor.call_now(&work.record)?)));
            match passed {
                Some((pass, outcome)) => {
                    let span = spans.begin(&mut work);
                    self.tally.count(throttle, pass, &outcome);
                    note_lateness(&self.context, &work);
                    self.conclude(work, lane, outcome, span);
                    concluded += 1;
                }
                None => self.call(work, lane, Duration::ZERO),
            }
        }
        let (pending, in_lane, bytes) = self.delayed.sizes();
        self.state.load.set_pending(pending, in_lane, bytes, self.delayed.next_due());
        concluded < AT_ONCE
    }

    /// Starts an attempt after a pause, as soon as the throttle permits it. One that was a probe and failed is made again.
    fn call(&mut self, mut work: Work, lane: Option<LaneId>, mut pause: Duration) {
        let (context, stop) = (self.context.clone(), self.stop.clone());
        let attempt = async move {
            let mut failed_probes = 0;
            loop {
                let permitted = async {
                    if !pause.is_zero() {
                        tokio::time::sleep(pause).await;
                    }
                    context.throttle.permit().await
                };
                let permit = tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ended { work, lane, outcome: None },
                    permit = permitted => permit,
                };
                note_lateness(&context, &work);
                let span = context.spans.begin(&mut work);
                let outcome = {
                    let _in_flight = InFlight::new(&context);
                    context.processor.call(&work.record, &work.past, &span).await
                };
                // A record that fails whenever it is a probe must not stop the others for ever.
                failed_probes += 1;
                if permit.end(&outcome) || failed_probes >= context.pipeline.policy.default.max_attempts {
                    return Ended { work, lane, outcome: Some((outcome, span)) };
                }
                if let Outcome::Failed(failure) = &outcome {
                    log_failed_probe(&work, failure);
                    span.fail_probe(&failure.error_type);
                }
                pause = PROBE_PAUSE;
            }
        };
        self.calls.push(attempt.boxed());
    }

    fn end(&mut self, ended: Ended) {
        // Without an outcome the record stays in flight; its lane stays taken, but nothing starts any more.
        if let Some((outcome, span)) = ended.outcome {
            self.conclude(ended.work, ended.lane, outcome, span);
        }
    }

    /// Decides what becomes of a record, and lets the next one in its lane start unless it stays.
    fn conclude(&mut self, work: Work, lane: Option<LaneId>, outcome: Outcome, span: AttemptSpan) {
        let mut failure = match outcome {
            Outcome::Failed(failure) => failure,
            Outcome::Done | Outcome::Dropped => {
                span.succeed();
                return self.finish(work, lane, &outcome);
            }
        };
        self.context.metrics.failed_attempts.inc();
        let now = clock::now();
        let policy = &self.context.pipeline.policy;
        let first_failure = work.past.first_failure;
        let work = Work { past: work.past.after_failure(now), ..work };
        let attempts = work.past.attempts;
        let ruling = policy.ruling(&work.record, &failure, attempts);
        let situation = Situation { attempts, first_failure, now, sample: rand::random() };
        let decision = decide(&failure, policy, ruling, situation);
        span.fail(&decision, &failure.error_type);
        let to = match decision {
            Decision::RetryInPlace { delay } => {
                log_retry_in_place(&work, &failure, ruling.max_attempts, delay);
                return self.call(work, lane, delay);
            }
            Decision::Retry { due } if policy.mode == Mode::KeepOrder => {
                log_retry_in_order(&work, &failure, ruling.max_attempts, due);
                return self.hold(work, lane, due);
            }
            Decision::Retry { due } => {
                // Only a dead letter has it.
                failure.stack_trace = None;
                Destination::Retry { due, max_attempts: ruling.max_attempts }
            }
            Decision::DeadLetter { reason } => {
                let max_bytes = self.context.pipeline.stack_trace_max_bytes;
                failure.stack_trace = failure.stack_trace.map(|trace| shortened(trace, max_bytes));
                Destination::DeadLetter { reason }
            }
        };
        let dead_letter_topic = ruling.dead_letter_topic.clone();
        self.routes.push(Route { work, failure, failed_at: now, to, dead_letter_topic });
        self.lanes.release(lane);
    }

    /// Lets a record wait in its lane. It runs no call meanwhile, so that however many wait, others can be called.
    fn hold(&mut self, mut work: Work, lane: Option<LaneId>, due: Timestamp) {
        work.past.due = Some(due);
        self.delayed.hold(due, work.record.offset, lane, work);
    }

    fn finish(&mut self, work: Work, lane: Option<LaneId>, outcome: &Outcome) {
        match outcome {
            Outcome::Dropped => self.context.metrics.dropped.inc(),
            _ => self.context.metrics.processed.inc(),
        };
        if work.past.attempts > 0 {
            let (topic, offset) = (&*work.past.origin.topic, work.past.origin.offset);
            let attempt = work.past.attempts + 1;
            info!(topic, partition = work.past.origin.partition, offset, attempt, "attempt succeeded after Retry");
        }
        self.finished.push(work.record.offset);
        self.lanes.release(lane);
    }

    fn flush(&mut self) {
        self.tally.hand_over(&self.context.throttle);
        if self.finished.is_empty() && self.routes.is_empty() {
            return;
        }
        let (finished, routes) = (std::mem::take(&mut self.finished), std::mem::take(&mut self.routes));
        self.context.settle(ToSettle::Settled { assignment: self.id, finished, routes });
    }
}

/// Lets a record wait until it is due. What it takes is counted there.
fn wait(delayed: &mut DelayQueue<Work>, due: Timestamp, mut work: Work, limit: usize) {
    work.charge = None;
    delayed.wait(due, work.record.offset, work.record.footprint(), work, limit);
}

/// What comes next, `None` when nothing will.
async fn receive(found: &mut Option<mpsc::UnboundedReceiver<Found>>) -> Option<Found> {
    found.as_mut()?.recv().await
}

fn admit_to_lane(context: &Context, lanes: &mut Lanes<Work>, work: Work) {
    let lane = context.pipeline.ordering.lane_of(work.record.key.as_deref());
    lanes.admit(lane, work);
}

fn note_lateness(context: &Context, work: &Work) {
    if let Some(due) = work.past.due {
        context.metrics.observe_lateness(clock::now().since(due));
    }
}

fn log_retry_in_place(work: &Work, failure: &Failure, max_attempts: u32, delay: Duration) {
    let (topic, partition, offset) = (&*work.record.topic, work.record.partition, work.record.offset);
    let (attempt, error_type) = (work.past.attempts, &*failure.error_type);
    info!(topic, partition, offset, attempt, max_attempts, error_type, ?delay, "attempt failed, Retry in place");
}

fn log_retry_in_order(work: &Work, failure: &Failure, max_attempts: u32, due: Timestamp) {
    let (topic, partition, offset) = (&*work.record.topic, work.record.partition, work.record.offset);
    let (attempt, error_type) = (work.past.attempts, &*failure.error_type);
    info!(topic, partition, offset, attempt, max_attempts, error_type, %due, "attempt failed, Retry keeps its place");
}

fn log_failed_probe(work: &Work, failure: &Failure) {
    let (topic, partition, offset) = (&*work.record.topic, work.record.partition, work.record.offset);
    let (attempt, error_type) = (work.past.attempts + 1, &*failure.error_type);
    info!(topic, partition, offset, attempt, error_type, "probe failed, the attempt does not count");
}

/// A call under way, for the gauge and the histogram.
struct InFlight<'a> {
    context: &'a Context,
    began: Instant,
}

impl<'a> InFlight<'a> {
    fn new(context: &'a Context) -> Self {
        context.metrics.in_flight.inc();
        Self { context, began: Instant::now() }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.context.metrics.in_flight.dec();
        self.context.metrics.attempt_duration.observe(self.began.elapsed().as_secs_f64());
    }
}

/// Whether a partition has something to call the processor with; the others see it.
struct Busy {
    context: Arc<Context>,
    is_busy: bool,
}

impl Busy {
    fn set(&mut self, is_busy: bool) {
        if is_busy != self.is_busy {
            self.is_busy = is_busy;
            match is_busy {
                true => self.context.busy.fetch_add(1, Relaxed),
                false => self.context.busy.fetch_sub(1, Relaxed),
            };
        }
    }

    fn are_others(&self) -> bool {
        self.context.busy.load(Relaxed) > usize::from(self.is_busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.set(false);
    }
}
