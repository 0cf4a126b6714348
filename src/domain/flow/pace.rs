//! When the next call may start, where so many a second are the limit.
//!
//! Calls are spaced evenly, and what could not start in time is made up for, up to a tenth of a second: the rule known as
//! GCRA, a token bucket that keeps a single number. Times are counted in units of which a second has exactly
//! `rate × 10⁹`, so that no rate is rounded and nothing drifts.

use std::time::Duration;

/// The units between two calls, whatever the rate.
const SPACING: u128 = 1_000_000_000;

/// How far a call may be ahead of its even place, in nanoseconds. A timer that wakes late costs nothing within this.
const SLACK: u128 = 100_000_000;

/// Paces calls to so many a second.
///
/// In any `t` seconds it starts at most `rate × t + 1 + rate / 10` calls.
#[derive(Debug)]
pub struct Pace {
    rate: u128,
    /// When the next call would start if all were spaced evenly. It lies ahead by what was started in advance.
    next: u128,
}

impl Pace {
    /// So many calls a second, at least 1.
    pub fn new(rate: u32) -> Self {
        Self { rate: rate.max(1).into(), next: 0 }
    }

    /// The earliest start of the next call. Times are counted from any one instant.
    pub fn earliest(&mut self, now: Duration) -> Duration {
        // Calls cannot have brought it further ahead than this: if it is, the clock went back.
        self.next = self.next.min(self.units(now) + self.rate * SLACK + SPACING);
        let earliest = self.next.saturating_sub(self.rate * SLACK).div_ceil(self.rate);
        now.max(Duration::from_nanos(u64::try_from(earliest).unwrap_or(u64::MAX)))
    }

    /// Starts a call, if one may start now.
    pub fn start(&mut self, now: Duration) -> bool {
        let may = self.earliest(now) <= now;
        if may {
            self.next = self.next.max(self.units(now)) + SPACING;
        }
        may
    }

    fn units(&self, time: Duration) -> u128 {
        time.as_nanos() * self.rate
    }
}

/// How many of the calls that a stage may have under way one of its partitions may have: half of them while others have
/// something to do, and never all, or an endpoint that hangs for one partition would hold up the others. `partitions`: how
/// many there are.
pub fn share_of_calls(max_in_flight: usize, partitions: usize, others_are_busy: bool) -> usize {
    match (partitions, others_are_busy) {
        (0 | 1, _) => max_in_flight,
        (_, true) => max_in_flight.div_ceil(2),
        (_, false) => (max_in_flight - max_in_flight.div_ceil(8)).max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_never_has_all_calls_and_half_of_them_while_others_have_something_to_do() {
        assert_eq!(share_of_calls(16, 1, false), 16, "it is the only one");
        assert_eq!((share_of_calls(16, 6, false), share_of_calls(16, 6, true)), (14, 8));
        assert_eq!((share_of_calls(2, 2, false), share_of_calls(2, 2, true)), (1, 1));
        assert_eq!((share_of_calls(1, 2, false), share_of_calls(1, 2, true)), (1, 1), "there is only one");
    }
    use proptest::prelude::*;

    /// Starts calls as fast as may be, and returns when each started.
    fn starts(pace: &mut Pace, calls: usize, mut now: Duration) -> Vec<Duration> {
        let start = |_| {
            now = pace.earliest(now);
            assert!(pace.start(now));
            now
        };
        (0..calls).map(start).collect()
    }

    #[test]
    fn one_a_second_is_one_a_second() {
        let starts = starts(&mut Pace::new(1), 4, Duration::from_secs(7));
        assert_eq!(starts, [7_000, 7_900, 8_900, 9_900].map(Duration::from_millis));
    }

    #[test]
    fn a_rate_that_no_clock_divides_evenly_does_not_drift() {
        let starts = starts(&mut Pace::new(7), 70_001, Duration::from_secs(1));
        assert_eq!(starts[70_000], Duration::from_millis(10_000_900));
    }

    #[test]
    fn a_start_that_is_late_by_less_than_a_tenth_of_a_second_is_made_up_for() {
        let mut pace = Pace::new(10);
        let late = |n: u64| Duration::from_millis(1_000 + n * 100 + n % 3 * 40);
        assert!((0..1_000).all(|n| pace.start(late(n))));
    }

    #[test]
    fn after_a_lull_a_few_may_start_at_once_and_no_more() {
        let mut pace = Pace::new(100);
        let now = Duration::from_secs(60);
        assert_eq!(std::iter::from_fn(|| pace.start(now).then_some(())).count(), 11);
        assert_eq!(pace.earliest(now), now + Duration::from_millis(10));
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_sees_more_than_the_rate_and_a_burst(
            rate in 1u32..200, waits in proptest::collection::vec(0u64..400_000_000, 1..40),
        ) {
            let mut pace = Pace::new(rate);
            let (mut now, mut starts) = (Duration::from_secs(1), vec![]);
            for wait in waits {
                now += Duration::from_nanos(wait);
                while pace.start(now) {
                    starts.push(now);
                }
            }
            let burst = 1.0 + f64::from(rate) / 10.0;
            for (first, from) in starts.iter().enumerate() {
                for (last, to) in starts.iter().enumerate().skip(first) {
                    let (calls, seconds) = (last - first + 1, (*to - *from).as_secs_f64());
                    prop_assert!(calls as f64 <= f64::from(rate) * seconds + burst + 1e-6, "{calls} in {seconds} s");
                }
            }
        }

        #[test]
        fn nobody_waits_longer_than_for_one_call_wherever_the_clock_goes(
            rate in 1u32..2_000, times in proptest::collection::vec(0u64..10_000_000_000, 1..200),
        ) {
            let mut pace = Pace::new(rate);
            let one = Duration::from_nanos(1_000_000_000u64.div_ceil(rate.into()) + 1);
            for now in times.into_iter().map(Duration::from_nanos) {
                let earliest = pace.earliest(now);
                prop_assert!(earliest <= now + one);
                prop_assert!(pace.start(earliest));
            }
        }
    }
}
