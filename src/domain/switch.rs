//! Which of several settings of one switch holds: the newest.
//!
//! A switch that many processes share has no one place where it is kept. Each keeps the newest setting that it knows of,
//! so it does not matter in which order settings reach it, how often, or by which way.

use std::time::Duration;

use super::time::Timestamp;

/// How far the clocks of two machines may be apart. It bounds how long somebody else's setting could claim to be the newest.
const MAX_AHEAD: Duration = Duration::from_secs(60);

/// A setting of a switch, and when it was made.
///
/// The greater of two holds: the newer one, and of two that were made at the same time the one that turns it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Setting {
    /// When it was made, by the clock of the process where it was made.
    pub at: Timestamp,
    /// Whether it turns the switch on.
    pub enabled: bool,
}

impl Setting {
    /// What holds before anybody has set anything. Every setting that was made is newer.
    pub const UNSET: Self = Self { at: Timestamp(0), enabled: false };

    /// The setting that is made now, where this one holds. It is newer than this one even if the clock says otherwise:
    /// this one may come from a machine whose clock is ahead, and whoever sets the switch knows what they want.
    pub fn followed_by(self, enabled: bool, now: Timestamp) -> Self {
        Self { at: now.max(self.at.after(Duration::from_millis(1))), enabled }
    }

    /// Whether it can have been made already, by any clock that is roughly right.
    pub fn is_credible(self, now: Timestamp) -> bool {
        self.at <= now.after(MAX_AHEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings() -> impl Strategy<Value = Vec<Setting>> {
        let setting = (1i64..20, any::<bool>()).prop_map(|(at, enabled)| Setting { at: Timestamp(at), enabled });
        proptest::collection::vec(setting, 1..20)
    }

    fn held(settings: &[Setting]) -> Setting {
        settings.iter().fold(Setting::UNSET, |held, setting| held.max(*setting))
    }

    #[test]
    fn a_setting_from_a_minute_ahead_is_credible_and_one_from_further_is_not() {
        let now = Timestamp(1_000_000);
        for (ahead, credible) in [(-1_000_000, true), (0, true), (60_000, true), (60_001, false)] {
            assert_eq!(Setting { at: Timestamp(now.0 + ahead), enabled: true }.is_credible(now), credible, "{ahead}");
        }
        assert!(!Setting { at: Timestamp(i64::MAX), enabled: true }.is_credible(now));
    }

    proptest! {
        #[test]
        fn all_hold_the_same_in_whatever_order_and_however_often_they_learn_of_it(
            (settings, shuffled) in settings().prop_flat_map(|s| (Just(s.clone()), Just(s).prop_shuffle())),
        ) {
            let repeated = [&*shuffled, &*shuffled].concat();
            prop_assert_eq!(held(&settings), held(&repeated));
        }

        #[test]
        fn the_newest_holds_and_of_two_of_one_time_the_one_that_is_on(settings in settings()) {
            let held = held(&settings);
            prop_assert!(settings.iter().all(|setting| setting.at <= held.at));
            let rivals = settings.iter().filter(|setting| setting.at == held.at);
            prop_assert_eq!(held.enabled, rivals.clone().any(|setting| setting.enabled));
        }

        #[test]
        fn what_is_set_here_holds_here_whatever_the_clocks_say(at in 0i64..2_000, now in 0i64..2_000, enabled: bool) {
            let before = Setting { at: Timestamp(at), enabled: !enabled };
            let after = before.followed_by(enabled, Timestamp(now));
            prop_assert!(after > before && after.at >= Timestamp(now));
            prop_assert_eq!(after.enabled, enabled);
        }
    }
}
