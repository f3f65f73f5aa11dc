//! The handles of one route.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use super::Metrics;
use super::labels::{RequestOutcome, Stage};

/// Counters and histograms of one route, resolved. Cloning counts one reference.
#[derive(Clone)]
pub struct RouteMetrics {
    handles: Arc<Handles>,
    /// Open WebSockets and streams.
    pub live: IntGauge,
}

struct Handles {
    route: Box<str>,
    outcomes: [(IntCounter, Histogram); RequestOutcome::ALL.len()],
    stages: [Histogram; Stage::ALL.len()],
    upstream_duration: Histogram,
    upstream_errors: IntCounterVec,
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
                stages: metrics.stage_duration.clone(),
                upstream_duration: metrics.upstream_duration.with_label_values(&[route]),
                upstream_errors: metrics.upstream_errors.clone(),
            }),
            live: metrics.live_connections.with_label_values(&[route]),
        }
    }

    /// Counts a request that ended, and how long it took in all.
    pub fn observe(&self, outcome: RequestOutcome, total: Duration) {
        if let Some((count, duration)) = self.handles.outcomes.get(outcome as usize) {
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

    /// From the request sent to the header of the answer.
    pub fn upstream_latency(&self, took: Duration) {
        self.handles.upstream_duration.observe(took.as_secs_f64());
    }
}
