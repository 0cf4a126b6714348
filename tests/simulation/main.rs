//! Lives of a stage that never happened: what decides (delay queue, lanes, offsets, settlement) runs in virtual time, in one thread,
//! against a model of Kafka and of a processor. Everything is drawn from a seed, and trouble is more often in one place than
//! everywhere: one topic refuses, one partition has no leader, one record is refused, one key hangs.
//!
//! After each step it is checked that nothing is lost, nothing is written twice, nothing begins early, memory is bounded and,
//! while one part is in trouble, that the others go on. A life in which something is found is made smaller as long as the same
//! is found, and printed: it then becomes a test here.
//!
//! - `LAZARET_SIMULATE_SECONDS` (20): how long to go on; `make simulate` takes an hour.
//! - `LAZARET_SIMULATE_SEED` (drawn): the seed of the first life; those that follow count up.

mod kafka;
mod life;
mod worker;

use std::time::{Duration, Instant};

use life::{Life, Outcome};

/// Lives that found something once, made small. Each stays.
const FOUND: &[Life] = &[];

#[test]
fn no_life_breaks_a_promise() {
    let text = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let seconds = text("LAZARET_SIMULATE_SECONDS").map_or(20, |text| text.parse().expect("a number of seconds"));
    let first: u64 = text("LAZARET_SIMULATE_SEED").map_or_else(rand::random, |text| text.parse().expect("a number"));
    let (began, mut lives, mut sum) = (Instant::now(), 0u64, Outcome::default());
    while began.elapsed() < Duration::from_secs(seconds) {
        let life = Life::drawn(first.wrapping_add(lives));
        match life.live() {
            Ok(outcome) => sum.add(&outcome),
            Err(what) => {
                panic!("{what}\nin {life:?}\nthe smallest life with the same: {:?}", smallest(life.clone(), &what))
            }
        }
        lives += 1;
    }
    println!("{lives} lives from seed {first}: {sum}");
    assert!(sum.routed > 0 && sum.refused > 0 && sum.crashes > 0 && sum.hand_overs > 0, "they are not lives: {sum}");
}

#[test]
fn what_was_found_once_is_found_no_more() {
    for life in FOUND {
        life.live().unwrap_or_else(|what| panic!("{what} in {life:?}"));
    }
}

/// The smallest life in which the same is found.
fn smallest(mut life: Life, what: &str) -> Life {
    let kind = |what: &str| what.split(':').next().map(str::to_owned);
    while let Some(less) = life.smaller().into_iter().find(|less| less.live().is_err_and(|w| kind(&w) == kind(what))) {
        life = less;
    }
    life
}
