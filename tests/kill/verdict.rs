//! What must hold after the last kill: a pure function over what was seen, so that it can be put to the test itself.
//!
//! Records are told apart by their number, which is their value, and what becomes of each follows from it. A record may
//! be processed more than once (a kill between an answer and the next commit), so an attempt that is seen twice is no
//! fault; [`Sums`] counts them.

use std::collections::HashMap;

/// The attempts that the policy grants, the first included.
pub const MAX_ATTEMPTS: u32 = 3;

/// The delay after the first failed attempt and after the second, in milliseconds.
pub const DELAYS: [i64; MAX_ATTEMPTS as usize - 1] = [100, 200];

/// A partition of the main topic and an offset in it.
pub type Place = (i32, i64);

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Good,
    /// The first attempt fails.
    FailsOnce,
    /// Every attempt fails, as if another one could help.
    Hopeless,
    /// Every attempt fails for good.
    Invalid,
}

impl Fate {
    pub fn of(number: usize) -> Self {
        match number % 100 {
            0 if number.is_multiple_of(200) => Self::Hopeless,
            0 => Self::Invalid,
            1..=5 => Self::FailsOnce,
            _ => Self::Good,
        }
    }

    /// The status that answers an attempt.
    pub fn answer(self, attempt: u32) -> u16 {
        match self {
            Self::FailsOnce if attempt == 1 => 503,
            Self::Good | Self::FailsOnce => 200,
            Self::Hopeless => 503,
            Self::Invalid => 422,
        }
    }

    /// The attempts that it takes when none is made twice.
    pub fn attempts(self) -> u32 {
        match self {
            Self::Good | Self::Invalid => 1,
            Self::FailsOnce => 2,
            Self::Hopeless => MAX_ATTEMPTS,
        }
    }

    pub fn is_dead_letter(self) -> bool {
        matches!(self, Self::Hopeless | Self::Invalid)
    }
}

/// A call, as the endpoint saw it. Times are epoch milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub number: usize,
    /// What its idempotency key says.
    pub place: Place,
    pub attempt: u32,
    pub began: i64,
    /// When and with which status; `None` when the caller was gone before.
    pub answered: Option<(i64, u16)>,
}

/// A record in the retry topic.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    pub number: usize,
    pub place: Place,
    pub attempts: u32,
    pub due: i64,
}

/// A record in the dead letter topic.
#[derive(Clone, Copy, Debug)]
pub struct Letter {
    pub number: usize,
    pub place: Place,
    pub attempts: u32,
}

/// How far a group came in a partition that holds records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    pub topic: String,
    pub partition: i32,
    /// The offset after the last record.
    pub end: i64,
    pub committed: Option<i64>,
}

impl Reach {
    pub fn is_at_end(&self) -> bool {
        self.committed.is_some_and(|committed| committed >= self.end)
    }
}

/// All that was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Where each record was written, by its number.
    pub written: Vec<Place>,
    pub calls: Vec<Call>,
    pub retries: Vec<Retry>,
    pub letters: Vec<Letter>,
    pub reach: Vec<Reach>,
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Neither processed nor in the dead letter topic.
    Lost { number: usize },
    /// It would have been processed in the end.
    WronglyDeadLettered { number: usize },
    /// It was given up before its attempts were made.
    GivenUpTooSoon { number: usize, attempts: u32 },
    /// More attempts than the policy grants, or a retry record that claims them.
    TooManyAttempts { number: usize, attempts: u32 },
    /// A retry that no record in the retry topic asked for.
    Unasked { number: usize, attempt: u32 },
    /// A retry before it was due.
    Early { number: usize, attempt: u32, millis: i64 },
    /// A retry that was to be made before its delay had passed.
    DueTooSoon { number: usize, attempts: u32, millis: i64 },
    /// The place that goes with a record is not where it was written.
    WrongPlace { number: usize, place: Place },
    /// A clean stop left records uncommitted.
    Uncommitted(Reach),
}

/// Every promise that was not kept.
///
/// An attempt that was made twice may have led to two retry records. A retry is held against the one that is due first,
/// since nothing tells which of them it came from.
pub fn verify(seen: &Seen) -> Vec<Fault> {
    let mut faults = vec![];
    check_places(seen, &mut faults);
    check_ends(seen, &mut faults);
    check_attempts(seen, &mut faults);
    check_times(seen, &mut faults);
    faults.extend(seen.reach.iter().filter(|reach| !reach.is_at_end()).cloned().map(Fault::Uncommitted));
    faults
}

fn check_places(seen: &Seen, faults: &mut Vec<Fault>) {
    let calls = seen.calls.iter().map(|call| (call.number, call.place));
    let retries = seen.retries.iter().map(|retry| (retry.number, retry.place));
    let letters = seen.letters.iter().map(|letter| (letter.number, letter.place));
    let wrong = |(number, place): &(usize, Place)| seen.written.get(*number) != Some(place);
    let all = calls.chain(retries).chain(letters);
    faults.extend(all.filter(wrong).map(|(number, place)| Fault::WrongPlace { number, place }));
}

