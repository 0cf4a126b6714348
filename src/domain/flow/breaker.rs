//! Whether the processor is asked at all: the circuit breaker.
//!
//! When most calls fail, the fault is the system's (a bad deploy, an expired token, a dependency that is away), not the
//! records'. Going on would use up every record's attempts and pour them into the dead letter topic. So the breaker opens
//! and nothing is tried; after a while a few calls are let through as probes, and what comes of them decides whether
//! it closes again.
//!
//! ```text
//!          enough calls failed                openFor passed
//! Closed ─────────────────────► Open ◄────────────────────────► HalfOpen
//!    ▲                                 enough probes failed        │
//!    └─────────────────────────────────────────────────────────────┘
//!                              the probes went well
//! ```
//!
//! Time is passed in and may jump either way: an open breaker is never further than `open_for` from letting a probe
//! through, counted from whenever it is asked.

use std::time::Duration;

use crate::domain::time::Timestamp;

/// When the breaker opens, and how it closes again.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerPlan {
    /// The share of failed calls that opens it, above 0 and at most 1. It is also the share of failed probes that keeps it
    /// from closing.
    pub failure_rate: f64,
    /// Fewer calls within the window than this say nothing.
    pub minimum_calls: u32,
    /// How far back calls count.
    pub window: Duration,
    /// How long nothing is let through.
    pub open_for: Duration,
    /// How many probes then decide, at least 1.
    pub half_open_calls: u32,
}

impl BreakerPlan {
    fn is_too_much(&self, failed: u64, calls: u64) -> bool {
        failed > 0 && failed as f64 >= self.failure_rate * calls as f64
    }
}

/// The breaker of one stage in one process.
#[derive(Debug)]
pub struct Breaker {
    plan: BreakerPlan,
    phase: Phase,
    epoch: u64,
    /// What made it open last.
    opening: Opening,
}

#[derive(Debug)]
enum Phase {
    Closed(Window),
    Open { until: Timestamp },
    HalfOpen(Probes),
}

/// The probes of one half-open phase.
#[derive(Debug, Default)]
struct Probes {
    under_way: u32,
    ended: u32,
    failed: u32,
}

/// What a breaker does with those who ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It lets everything through.
    Closed,
    /// It lets nothing through.
    Open {
        /// Until then.
        until: Timestamp,
    },
    /// It lets a few probes through.
    HalfOpen,
}

/// What made a breaker open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// Calls that failed.
    pub failed: u64,
    /// Of so many.
    pub calls: u64,
    /// Whether they were probes; else they are the calls of the window.
    pub probes: bool,
}

/// Allows one call. Whoever has it says how the call ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Which of the breaker's phases it was given in, counted from 1. A call that ends in a later one says nothing about
    /// that.
    pub epoch: u64,
    /// Whether the call is a probe: if it fails, its record is to be kept and its attempt not counted.
    pub probe: bool,
}

/// What comes of asking for a [`Pass`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The call may begin.
    Pass(Pass),
    /// Not before this instant.
    NotBefore(Timestamp),
    /// Not before a probe that is under way has ended.
    AfterAProbe,
}

impl Breaker {
    /// A closed breaker that has seen nothing.
    pub fn new(plan: BreakerPlan) -> Self {
        let phase = Phase::Closed(Window::new(plan.window));
        Self { plan, phase, epoch: 1, opening: Opening::default() }
    }

