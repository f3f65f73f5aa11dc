//! The handles of one route's upstream.

use std::fmt;

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::{Builder, Metrics};

/// Every family of upstreams' endpoints.
pub(super) struct Families {
    pub(super) healthy: IntGaugeVec,
    ejected: IntGaugeVec,
    ejections: IntCounterVec,
    open: IntGaugeVec,
    pub(super) retries: IntCounterVec,
}

impl Families {
    pub(super) fn new(add: &Builder) -> Self {
        Self {
            healthy: add.gauges(
                "wicketgate_upstream_healthy",
                "1 while an upstream endpoint passes its health check, else 0.",
                &["route", "endpoint"],
            ),
            ejected: add.gauges(
                "wicketgate_upstream_ejected",
                "Addresses of an upstream endpoint that are out because they failed requests.",
                &["route", "endpoint"],
            ),
            ejections: add.counters(
                "wicketgate_upstream_ejections_total",
                "Times that an upstream endpoint was taken out because it failed requests.",
                &["route", "endpoint"],
            ),
            open: add.gauges(
                "wicketgate_upstream_breaker_open",
                "1 while every endpoint of an upstream is out because it failed requests, else 0.",
                &["route"],
            ),
            retries: add.counters(
                "wicketgate_upstream_retries_total",
                "Second tries at a request, made or refused for want of budget.",
                &["route", "result"],
            ),
        }
    }
}

/// What one upstream tells of its endpoints' state.
pub struct UpstreamMetrics {
    open: IntGauge,
    endpoints: Vec<(IntGauge, IntCounter)>,
}

impl fmt::Debug for UpstreamMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamMetrics").finish_non_exhaustive()
    }
}

impl UpstreamMetrics {
    /// Counts an endpoint, by its position, that was taken out.
    pub fn ejection(&self, endpoint: usize) {
        if let Some((_, ejections)) = self.endpoints.get(endpoint) {
            ejections.inc();
        }
    }

    /// `out` says how many addresses of an endpoint are out.
    pub fn show(&self, open: bool, out: impl Fn(usize) -> usize) {
        self.open.set(i64::from(open));
        for (position, (ejected, _)) in self.endpoints.iter().enumerate() {
            ejected.set(i64::try_from(out(position)).unwrap_or(i64::MAX));
        }
    }
}

impl Metrics {
    /// The handles of a route's upstream, whose endpoints are called this.
    pub fn upstream(
        &self,
        route: &str,
        endpoints: impl Iterator<Item = String>,
    ) -> UpstreamMetrics {
        let families = &self.upstreams;
        let endpoints = endpoints.map(|endpoint| {
            let labels = [route, &*endpoint];
            let ejected = families.ejected.with_label_values(&labels);
            (ejected, families.ejections.with_label_values(&labels))
        });
        UpstreamMetrics {
            open: families.open.with_label_values(&[route]),
            endpoints: endpoints.collect(),
        }
    }

    /// 1 while the endpoint is in use, 0 while its health check fails.
    pub fn upstream_healthy(&self, route: &str, endpoint: &str) -> IntGauge {
        self.upstreams.healthy.with_label_values(&[route, endpoint])
    }

    /// Forgets the endpoints that `keep`, given route and endpoint, says are no longer in use; and
    /// routes, given without one. To be called once another configuration is in force.
    pub fn forget_upstreams(&self, keep: impl Fn(&str, Option<&str>) -> bool) {
        let Families { healthy, ejected, ejections, open, retries: _ } = &self.upstreams;
        for family in healthy.collect().iter().chain(&ejected.collect()) {
            for metric in family.get_metric() {
                let label = |name: &str| {
                    let mut pairs = metric.get_label().iter();
                    pairs.find(|pair| pair.name() == name).map_or("", |pair| pair.value())
                };
                let (route, endpoint) = (label("route"), label("endpoint"));
                if keep(route, Some(endpoint)) {
                    continue;
                }
                // One that isn't there is as good as removed.
                let _ = healthy.remove_label_values(&[route, endpoint]);
                let _ = ejected.remove_label_values(&[route, endpoint]);
                let _ = ejections.remove_label_values(&[route, endpoint]);
                if !keep(route, None) {
                    let _ = open.remove_label_values(&[route]);
                }
            }
        }
    }
}
