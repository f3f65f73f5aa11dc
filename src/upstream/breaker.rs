//! Which endpoints are in use: takes out those that fail requests, and lets them back in.
//!
//! An endpoint that is out gets no requests for a time that grows with each turn. Then one
//! request at a time may try it, one without a body where there is a choice, and none that drags
//! on keeps others from trying; the first that goes well brings it back, with a share that grows
//! where the route says so. When all are out, the upstream's breaker is open: requests are refused
//! at once, except for those trials.
//!
//! INVARIANT: while others are in use, no more are out than the route's share allows. The breaker
//! opens only on strong evidence ([`Verdict::Strong`]) against every endpoint; one that is out on
//! weak evidence is still used where there is no other.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::balance::Target;
use super::outlier::{Failure, Verdict};
use super::vitals::Pace;
use crate::config::model::{OutlierDetection, Selection, Upstream};
use crate::metrics::UpstreamMetrics;

/// How long a trial keeps the next from beginning, if it has no result before.
const TRIAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Breaker {
    route: Arc<str>,
    rules: Option<OutlierDetection>,
    /// What it takes to move requests to another endpoint.
    enough: Verdict,
    pace: Pace,
    /// Changes are made under it, one at a time.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether all are out.
    open: bool,
    /// Set while the upstream is in use.
    metrics: Option<UpstreamMetrics>,
}

impl Breaker {
    pub(super) fn new(route: &Arc<str>, upstream: &Upstream) -> Self {
        let trial = upstream.outliers.map_or(TRIAL, |rules| rules.ejection_time.min(TRIAL));
        // Sessions that move may lose what the endpoint keeps for them.
        let sticky = upstream.selection == Selection::Sticky;
        Self {
            route: Arc::clone(route),
            rules: upstream.outliers,
            enough: if sticky { Verdict::Weak } else { Verdict::Lone },
            pace: Pace { trial, slow_start: upstream.slow_start },
            state: Mutex::default(),
        }
    }

    pub(super) fn pace(&self) -> Pace {
        self.pace
    }

    /// From now on the state is in the metrics.
    pub(super) fn show(&self, metrics: UpstreamMetrics, targets: &[Arc<Target>]) {
        let mut state = self.state.lock();
        state.metrics = Some(metrics);
        self.publish(targets, &mut state);
    }

    /// From now on it isn't any more.
    pub(super) fn hide(&self) {
        self.state.lock().metrics = None;
    }

    /// A request failed. `ready` says whether an address passes its health check.
    pub(super) fn failed(
        &self,
        targets: &[Arc<Target>],
        ready: impl Fn(&Target) -> bool,
        target: &Target,
        trial: bool,
        failure: Failure,
        witness: u64,
    ) {
        let Some(rules) = &self.rules else { return };
        let now = Instant::now();
        let mut state = self.state.lock();
        let vitals = &target.vitals;
        if vitals.is_out() {
            if trial {
                let time = vitals.trial_failed(rules, failure, witness, now);
                self.publish(targets, &mut state);
                tracing::debug!(route = %self.route, endpoint = %target.address, ?time, ?failure,
                    "an upstream endpoint still fails");
            } else if vitals.is_weakly_out()
                && vitals.went_wrong(rules, failure, witness, now) == Verdict::Strong
            {
                // It was used for want of another.
                self.eject(rules, &state, target, failure, now);
                self.publish(targets, &mut state);
            }
            // What was under way when it was taken out says nothing new.
            return;
        }
        if vitals.went_wrong(rules, failure, witness, now) < self.enough
            || !targets.iter().any(|other| Arc::ptr_eq(&other.vitals, vitals))
        {
            return;
        }
        let lost = |target: &Target| target.vitals.is_out() || !ready(target);
        if targets.iter().filter(|target| lost(target)).count() < allowed(rules, targets.len()) {
            self.eject(rules, &state, target, failure, now);
        } else if targets
            .iter()
            .all(|target| lost(target) || target.vitals.verdict() == Verdict::Strong)
        {
            for target in targets.iter().filter(|target| !target.vitals.is_out()) {
                self.eject(rules, &state, target, failure, now);
            }
        } else {
            return;
        }
        self.publish(targets, &mut state);
    }

    fn eject(
        &self,
        rules: &OutlierDetection,
        state: &State,
        target: &Target,
        failure: Failure,
        now: Instant,
    ) {
        let time = target.vitals.eject(rules, target.vitals.verdict(), now);
        if let Some(metrics) = &state.metrics {
            metrics.ejection(target.endpoint);
        }
        tracing::warn!(
            route = %self.route,
            endpoint = %target.address,
            ?failure,
            ?time,
            "an upstream endpoint fails requests and is taken out"
        );
    }

    /// A request went well after something had failed, or on trial.
    #[cold]
    pub(super) fn went_well(&self, targets: &[Arc<Target>], target: &Target, trial: bool) {
        let mut state = self.state.lock();
        if trial && target.vitals.is_out() {
            self.bring_back(target);
            self.publish(targets, &mut state);
        } else {
            target.vitals.is_well();
        }
    }

    /// The health check finds it well again: whatever requests saw of it is past.
    pub(super) fn checked_well(&self, targets: &[Arc<Target>], target: &Target) {
        let mut state = self.state.lock();
        if target.vitals.is_out() {
            self.bring_back(target);
            self.publish(targets, &mut state);
        } else {
            target.vitals.bring_in(self.pace, Instant::now());
        }
    }

    fn bring_back(&self, target: &Target) {
        target.vitals.bring_in(self.pace, Instant::now());
        tracing::info!(
            route = %self.route,
            endpoint = %target.address,
            "an upstream endpoint answers again and is back in use"
        );
    }

    /// The addresses are others now.
    pub(super) fn changed(&self, targets: &[Arc<Target>]) {
        self.publish(targets, &mut self.state.lock());
    }

    fn publish(&self, targets: &[Arc<Target>], state: &mut State) {
        let out = |endpoint: usize| {
            let of = |target: &&Arc<Target>| target.endpoint == endpoint && target.vitals.is_out();
            targets.iter().filter(of).count()
        };
        let lost = |target: &Arc<Target>| target.vitals.is_out() && !target.vitals.is_weakly_out();
        let all = !targets.is_empty() && targets.iter().all(lost);
        if let Some(metrics) = &state.metrics {
            metrics.show(all, out);
        }
        if std::mem::replace(&mut state.open, all) != all {
            if all {
                tracing::warn!(route = %self.route,
                    "every endpoint of the upstream is out: requests get 503 until one answers");
            } else {
                tracing::info!(route = %self.route, "the upstream can be used again");
            }
        }
    }
}

/// How many of so many may be out while another answers.
fn allowed(rules: &OutlierDetection, of: usize) -> usize {
    let share = of.saturating_mul(rules.max_ejection_percent).checked_div(100).unwrap_or(0);
    share.max(1).min(of.saturating_sub(1))
}
