//! The handles of one route.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use prometheus::local::{LocalHistogram, LocalIntCounter};
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use super::Metrics;
use super::labels::{RequestOutcome, Stage};
use crate::sharded::Sharded;

/// Counters and histograms of one route, resolved. Cloning counts one reference.
#[derive(Clone)]
pub struct RouteMetrics {
    handles: Arc<Handles>,
    /// Open WebSockets and streams.
    pub live: IntGauge,
}

pub(super) struct Handles {
    route: Box<str>,
    outcomes: [(IntCounter, Histogram); RequestOutcome::ALL.len()],
    counts: Sharded<Option<Counts>>,
    stages: [Histogram; Stage::ALL.len()],
    upstream_duration: Histogram,
    upstream_errors: IntCounterVec,
    upstream_retries: IntCounterVec,
}

/// What a worker has counted since the last look at the metrics: additions without atomics.
struct Counts {
    outcomes: [(LocalIntCounter, LocalHistogram); RequestOutcome::ALL.len()],
    upstream_duration: LocalHistogram,
}

impl Counts {
    fn of(handles: &Handles) -> Self {
        Self {
            outcomes: handles
                .outcomes
                .each_ref()
                .map(|(count, duration)| (count.local(), duration.local())),
            upstream_duration: handles.upstream_duration.local(),
        }
    }

    fn flush(&self) {
        for (count, duration) in &self.outcomes {
            count.flush();
            duration.flush();
        }
        self.upstream_duration.flush();
    }
}

impl Handles {
    fn count(&self, count: impl FnOnce(&Counts)) {
        if let Some(mut counts) = self.counts.mine() {
            count(counts.get_or_insert_with(|| Counts::of(self)));
        }
    }

    /// Adds up what the workers have counted.
    pub(super) fn flush(&self) {
        for counts in self.counts.all() {
            if let Some(counts) = counts.as_ref() {
                counts.flush();
            }
        }
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        self.flush();
    }
}

impl fmt::Debug for RouteMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RouteMetrics").field(&self.handles.route).finish()
    }
}

impl RouteMetrics {
    pub(super) fn resolve(metrics: &Metrics, route: &str) -> Self {
        let outcomes = RequestOutcome::ALL.map(|outcome| {
            let labels = [route, outcome.name()];
            (
                metrics.requests.with_label_values(&labels),
                metrics.request_duration.with_label_values(&labels),
            )
        });
        Self {
            handles: Arc::new(Handles {
                route: route.into(),
                outcomes,
                counts: Sharded::default(),
                stages: metrics.stage_duration.clone(),
                upstream_duration: metrics.upstream_duration.with_label_values(&[route]),
                upstream_errors: metrics.upstream_errors.clone(),
                upstream_retries: metrics.upstreams.retries.clone(),
            }),
            live: metrics.live_connections.with_label_values(&[route]),
        }
    }

    pub(super) fn handles(&self) -> Weak<Handles> {
        Arc::downgrade(&self.handles)
    }

    /// Counts a request that ended, and how long it took in all.
    pub fn observe(&self, outcome: RequestOutcome, total: Duration) {
        self.handles.count(|counts| {
            if let Some((count, duration)) = counts.outcomes.get(outcome as usize) {
                count.inc();
                duration.observe(total.as_secs_f64());
            }
        });
    }

    /// How long one stage took.
    pub fn stage(&self, stage: Stage, took: Duration) {
        if let Some(histogram) = self.handles.stages.get(stage as usize) {
            histogram.observe(took.as_secs_f64());
        }
    }

    /// Counts a failed attempt upstream. Not for the hot path: it looks the label up.
    pub fn upstream_error(&self, kind: &'static str) {
        self.handles.upstream_errors.with_label_values(&[&*self.handles.route, kind]).inc();
    }

    /// Counts a second try at a request, or one that the budget didn't allow. Not for the hot
    /// path: it looks the label up.
    pub fn upstream_retry(&self, allowed: bool) {
        let result = if allowed { "sent" } else { "refused" };
        self.handles.upstream_retries.with_label_values(&[&*self.handles.route, result]).inc();
    }

    /// From the request sent to the header of the answer.
    pub fn upstream_latency(&self, took: Duration) {
        self.handles.count(|counts| counts.upstream_duration.observe(took.as_secs_f64()));
    }
}
