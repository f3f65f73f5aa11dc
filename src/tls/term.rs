//! How long something is good for, and how near its end is.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::clock::Timestamp;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A time that ends: of a certificate, or of a revocation list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Term {
    pub what: What,
    /// The file that it is in.
    pub file: Arc<str>,
    pub begins: Timestamp,
    /// The last moment.
    pub ends: Timestamp,
    /// Nobody will miss it: another certificate in date covers what it covers.
    pub is_succeeded: bool,
}

/// What a [`Term`] is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// What clients are served.
    Certificate,
    /// What clients' certificates are verified with.
    ClientCa,
    /// What a client CA took back. Lists follow each other by the day or the hour, so none is near
    /// its end before it has ended.
    RevocationList,
}

/// How near the end is, from far to past it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Good,
    /// Two weeks at most, and at most a sixth of the whole term: whatever renews certificates by
    /// itself does so with a third of it left, so it has failed by then.
    Soon,
    /// One day at most, and at most a twenty-fourth.
    Last,
    Over,
}

impl Term {
    pub fn stage(&self, now: Timestamp) -> Stage {
        let mut stages = self.beginnings().into_iter().rev();
        stages.find(|(_, at)| *at <= now).map_or(Stage::Good, |(stage, _)| stage)
    }

    /// When the next stage after this moment begins.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        self.beginnings().into_iter().map(|(_, at)| at).find(|at| *at > now)
    }

    /// In order.
    fn beginnings(&self) -> [(Stage, Timestamp); 3] {
        let over = self.ends.plus(Duration::from_millis(1));
        let (soon, last) = match self.what {
            What::RevocationList => (over, over),
            What::Certificate | What::ClientCa => {
                let whole = self.ends.since(self.begins);
                let before = |most: Duration, part| self.ends.minus(most.min(whole / part));
                (before(14 * DAY, 6), before(DAY, 24))
            }
        };
        [(Stage::Soon, soon), (Stage::Last, last), (Stage::Over, over)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(60 * 60);

    fn term(what: What, whole: Duration) -> Term {
        let begins = Timestamp::from_seconds(1_000_000);
        let (file, ends) = ("a.pem".into(), begins.plus(whole));
        Term { what, file, begins, ends, is_succeeded: false }
    }

    /// How long before the end each stage begins; every other moment is of the stage before.
    fn begin(term: &Term, stages: &[(Stage, Duration)]) {
        let (mut before, mut at) = (Stage::Good, term.begins);
        for (stage, left) in stages {
            let next = term.next(at).unwrap();
            assert_eq!(next, term.ends.minus(*left), "{stage:?}");
            assert_eq!(term.stage(next.minus(Duration::from_millis(1))), before);
            assert_eq!(term.stage(next), *stage);
            (before, at) = (*stage, next);
        }
        assert_eq!(term.stage(term.ends), before, "the last moment belongs to it");
        let over = term.ends.plus(Duration::from_millis(1));
        assert_eq!((term.next(at), term.stage(over)), (Some(over), Stage::Over));
        assert_eq!(term.next(over), None);
    }

    #[test]
    fn the_end_of_a_certificate_is_near_two_weeks_and_a_day_before_it() {
        let year = term(What::Certificate, 365 * DAY);
        begin(&year, &[(Stage::Soon, 14 * DAY), (Stage::Last, DAY)]);
    }

    #[test]
    fn one_that_lasts_for_days_or_hours_is_not_near_its_end_when_it_is_new() {
        let days = term(What::ClientCa, 6 * DAY);
        begin(&days, &[(Stage::Soon, DAY), (Stage::Last, 6 * HOUR)]);
        let hours = term(What::Certificate, DAY);
        begin(&hours, &[(Stage::Soon, 4 * HOUR), (Stage::Last, HOUR)]);
    }

    #[test]
    fn a_revocation_list_is_good_until_it_is_over() {
        begin(&term(What::RevocationList, 7 * DAY), &[]);
    }
}
