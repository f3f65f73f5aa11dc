//! What is known of one address: whether it is in use, how large its share is, what has failed.
//!
//! Selection reads one byte of it, and a request that went well reads another and counts itself.
//! Everything else happens when something fails or changes, under a lock.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::outlier::{Evidence, Failure, Verdict, ejection_time};
use super::sticky;
use super::tally::Tally;
use crate::config::model::OutlierDetection;

/// In use, with its whole share.
const FULL: u8 = 0;
/// In use, with a share that grows.
const RISING: u8 = 1;
/// Not in use, but for one request at a time when its time is over.
const OUT: u8 = 2;
/// The same, but better than none at all.
const WEAKLY_OUT: u8 = 3;
/// The share that an endpoint begins with.
const FIRST_SHARE: f64 = 0.1;

#[derive(Debug)]
pub(super) struct Vitals {
    condition: AtomicU8,
    /// Whether a request has failed since the last that went well.
    failed: AtomicBool,
    /// While it is out: when the first request may try it. In milliseconds since `epoch`.
    until: AtomicU64,
    /// When the trial of a request without a body no longer keeps the next from beginning, and
    /// the same for one with a body. In milliseconds since `epoch`.
    bare: AtomicU64,
    laden: AtomicU64,
    /// While its share grows: since when. In milliseconds since `epoch`.
    risen: AtomicU64,
    /// How often it was asked for while its share grew.
    turns: AtomicU64,
    epoch: Instant,
    answered: Tally,
    history: Mutex<History>,
}

#[derive(Debug)]
struct History {
    evidence: Evidence,
    verdict: Verdict,
    /// Times that it was taken out without having been well for long in between.
    ejections: u32,
    back: Instant,
}

/// How a request may use an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Normal,
    /// To find out whether it is well again.
    Trial(Payload),
}

/// What a request carries. A body may be as slow as its sender likes, so one that has any says
/// little about an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    None,
    Body,
}

/// For how long one trial keeps the next from beginning, and how long a share grows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    pub(super) trial: Duration,
    pub(super) slow_start: Option<Duration>,
}

impl Vitals {
    pub(super) fn new(workers: usize) -> Self {
        let epoch = Instant::now();
        Self {
            condition: AtomicU8::new(FULL),
            failed: AtomicBool::new(false),
            until: AtomicU64::new(0),
            bare: AtomicU64::new(0),
            laden: AtomicU64::new(0),
            risen: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            epoch,
            answered: Tally::new(workers),
            history: Mutex::new(History {
                evidence: Evidence::default(),
                verdict: Verdict::Well,
                ejections: 0,
                back: epoch,
            }),
        }
    }

    pub(super) fn is_out(&self) -> bool {
        self.condition.load(Ordering::Relaxed) >= OUT
    }

    /// Whether it is out, but not for reasons that would leave requests without any endpoint.
    pub(super) fn is_weakly_out(&self) -> bool {
        self.condition.load(Ordering::Relaxed) == WEAKLY_OUT
    }

    /// Whether a request may use it now. `place` is where the request stands from 0 to 1 when the
    /// share isn't whole; without one, requests take turns.
    pub(super) fn admit(
        &self,
        pace: Pace,
        payload: Payload,
        place: Option<f64>,
    ) -> Option<Admission> {
        match self.condition.load(Ordering::Relaxed) {
            FULL => Some(Admission::Normal),
            RISING => self.within_share(pace, place).then_some(Admission::Normal),
            _ => self.try_out(pace, payload),
        }
    }

    /// The same for an address without an alternative: its share is everything, and on weak
    /// evidence it is used all the same.
    pub(super) fn admit_alone(&self, pace: Pace, payload: Payload) -> Option<Admission> {
        match self.condition.load(Ordering::Relaxed) {
            OUT => self.try_out(pace, payload),
            WEAKLY_OUT => self.try_out(pace, payload).or(Some(Admission::Normal)),
            _ => Some(Admission::Normal),
        }
    }

