//! The breaker's promises, over whatever order of events.

use super::*;
use proptest::prelude::*;

fn plan() -> BreakerPlan {
    BreakerPlan {
        failure_rate: 0.5,
        minimum_calls: 10,
        window: Duration::from_secs(60),
        open_for: Duration::from_secs(30),
        half_open_calls: 3,
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp(1_700_000_000_000 + seconds * 1_000)
}

fn pass(breaker: &mut Breaker, now: Timestamp) -> Pass {
    match breaker.ask(now) {
        Answer::Pass(pass) => pass,
        other => panic!("expected a pass, got {other:?}"),
    }
}

fn call(breaker: &mut Breaker, fails: bool, now: Timestamp) {
    let pass = pass(breaker, now);
    match fails {
        true => breaker.fail(pass, now),
        false => breaker.succeed(pass, 1, now),
    }
}

/// Opened at 0 s.
fn opened() -> Breaker {
    let mut breaker = Breaker::new(plan());
    (0..10).for_each(|_| call(&mut breaker, true, at(0)));
    assert_eq!(breaker.state(), State::Open { until: at(30) });
    breaker
}

#[test]
fn it_opens_when_enough_calls_were_made_and_enough_of_them_failed() {
    let mut breaker = Breaker::new(plan());
    for n in 0..9 {
        call(&mut breaker, n % 2 == 0, at(n));
    }
    assert_eq!(breaker.state(), State::Closed, "nine calls say nothing");
    call(&mut breaker, true, at(9));
    assert_eq!(breaker.state(), State::Open { until: at(39) });
    assert_eq!(breaker.opening(), Opening { failed: 6, calls: 10, probes: false });
    assert_eq!(breaker.ask(at(38)), Answer::NotBefore(at(39)));
}

#[test]
fn calls_older_than_the_window_do_not_count() {
    let mut breaker = Breaker::new(plan());
    (0..9).for_each(|_| call(&mut breaker, true, at(0)));
    call(&mut breaker, true, at(60));
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn it_closes_with_an_empty_window_when_the_probes_went_well() {
    let mut breaker = opened();
    for fails in [true, false, false] {
        assert_ne!(breaker.state(), State::Closed);
        call(&mut breaker, fails, at(30));
    }
    assert_eq!(breaker.state(), State::Closed);
    (0..9).for_each(|_| call(&mut breaker, true, at(31)));
    assert_eq!(breaker.state(), State::Closed, "what was before does not count");
}

#[test]
fn it_opens_for_as_long_again_when_the_probes_failed() {
    let mut breaker = opened();
    let probes = [(); 3].map(|()| pass(&mut breaker, at(30)));
    assert_eq!(breaker.ask(at(30)), Answer::AfterAProbe);
    breaker.succeed(probes[0], 1, at(31));
    breaker.fail(probes[1], at(32));
    assert_eq!(breaker.ask(at(32)), Answer::AfterAProbe, "three probes decide, not more");
    breaker.fail(probes[2], at(33));
    assert_eq!(breaker.state(), State::Open { until: at(63) });
    assert_eq!(breaker.opening(), Opening { failed: 2, calls: 3, probes: true });
}

#[test]
fn a_probe_that_is_given_up_makes_room_for_another() {
    let mut breaker = opened();
    let probes = [(); 3].map(|()| pass(&mut breaker, at(30)));
    breaker.give_up(probes[0]);
    assert!(pass(&mut breaker, at(30)).probe);
    assert_eq!(breaker.ask(at(30)), Answer::AfterAProbe);
}

#[test]
fn calls_that_began_before_it_opened_disturb_nothing_when_they_end() {
    let mut breaker = Breaker::new(plan());
    let late = pass(&mut breaker, at(0));
    (0..10).for_each(|_| call(&mut breaker, true, at(0)));
    breaker.fail(late, at(1));
    assert_eq!(breaker.state(), State::Open { until: at(30) });
    let probe = pass(&mut breaker, at(30));
    for _ in 0..10 {
        breaker.succeed(late, 5, at(30));
        breaker.give_up(late);
    }
    assert_eq!(breaker.state(), State::HalfOpen);
    breaker.fail(probe, at(30));
    (0..2).for_each(|_| call(&mut breaker, false, at(30)));
    assert_eq!(breaker.state(), State::Closed);
    (0..10).for_each(|_| breaker.fail(late, at(31)));
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn a_clock_that_went_back_keeps_it_open_no_longer_than_it_is_to_be() {
    let mut breaker = opened();
    let Answer::NotBefore(until) = breaker.ask(at(-100_000)) else { panic!("open") };
    assert_eq!(until, at(-100_000 + 30));
    assert!(pass(&mut breaker, until).probe);
}

#[derive(Clone, Debug)]
enum Event {
    Ask,
    Succeed(proptest::sample::Index),
    Fail(proptest::sample::Index),
    GiveUp(proptest::sample::Index),
    Pass(i64),
    Jump(i64),
}

fn event() -> impl Strategy<Value = Event> {
    let index = || any::<proptest::sample::Index>();
    prop_oneof![
        8 => Just(Event::Ask),
        2 => index().prop_map(Event::Succeed),
        5 => index().prop_map(Event::Fail),
        1 => index().prop_map(Event::GiveUp),
        2 => (0..20_000i64).prop_map(Event::Pass),
        1 => prop_oneof![-100_000..100_000i64, Just(i64::MIN), Just(i64::MAX)].prop_map(Event::Jump),
    ]
}

/// Whoever may ask does, so nothing ends that did not begin.
struct Play {
    breaker: Breaker,
    now: Timestamp,
    under_way: Vec<Pass>,
}

impl Play {
    fn new() -> Self {
        Self { breaker: Breaker::new(plan()), now: at(0), under_way: vec![] }
    }

    fn take(&mut self, index: &proptest::sample::Index) -> Option<Pass> {
        let count = self.under_way.len();
        (count > 0).then(|| self.under_way.swap_remove(index.index(count)))
    }

    fn step(&mut self, event: &Event) -> Option<Answer> {
        match event {
            Event::Ask => {
                let answer = self.breaker.ask(self.now);
                self.under_way.extend(match answer {
                    Answer::Pass(pass) => Some(pass),
                    _ => None,
                });
                return Some(answer);
            }
            Event::Succeed(index) => {
                self.take(index).into_iter().for_each(|pass| self.breaker.succeed(pass, 1, self.now));
            }
            Event::Fail(index) => self.take(index).into_iter().for_each(|pass| self.breaker.fail(pass, self.now)),
            Event::GiveUp(index) => self.take(index).into_iter().for_each(|pass| self.breaker.give_up(pass)),
            Event::Pass(millis) => self.now = Timestamp(self.now.0.saturating_add(*millis)),
            Event::Jump(millis) => self.now = Timestamp(at(0).0.saturating_add(*millis)),
        }
        None
    }

    fn probes(&self) -> usize {
        self.under_way.iter().filter(|pass| pass.probe && pass.epoch == self.breaker.epoch()).count()
    }
}

proptest! {
    #[test]
    fn never_more_probes_than_are_to_be_and_nothing_while_it_is_open(
        events in proptest::collection::vec(event(), 0..400),
    ) {
        let mut play = Play::new();
        for event in &events {
            let answer = play.step(event);
            prop_assert!(play.probes() <= 3);
            let of_now = |pass: &Pass| !pass.probe || pass.epoch == play.breaker.epoch();
            prop_assert!(play.under_way.iter().all(of_now), "no probe outlives its phase");
            match (play.breaker.state(), answer) {
                (State::Open { until }, answer) => {
                    prop_assert!(!matches!(answer, Some(Answer::Pass(_) | Answer::AfterAProbe)));
                    if answer.is_some() {
                        prop_assert!(until > play.now && until <= play.now.after(plan().open_for));
                    }
                }
                (State::HalfOpen, Some(Answer::Pass(pass))) => prop_assert!(pass.probe),
                (State::Closed, Some(answer)) => {
                    prop_assert_eq!(answer, Answer::Pass(Pass { epoch: play.breaker.epoch(), probe: false }));
                }
                _ => {}
            }
        }
    }

    #[test]
    fn something_gets_through_in_the_end_whatever_came_before(
        events in proptest::collection::vec(event(), 0..400), jump in -100_000..100_000i64, fails: bool,
    ) {
        let mut play = Play::new();
        for event in &events {
            play.step(event);
        }
        for pass in std::mem::take(&mut play.under_way) {
            match fails {
                true => play.breaker.fail(pass, play.now),
                false => play.breaker.succeed(pass, 1, play.now),
            }
        }
        play.step(&Event::Jump(jump));
        // Whoever waits has asked before, and asks again when it was told to.
        if let Answer::NotBefore(then) = play.breaker.ask(play.now) {
            prop_assert!(then <= play.now.after(plan().open_for));
            prop_assert!(matches!(play.breaker.ask(then), Answer::Pass(_)));
        }
    }

    #[test]
    fn fewer_calls_than_the_minimum_never_open_it(
        calls in proptest::collection::vec((any::<bool>(), 0..30_000i64), 0..100),
    ) {
        let mut breaker = Breaker::new(plan());
        let (mut now, mut times) = (at(0), vec![]);
        for (fails, millis) in calls {
            now = Timestamp(now.0 + millis);
            times.push(now);
            if times.iter().filter(|time| now.since(**time) < plan().window).count() >= 10 {
                break;
            }
            call(&mut breaker, fails, now);
            prop_assert_eq!(breaker.state(), State::Closed);
        }
    }

    #[test]
    fn successes_never_open_it(calls in proptest::collection::vec((1..100u64, -5_000..30_000i64), 0..100)) {
        let mut breaker = Breaker::new(plan());
        let mut now = at(0);
        for (count, millis) in calls {
            now = Timestamp(now.0 + millis);
            let pass = pass(&mut breaker, now);
            breaker.succeed(pass, count, now);
            prop_assert_eq!(breaker.state(), State::Closed);
        }
    }

    #[test]
    fn a_rate_of_failures_below_the_limit_never_opens_it(millis in 0..5_000i64, rounds in 0..300) {
        let mut breaker = Breaker::new(plan());
        let mut now = at(0);
        for round in 0..rounds {
            call(&mut breaker, round % 3 == 2, now);
            now = Timestamp(now.0 + millis);
            prop_assert_eq!(breaker.state(), State::Closed);
        }
    }
}