fn check_ends(seen: &Seen, faults: &mut Vec<Fault>) {
    let settled = settled(seen.written.len(), &seen.calls, &seen.letters);
    let lost = settled.iter().enumerate().filter(|(_, settled)| !**settled);
    faults.extend(lost.map(|(number, _)| Fault::Lost { number }));
    for &Letter { number, attempts, .. } in &seen.letters {
        match Fate::of(number) {
            fate if !fate.is_dead_letter() => faults.push(Fault::WronglyDeadLettered { number }),
            fate if attempts < fate.attempts() => faults.push(Fault::GivenUpTooSoon { number, attempts }),
            _ => {}
        }
    }
}

/// Whether each record was processed or is a dead letter, by its number.
pub fn settled(records: usize, calls: &[Call], letters: &[Letter]) -> Vec<bool> {
    let mut settled = vec![false; records];
    let done = calls.iter().filter(|call| call.answered.is_some_and(|(_, status)| status == 200));
    for number in done.map(|call| call.number).chain(letters.iter().map(|letter| letter.number)) {
        settled.get_mut(number).into_iter().for_each(|settled| *settled = true);
    }
    settled
}

fn check_attempts(seen: &Seen, faults: &mut Vec<Fault>) {
    let calls = seen.calls.iter().map(|call| (call.number, call.attempt, MAX_ATTEMPTS));
    // The last attempt leads to no retry record.
    let retries = seen.retries.iter().map(|retry| (retry.number, retry.attempts, MAX_ATTEMPTS - 1));
    let letters = seen.letters.iter().map(|letter| (letter.number, letter.attempts, MAX_ATTEMPTS));
    for (number, attempts, most) in calls.chain(retries).chain(letters) {
        if !(1..=most).contains(&attempts) {
            faults.push(Fault::TooManyAttempts { number, attempts });
        }
    }
}

fn check_times(seen: &Seen, faults: &mut Vec<Fault>) {
    let (mut due, mut answered) = (HashMap::new(), HashMap::new());
    for retry in &seen.retries {
        let first = due.entry((retry.number, retry.attempts)).or_insert(retry.due);
        *first = retry.due.min(*first);
    }
    for call in &seen.calls {
        if let Some((at, _)) = call.answered {
            let first = answered.entry((call.number, call.attempt)).or_insert(at);
            *first = at.min(*first);
        }
    }
    for &Call { number, attempt, began, .. } in seen.calls.iter().filter(|call| call.attempt > 1) {
        match due.get(&(number, attempt - 1)) {
            None => faults.push(Fault::Unasked { number, attempt }),
            Some(due) if began < *due => faults.push(Fault::Early { number, attempt, millis: due - began }),
            Some(_) => {}
        }
    }
    for &Retry { number, attempts, due, .. } in &seen.retries {
        let delay = attempts.checked_sub(1).and_then(|index| DELAYS.get(index as usize));
        // Without an answer the attempt failed on its way to the endpoint.
        let Some((delay, answered)) = delay.zip(answered.get(&(number, attempts))) else { continue };
        if due - answered < *delay {
            faults.push(Fault::DueTooSoon { number, attempts, millis: answered + delay - due });
        }
    }
}

/// What was done in all, and what of it more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sums {
    pub calls: usize,
    /// Calls whose caller was killed before the answer.
    pub cut_off: usize,
    /// Calls, retry records and dead letters beyond those that a run without kills needs.
    pub repeated_calls: usize,
    pub repeated_retries: usize,
    pub dead_letters: usize,
    pub repeated_dead_letters: usize,
}

impl Sums {
    pub fn of(seen: &Seen) -> Self {
        let fates = || (0..seen.written.len()).map(Fate::of);
        let attempts: usize = fates().map(|fate| fate.attempts() as usize).sum();
        // Each attempt but a record's last one goes through the retry topic.
        let retries = attempts - seen.written.len();
        let letters = fates().filter(|fate| fate.is_dead_letter()).count();
        Self {
            calls: seen.calls.len(),
            cut_off: seen.calls.iter().filter(|call| call.answered.is_none()).count(),
            repeated_calls: seen.calls.len().saturating_sub(attempts),
            repeated_retries: seen.retries.len().saturating_sub(retries),
            dead_letters: seen.letters.len(),
            repeated_dead_letters: seen.letters.len().saturating_sub(letters),
        }
    }
}

mod tests {
    use super::*;

    const RECORDS: usize = 201;

    fn place(number: usize) -> Place {
        (0, i64::try_from(number).unwrap())
    }

    /// A run in which nothing was killed.
    fn faultless() -> Seen {
        let mut seen = Seen { written: (0..RECORDS).map(place).collect(), ..Seen::default() };
        for number in 0..RECORDS {
            let (fate, place) = (Fate::of(number), place(number));
            let mut now = 1_000;
            for attempt in 1..=fate.attempts() {
                let answered = Some((now + 5, fate.answer(attempt)));
                seen.calls.push(Call { number, place, attempt, began: now, answered });
                if attempt < fate.attempts() {
                    now += 5 + DELAYS[attempt as usize - 1];
                    seen.retries.push(Retry { number, place, attempts: attempt, due: now });
                }
            }
            if fate.is_dead_letter() {
                seen.letters.push(Letter { number, place, attempts: fate.attempts() });
            }
        }
        seen.reach = vec![Reach { topic: "orders".into(), partition: 0, end: 201, committed: Some(201) }];
        seen
    }