    /// What it does with those who ask.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Closed(_) => State::Closed,
            Phase::Open { until } => State::Open { until },
            Phase::HalfOpen(_) => State::HalfOpen,
        }
    }

    /// Counts its phases; it grows whenever the state changes.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What made it open last.
    pub fn opening(&self) -> Opening {
        self.opening
    }

    /// Half-opens it when its time has come.
    pub fn look(&mut self, now: Timestamp) {
        let Phase::Open { until } = &mut self.phase else { return };
        // The clock went back, or had been ahead when it opened.
        *until = (*until).min(now.after(self.plan.open_for));
        if now >= *until {
            self.enter(Phase::HalfOpen(Probes::default()));
        }
    }

    /// Asks whether a call may begin now.
    pub fn ask(&mut self, now: Timestamp) -> Answer {
        self.look(now);
        let epoch = self.epoch;
        match &mut self.phase {
            Phase::Closed(_) => Answer::Pass(Pass { epoch, probe: false }),
            Phase::Open { until } => Answer::NotBefore(*until),
            Phase::HalfOpen(probes) if probes.under_way + probes.ended < self.plan.half_open_calls.max(1) => {
                probes.under_way += 1;
                Answer::Pass(Pass { epoch, probe: true })
            }
            Phase::HalfOpen(_) => Answer::AfterAProbe,
        }
    }

    /// Takes note of calls that ended well. Several may share one pass that is no probe.
    pub fn succeed(&mut self, pass: Pass, calls: u64, now: Timestamp) {
        match &mut self.phase {
            _ if pass.epoch != self.epoch => {}
            Phase::Closed(window) => window.add(calls, 0, now),
            Phase::Open { .. } => {}
            Phase::HalfOpen(_) => self.end_probe(false, now),
        }
    }

    /// Takes note of a call that failed, for whatever reason.
    pub fn fail(&mut self, pass: Pass, now: Timestamp) {
        match &mut self.phase {
            _ if pass.epoch != self.epoch => {}
            Phase::Closed(window) => {
                window.add(1, 1, now);
                let (calls, failed) = window.sums(now);
                if calls >= self.plan.minimum_calls.into() && self.plan.is_too_much(failed, calls) {
                    self.open(Opening { failed, calls, probes: false }, now);
                }
            }
            Phase::Open { .. } => {}
            Phase::HalfOpen(_) => self.end_probe(true, now),
        }
    }

    /// Takes back a pass whose call was given up: it says nothing, and somebody else may be the probe.
    pub fn give_up(&mut self, pass: Pass) {
        if let Phase::HalfOpen(probes) = &mut self.phase
            && pass.epoch == self.epoch
        {
            probes.under_way = probes.under_way.saturating_sub(1);
        }
    }

    fn end_probe(&mut self, failed: bool, now: Timestamp) {
        let Phase::HalfOpen(probes) = &mut self.phase else { return };
        probes.under_way = probes.under_way.saturating_sub(1);
        probes.ended += 1;
        probes.failed += u32::from(failed);
        if probes.ended < self.plan.half_open_calls.max(1) {
            return;
        }
        let (failed, calls) = (probes.failed.into(), probes.ended.into());
        if self.plan.is_too_much(failed, calls) {
            self.open(Opening { failed, calls, probes: true }, now);
        } else {
            self.enter(Phase::Closed(Window::new(self.plan.window)));
        }
    }

    fn open(&mut self, opening: Opening, now: Timestamp) {
        self.opening = opening;
        self.enter(Phase::Open { until: now.after(self.plan.open_for) });
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.epoch += 1;
    }
}

/// The calls of the last while, counted in slices of it: bounded, and never older than the whole.
#[derive(Debug)]
struct Window {
    /// The length of a slice, in milliseconds.
    width: i64,
    slices: Box<[Slice; SLICES]>,
}

const SLICES: usize = 20;

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    /// Which slice of all time this is.
    number: i64,
    calls: u64,
    failed: u64,
}

impl Window {
    fn new(length: Duration) -> Self {
        let width = i64::try_from(length.as_millis() / SLICES as u128).unwrap_or(i64::MAX).max(1);
        Self { width, slices: Box::new([Slice::default(); SLICES]) }
    }

    fn add(&mut self, calls: u64, failed: u64, now: Timestamp) {
        let number = now.0.div_euclid(self.width);
        let slice = &mut self.slices[number.rem_euclid(SLICES as i64) as usize];
        if slice.number != number {
            *slice = Slice { number, ..Slice::default() };
        }
        slice.calls = slice.calls.saturating_add(calls);
        slice.failed = slice.failed.saturating_add(failed);
    }

    /// All calls and the failed ones. Slices that lie ahead are left out: the clock went back.
    fn sums(&self, now: Timestamp) -> (u64, u64) {
        let newest = now.0.div_euclid(self.width);
        let recent = newest.saturating_sub(SLICES as i64 - 1)..=newest;
        let slices = self.slices.iter().filter(|slice| recent.contains(&slice.number));
        slices.fold((0, 0), |(calls, failed), slice| {
            (u64::saturating_add(calls, slice.calls), u64::saturating_add(failed, slice.failed))
        })
    }
}

#[cfg(test)]
mod tests;