    #[cold]
    fn within_share(&self, pace: Pace, place: Option<f64>) -> bool {
        let risen = Duration::from_millis(self.risen.load(Ordering::Relaxed));
        let grown = self.epoch.elapsed().saturating_sub(risen);
        let whole = pace.slow_start.unwrap_or_default();
        if grown >= whole {
            // Unless it was taken out meanwhile.
            let _ =
                self.condition.compare_exchange(RISING, FULL, Ordering::Relaxed, Ordering::Relaxed);
            return true;
        }
        let place = place.unwrap_or_else(|| {
            // Multiples of the golden ratio spread evenly, however many there are.
            let turn = self.turns.fetch_add(1, Ordering::Relaxed);
            sticky::fraction(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        });
        place < (grown.as_secs_f64() / whole.as_secs_f64()).max(FIRST_SHARE)
    }

    /// Requests without a body go first, and wait for none that has one.
    #[cold]
    fn try_out(&self, pace: Pace, payload: Payload) -> Option<Admission> {
        let now = self.millis(Instant::now());
        let until = self.until.load(Ordering::Relaxed);
        let (bare, laden) = (self.bare.load(Ordering::Relaxed), self.laden.load(Ordering::Relaxed));
        let (from, held) = match payload {
            Payload::None => (until.max(bare), bare),
            Payload::Body => (until.saturating_add(millis(pace.trial)).max(bare).max(laden), laden),
        };
        if now < from {
            return None;
        }
        let next = now.saturating_add(millis(pace.trial));
        self.holder(payload)
            .compare_exchange(held, next, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
            .then_some(Admission::Trial(payload))
    }

    fn holder(&self, payload: Payload) -> &AtomicU64 {
        match payload {
            Payload::None => &self.bare,
            Payload::Body => &self.laden,
        }
    }

    /// A trial ended without a result: the next may begin.
    pub(super) fn undecided(&self, payload: Payload) {
        self.holder(payload).store(self.millis(Instant::now()), Ordering::Relaxed);
    }

    /// How long until the next trial.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let until = self.until.load(Ordering::Relaxed).max(self.bare.load(Ordering::Relaxed));
        Duration::from_millis(until.saturating_sub(self.millis(now)))
    }

    /// Counts a request that went well. True when something had failed before it.
    pub(super) fn went_well(&self, worker: usize) -> bool {
        self.answered.add(worker);
        self.failed.load(Ordering::Relaxed)
    }

    pub(super) fn answered(&self) -> u64 {
        self.answered.sum()
    }

    /// Takes a failure down and says how it looks now.
    pub(super) fn went_wrong(
        &self,
        rules: &OutlierDetection,
        failure: Failure,
        witness: u64,
        now: Instant,
    ) -> Verdict {
        let mut history = self.history.lock();
        let answered = self.answered.sum();
        history.verdict = history.evidence.add(rules, failure, witness, answered, now);
        self.failed.store(true, Ordering::Relaxed);
        history.verdict
    }

    /// What failed before was not the rule.
    pub(super) fn is_well(&self) {
        let mut history = self.history.lock();
        history.evidence.well();
        history.verdict = Verdict::Well;
        self.failed.store(false, Ordering::Relaxed);
    }

    pub(super) fn verdict(&self) -> Verdict {
        self.history.lock().verdict
    }

    /// Takes it out of use on this evidence, and says for how long.
    pub(super) fn eject(
        &self,
        rules: &OutlierDetection,
        verdict: Verdict,
        now: Instant,
    ) -> Duration {
        let mut history = self.history.lock();
        let was_in = !self.is_out();
        if was_in && now.saturating_duration_since(history.back) >= rules.max_ejection_time {
            history.ejections = 0;
        }
        self.forget(&mut history);
        self.stay_out(&mut history, rules, verdict, now)
    }

    /// A trial failed: it stays out, and this says for how long, unless another trial of the same
    /// turn has seen to that.
    pub(super) fn trial_failed(
        &self,
        rules: &OutlierDetection,
        failure: Failure,
        witness: u64,
        now: Instant,
    ) -> Option<Duration> {
        let mut history = self.history.lock();
        let verdict = history.evidence.add_trial(failure, witness);
        self.failed.store(true, Ordering::Relaxed);
        if self.millis(now) < self.until.load(Ordering::Relaxed) {
            self.take_out(verdict);
            return None;
        }
        Some(self.stay_out(&mut history, rules, verdict, now))
    }

    fn stay_out(
        &self,
        history: &mut History,
        rules: &OutlierDetection,
        verdict: Verdict,
        now: Instant,
    ) -> Duration {
        let time = ejection_time(rules, history.ejections);
        history.ejections = history.ejections.saturating_add(1);
        self.until.store(self.millis(now).saturating_add(millis(time)), Ordering::Relaxed);
        self.take_out(verdict);
        time
    }

    fn take_out(&self, verdict: Verdict) {
        let condition = if verdict == Verdict::Strong { OUT } else { WEAKLY_OUT };
        self.condition.store(condition, Ordering::Relaxed);
    }

    fn forget(&self, history: &mut History) {
        history.evidence.forget();
        history.verdict = Verdict::Well;
        self.failed.store(false, Ordering::Relaxed);
    }

    /// Takes it into use, or, in use as it is, lets its share grow from the beginning.
    pub(super) fn bring_in(&self, pace: Pace, now: Instant) {
        let mut history = self.history.lock();
        if self.is_out() {
            history.back = now;
            self.forget(&mut history);
        }
        self.risen.store(self.millis(now), Ordering::Relaxed);
        let condition = if pace.slow_start.is_some() { RISING } else { FULL };
        self.condition.store(condition, Ordering::Relaxed);
    }

    fn millis(&self, at: Instant) -> u64 {
        millis(at.saturating_duration_since(self.epoch))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PACE: Pace = Pace { trial: SECOND, slow_start: Some(Duration::from_secs(100)) };

    const BARE: Admission = Admission::Trial(Payload::None);

    fn rules() -> OutlierDetection {
        OutlierDetection::default()
    }

    fn admitted(vitals: &Vitals, of: usize) -> usize {
        (0..of).filter(|_| vitals.admit(PACE, Payload::None, None).is_some()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_grows_from_a_tenth_to_the_whole() {
        let vitals = Vitals::new(1);
        assert_eq!(admitted(&vitals, 1000), 1000, "at the start it is whole");
        vitals.bring_in(PACE, Instant::now());
        for (at, share) in [(0, 100), (5, 100), (25, 250), (50, 500), (99, 990), (100, 1000)] {
            advance(SECOND * at - vitals.epoch.elapsed()).await;
            let admitted = admitted(&vitals, 1000);
            assert!(admitted.abs_diff(share) < 10, "{admitted} of 1000 after {at} s");
        }
        assert_eq!(vitals.condition.load(Ordering::Relaxed), FULL);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_with_a_place_are_taken_in_its_order() {
        let vitals = Vitals::new(1);
        vitals.bring_in(PACE, Instant::now());
        advance(SECOND * 30).await;
        assert_eq!(vitals.admit(PACE, Payload::None, Some(0.29)), Some(Admission::Normal));
        assert_eq!(vitals.admit(PACE, Payload::None, Some(0.31)), None);
        assert_eq!(vitals.admit_alone(PACE, Payload::None), Some(Admission::Normal));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_out_is_tried_by_one_request_at_a_time_once_its_time_is_over() {
        let vitals = Vitals::new(1);
        let time = vitals.eject(&rules(), Verdict::Strong, Instant::now());
        assert_eq!(time, SECOND * 5);
        for admit in [
            |v: &Vitals| v.admit(PACE, Payload::None, None),
            |v: &Vitals| v.admit_alone(PACE, Payload::None),
        ] {
            vitals.until.store(vitals.millis(Instant::now()) + 5_000, Ordering::Relaxed);
            advance(SECOND * 5 - Duration::from_millis(1)).await;
            assert_eq!(admit(&vitals), None);
            assert_eq!(vitals.wait(Instant::now()), Duration::from_millis(1));
            advance(Duration::from_millis(1)).await;
            assert_eq!(admit(&vitals), Some(BARE));
            assert_eq!(admit(&vitals), None, "one at a time");
            vitals.undecided(Payload::None);
            assert_eq!(admit(&vitals), Some(BARE), "the first had no result");
            advance(SECOND).await;
            assert_eq!(admit(&vitals), Some(BARE), "a slow one holds nobody up");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drags_on_keeps_no_request_without_one_from_trying() {
        let laden = Some(Admission::Trial(Payload::Body));
        let vitals = Vitals::new(1);
        advance(vitals.eject(&rules(), Verdict::Strong, Instant::now())).await;
        assert_eq!(vitals.admit_alone(PACE, Payload::Body), None, "others first");
        advance(SECOND).await;
        assert_eq!(vitals.admit_alone(PACE, Payload::Body), laden, "there are no others");
        assert_eq!(vitals.admit_alone(PACE, Payload::Body), None);
        assert_eq!(vitals.admit_alone(PACE, Payload::None), Some(BARE), "at the same time");
        assert_eq!(vitals.admit_alone(PACE, Payload::None), None);
        advance(SECOND).await;
        assert_eq!(vitals.admit_alone(PACE, Payload::None), Some(BARE), "and again");
        assert_eq!(vitals.admit_alone(PACE, Payload::Body), None);
        let failed = |failure| vitals.trial_failed(&rules(), failure, 1, Instant::now());
        assert_eq!(failed(Failure::Unreachable), Some(SECOND * 10));
        vitals.undecided(Payload::Body);
        assert_eq!(failed(Failure::Unreachable), None, "both were of one turn");
        assert_eq!(vitals.admit_alone(PACE, Payload::None), None, "which has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_weakly_out_is_used_where_it_is_alone() {
        let vitals = Vitals::new(1);
        let time = vitals.eject(&rules(), Verdict::Weak, Instant::now());
        for payload in [Payload::None, Payload::Body] {
            assert_eq!(vitals.admit(PACE, payload, None), None);
            assert_eq!(vitals.admit_alone(PACE, payload), Some(Admission::Normal));
        }
        advance(time).await;
        assert_eq!(vitals.admit_alone(PACE, Payload::Body), Some(Admission::Normal));
        assert_eq!(vitals.admit_alone(PACE, Payload::None), Some(BARE));
        assert_eq!(vitals.admit_alone(PACE, Payload::None), Some(Admission::Normal));
    }

    #[tokio::test(start_paused = true)]
    async fn ejections_add_up_until_it_was_well_for_long() {
        let vitals = Vitals::new(1);
        let no_slow_start = Pace { slow_start: None, ..PACE };
        let mut times = Vec::new();
        for well_for in [0, 0, 29, 30, 0] {
            times.push(vitals.eject(&rules(), Verdict::Strong, Instant::now()).as_secs());
            vitals.bring_in(no_slow_start, Instant::now());
            assert_eq!(vitals.admit(PACE, Payload::None, None), Some(Admission::Normal));
            advance(SECOND * well_for).await;
        }
        assert_eq!(times, [5, 10, 20, 30, 5]);
        vitals.eject(&rules(), Verdict::Strong, Instant::now());
        assert_eq!(
            vitals.eject(&rules(), Verdict::Strong, Instant::now()),
            SECOND * 20,
            "a trial that failed"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_is_told_apart_from_one_after_a_failure() {
        let vitals = Vitals::new(2);
        assert!(!vitals.went_well(0));
        vitals.went_wrong(&rules(), Failure::Unreachable, 0, Instant::now());
        assert!(vitals.went_well(1));
        vitals.is_well();
        assert!(!vitals.went_well(0));
        assert_eq!(vitals.answered(), 3);
    }
}