    fn faults_after(change: impl FnOnce(&mut Seen)) -> Vec<Fault> {
        let mut seen = faultless();
        change(&mut seen);
        verify(&seen)
    }

    fn call(seen: &mut Seen, number: usize, attempt: u32) -> &mut Call {
        seen.calls.iter_mut().find(|call| (call.number, call.attempt) == (number, attempt)).unwrap()
    }

    #[test]
    fn a_run_without_kills_has_no_fault_and_nothing_twice() {
        let seen = faultless();
        assert_eq!(verify(&seen), []);
        let sums = Sums::of(&seen);
        assert_eq!(
            (sums.cut_off, sums.repeated_calls, sums.repeated_retries, sums.repeated_dead_letters),
            (0, 0, 0, 0)
        );
        assert_eq!(sums.dead_letters, 3);
    }

    #[test]
    fn what_was_done_twice_is_counted_and_no_fault() {
        let mut seen = faultless();
        let twice = *call(&mut seen, 1, 1);
        seen.calls.push(Call { began: 9_000, answered: None, ..twice });
        seen.retries.push(Retry { due: 9_500, ..seen.retries[0] });
        seen.letters.push(seen.letters[0]);
        assert_eq!(verify(&seen), []);
        let sums = Sums::of(&seen);
        assert_eq!(
            (sums.cut_off, sums.repeated_calls, sums.repeated_retries, sums.repeated_dead_letters),
            (1, 1, 1, 1)
        );
    }

    #[test]
    fn a_lost_record_is_found_whether_it_was_good_or_a_dead_letter() {
        assert_eq!(faults_after(|seen| seen.calls.retain(|c| c.number != 42)), [Fault::Lost { number: 42 }]);
        assert_eq!(faults_after(|seen| seen.letters.retain(|l| l.number != 100)), [Fault::Lost { number: 100 }]);
        assert_eq!(
            faults_after(|seen| seen.calls.retain(|c| c.attempt == 1 || c.number != 3)),
            [Fault::Lost { number: 3 }]
        );
        assert_eq!(faults_after(|seen| call(seen, 42, 1).answered = None), [Fault::Lost { number: 42 }]);
    }

    #[test]
    fn a_dead_letter_that_should_not_be_one_yet_or_at_all_is_found() {
        let wrongly = |seen: &mut Seen| seen.letters.push(Letter { number: 42, place: place(42), attempts: 1 });
        assert_eq!(faults_after(wrongly), [Fault::WronglyDeadLettered { number: 42 }]);
        let too_soon = |seen: &mut Seen| seen.letters[0].attempts = 2;
        assert_eq!(faults_after(too_soon), [Fault::GivenUpTooSoon { number: 0, attempts: 2 }]);
    }

    #[test]
    fn an_attempt_too_many_is_found_in_a_call_and_in_a_retry_record() {
        let too_many = [Fault::TooManyAttempts { number: 0, attempts: 4 }];
        let asked = |seen: &mut Seen| {
            let last = *call(seen, 0, 3);
            seen.calls.push(Call { attempt: 4, began: 9_000, ..last });
            seen.retries.push(Retry { number: 0, place: place(0), attempts: 3, due: 8_000 });
        };
        let faults = faults_after(asked);
        assert_eq!(faults, [too_many[0].clone(), Fault::TooManyAttempts { number: 0, attempts: 3 }]);
        assert_eq!(faults_after(|seen| seen.letters[0].attempts = 4), too_many);
    }

    #[test]
    fn an_early_retry_is_found_and_so_is_one_that_nobody_asked_for() {
        let early = |seen: &mut Seen| call(seen, 3, 2).began -= 7;
        assert_eq!(faults_after(early), [Fault::Early { number: 3, attempt: 2, millis: 7 }]);
        let short = |seen: &mut Seen| seen.retries.iter_mut().find(|retry| retry.number == 3).unwrap().due -= 9;
        assert_eq!(faults_after(short), [Fault::DueTooSoon { number: 3, attempts: 1, millis: 9 }]);
        let unasked = |seen: &mut Seen| seen.retries.retain(|retry| retry.number != 3);
        assert_eq!(faults_after(unasked), [Fault::Unasked { number: 3, attempt: 2 }]);
    }

    #[test]
    fn a_record_that_goes_under_another_ones_name_is_found() {
        let renamed = |seen: &mut Seen| call(seen, 42, 1).place = place(43);
        assert_eq!(faults_after(renamed), [Fault::WrongPlace { number: 42, place: place(43) }]);
    }

    #[test]
    fn an_offset_that_a_clean_stop_did_not_commit_is_found() {
        for committed in [None, Some(200)] {
            let faults = faults_after(|seen| seen.reach[0].committed = committed);
            assert!(matches!(&faults[..], [Fault::Uncommitted(reach)] if reach.committed == committed));
        }
    }
}
