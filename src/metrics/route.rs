//! The handles of one route.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use prometheus::local::{LocalHistogram, LocalIntCounter};
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};

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
    counts: Sharded<Counts>,
    requests: [IntCounter; RequestOutcome::ALL.len()],
    /// Histograms are many series, and most of thousands of routes rest: one is made when there is
    /// something to count.
    request_duration: HistogramVec,
    stages: [Histogram; Stage::ALL.len()],
    upstream_duration: HistogramVec,
    upstream_errors: IntCounterVec,
    upstream_retries: IntCounterVec,
}

/// What a worker has counted since the last look at the metrics: additions without atomics.
#[derive(Default)]
struct Counts {
    outcomes: [Option<(LocalIntCounter, LocalHistogram)>; RequestOutcome::ALL.len()],
    upstream_duration: Option<LocalHistogram>,
}

impl Counts {
    fn flush(&self) {
        for (count, duration) in self.outcomes.iter().flatten() {
            count.flush();
            duration.flush();
        }
        if let Some(duration) = &self.upstream_duration {
            duration.flush();
        }
    }
}

impl Handles {
    fn duration(&self, outcome: RequestOutcome) -> LocalHistogram {
        self.request_duration.with_label_values(&[&*self.route, outcome.name()]).local()
    }

    /// Adds up what the workers have counted.
    pub(super) fn flush(&self) {
        for counts in self.counts.all() {
            counts.flush();
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
        let requests = RequestOutcome::ALL
            .map(|outcome| metrics.requests.with_label_values(&[route, outcome.name()]));
        Self {
            handles: Arc::new(Handles {
                route: route.into(),
                counts: Sharded::default(),
                requests,
                request_duration: metrics.request_duration.clone(),
                stages: metrics.stage_duration.clone(),
                upstream_duration: metrics.upstream_duration.clone(),
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
        let handles = &*self.handles;
        let at = outcome as usize;
        if let Some(mut counts) = handles.counts.mine()
            && let (Some(counts), Some(requests)) =
                (counts.outcomes.get_mut(at), handles.requests.get(at))
        {
            let (count, duration) =
                counts.get_or_insert_with(|| (requests.local(), handles.duration(outcome)));
            count.inc();
            duration.observe(total.as_secs_f64());
        }
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
        let handles = &*self.handles;
        if let Some(mut counts) = handles.counts.mine() {
            counts
                .upstream_duration
                .get_or_insert_with(|| {
                    handles.upstream_duration.with_label_values(&[&*handles.route]).local()
                })
                .observe(took.as_secs_f64());
        }
    }
}
