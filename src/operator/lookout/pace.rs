//! How often a status is written.

use std::time::Duration;

use tokio::time::Instant;

/// The time between two writes on average, and between two in which nobody would notice a difference.
const INTERVAL: Duration = Duration::from_secs(3);
const QUIET_INTERVAL: Duration = Duration::from_secs(30);

/// When a status may be written again. One write may come early: a look that saw a record on its way in two topics is put
/// right by the next.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    written: Option<Instant>,
    /// Up to when what was written is enough, at one write an interval.
    paid_until: Instant,
}

impl Pace {
    /// That of a status that was not written yet.
    pub fn new(now: Instant) -> Self {
        Self { written: None, paid_until: now }
    }

    /// Whether it may be written now.
    pub fn allows(&self, is_noticeable: bool, now: Instant) -> bool {
        match is_noticeable {
            true => self.paid_until <= now + INTERVAL,
            false => self.written.is_none_or(|written| now - written >= QUIET_INTERVAL),
        }
    }

    /// Takes note of a write.
    pub fn wrote(&mut self, now: Instant) {
        self.written = Some(now);
        self.paid_until = self.paid_until.max(now) + INTERVAL;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When something is written in a minute, in seconds, where there is something to write at every look.
    fn writes(is_noticeable: bool) -> Vec<u64> {
        let began = Instant::now();
        let mut pace = Pace::new(began);
        let mut is_written = |second: &u64| {
            let now = began + Duration::from_secs(*second);
            let allowed = pace.allows(is_noticeable, now);
            if allowed {
                pace.wrote(now);
            }
            allowed
        };
        (0..60).step_by(2).filter(|second| is_written(second)).collect()
    }

    #[test]
    fn a_wrong_look_is_put_right_by_the_next_and_a_minute_has_no_more_than_its_twenty_writes() {
        let writes = writes(true);
        assert_eq!(writes[..2], [0, 2]);
        assert!((20..=21).contains(&writes.len()), "{writes:?}");
    }

    #[test]
    fn what_nobody_would_notice_is_written_twice_a_minute() {
        assert_eq!(writes(false), [0, 30]);
    }
}
