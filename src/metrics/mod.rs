//! What the gate counts and times, in Prometheus' terms.
//!
//! INVARIANT: nothing that a client sends becomes a label. Labels are names from the
//! configuration, words from this crate, or the fixed enums below, so the number of series is
//! bounded by the configuration and no request can grow it.
//!
//! The hot path never looks a label up: [`Metrics::route`] resolves a route's handles once, the
//! snapshot keeps them, and each worker counts for itself until somebody looks. Names, labels and
//! meanings are listed in `docs/metrics.md`, which a test holds against the registry.

mod labels;
mod route;
mod upstream;

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

/// A resolved gauge, for those who count up and down themselves.
pub use prometheus::IntGauge;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use parking_lot::Mutex;

pub use labels::{RequestOutcome, Stage};
pub use route::RouteMetrics;
pub use upstream::UpstreamMetrics;

use crate::domain::clock::Timestamp;
use crate::domain::event::EndReason;
use crate::domain::id::PolicySetHash;

/// Whole requests: 100 microseconds to 30 seconds.
const REQUEST_BUCKETS: [f64; 15] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
    30.0,
];

/// Stages inside the gate: 1 microsecond to 100 milliseconds.
const STAGE_BUCKETS: [f64; 13] = [
    0.000_001,
    0.000_002_5,
    0.000_005,
    0.000_01,
    0.000_025,
    0.000_05,
    0.000_1,
    0.000_25,
    0.000_5,
    0.001,
    0.005,
    0.025,
    0.1,
];

/// The registry and every handle into it. One for each process, passed on as `Arc`.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    stage_duration: [Histogram; Stage::ALL.len()],
    upstream_duration: HistogramVec,
    upstream_errors: IntCounterVec,
    upstreams: upstream::Families,
    connections: IntGaugeVec,
    connections_refused: IntCounterVec,
    live_connections: IntGaugeVec,
    tls_handshakes: IntCounterVec,
    sessions_ended: IntCounterVec,
    logins: IntCounterVec,
    access_tokens: IntCounterVec,
    refreshes: IntCounterVec,
    token_revocations: IntCounterVec,
    refreshes_queued: IntCounterVec,
    reloads: IntCounterVec,
    certificate_expiry: IntGaugeVec,
    pub certificates_refused: IntGauge,
    policy_set_info: IntGaugeVec,
    rate_limited: IntCounterVec,
    shed: IntCounterVec,
    unrouted: OnceLock<RouteMetrics>,
    /// Those whose workers' counts are added up before a look.
    routes: Mutex<Vec<Weak<route::Handles>>>,
    /// Sessions begun by a login.
    pub sessions_started: IntCounter,
    /// Sessions that this process keeps in memory.
    pub sessions_active: IntGauge,
    /// 1 while all is known that could end a session, else 0: the alarm.
    pub sessions_confirmed: IntGauge,
    /// Ends of sessions that other gates told of.
    pub revocations_heard: IntCounter,
    /// Times that ends may have been missed, and everything was looked up anew.
    pub revocation_gaps: IntCounter,
    /// Decisions denied because a policy could not be evaluated.
    pub decision_errors: IntCounter,
    /// Audit records accepted and not yet written.
    pub audit_queue: IntGauge,
    /// Audit records written.
    pub audit_records: IntCounter,
    /// Appends refused because a record could not be kept; each is a request that was denied.
    pub audit_denied: IntCounter,
    /// Records of refusals dropped because half of the queue was taken.
    /// Refusals that are counted in a summary and have no record of their own.
    pub audit_summarised: IntCounter,
    /// Failed attempts to write or sync the audit log.
    pub audit_write_errors: IntCounter,
    /// 1 while the audit log can be written, else 0: the alarm.
    pub audit_healthy: IntGauge,
    /// Time that one fdatasync of the audit log took.
    pub audit_sync_duration: Histogram,
    /// Number of the configuration in force: 1 at start, one more with each reload.
    pub config_generation: IntGauge,
    /// When the configuration in force was loaded, in Unix seconds.
    pub last_reload_success: IntGauge,
    /// Connections closed for a flood of frames.
    pub http2_floods: IntCounter,
    /// Connections closed in the middle because memory was critically short.
    pub connections_shed: IntCounter,
    /// Resident memory, as last sampled, in bytes.
    pub memory_resident: IntGauge,
    /// Resident memory from which on requests are turned away, in bytes.
    pub memory_budget: IntGauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Builds metrics and registers them on the way.
struct Builder {
    registry: Registry,
}

impl Builder {
    #[expect(
        clippy::expect_used,
        reason = "names and labels are constants of this file; the tests build all of them"
    )]
    fn add<M: prometheus::core::Collector + Clone + 'static>(
        &self,
        made: prometheus::Result<M>,
    ) -> M {
        let metric = made.expect("a metric of this file has a valid name");
        self.registry
            .register(Box::new(metric.clone()))
            .expect("a metric of this file has a name of its own");
        metric
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(HistogramVec::new(options, labels))
    }
}

impl Metrics {
    pub fn new() -> Arc<Self> {
        let add = Builder { registry: Registry::new() };
        let stages = add.histograms(
            "wicketgate_stage_duration_seconds",
            "Time that a stage of the pipeline took.",
            &["stage"],
            &STAGE_BUCKETS,
        );
        let build_info =
            add.gauges("wicketgate_build_info", "1, labelled with the version.", &["version"]);
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Self {
            requests: add.counters(
                "wicketgate_requests_total",
                "Requests answered, by route and outcome.",
                &["route", "outcome"],
            ),
            request_duration: add.histograms(
                "wicketgate_request_duration_seconds",
                "From the end of a request's header to the header of its answer.",
                &["route", "outcome"],
                &REQUEST_BUCKETS,
            ),
            stage_duration: Stage::ALL.map(|stage| stages.with_label_values(&[stage.name()])),
            upstream_duration: add.histograms(
                "wicketgate_upstream_duration_seconds",
                "From a request sent upstream to the header of its answer.",
                &["route"],
                &REQUEST_BUCKETS,
            ),
            upstream_errors: add.counters(
                "wicketgate_upstream_errors_total",
                "Requests that an upstream failed to answer.",
                &["route", "kind"],
            ),
            upstreams: upstream::Families::new(&add),
            connections: add.gauges(
                "wicketgate_connections",
                "Open client connections.",
                &["listener"],
            ),
            connections_refused: add.counters(
                "wicketgate_connections_refused_total",
                "Client connections closed before they began, by reason.",
                &["listener", "reason"],
            ),
            live_connections: add.gauges(
                "wicketgate_live_connections",
                "Open WebSockets and streams that are authorised again as they live.",
                &["route"],
            ),
            tls_handshakes: add.counters(
                "wicketgate_tls_handshakes_total",
                "TLS handshakes, by version and result.",
                &["version", "result"],
            ),
            sessions_started: add
                .counter("wicketgate_sessions_started_total", "Sessions begun by a login."),
            sessions_ended: add.counters(
                "wicketgate_sessions_ended_total",
                "Sessions ended, by reason.",
                &["reason"],
            ),
            sessions_confirmed: add.gauge(
                "wicketgate_sessions_confirmed",
                "1 while all is known that could end a session, else 0.",
            ),
            revocations_heard: add.counter(
                "wicketgate_revocations_heard_total",
                "Ends of sessions that were read from the shared store's stream.",
            ),
            revocation_gaps: add.counter(
                "wicketgate_revocation_gaps_total",
                "Times that ends may have been missed, and every session was looked up anew.",
            ),
            sessions_active: add
                .gauge("wicketgate_sessions_active", "Sessions that this process keeps in memory."),
            logins: add.counters("wicketgate_logins_total", "Logins, by result.", &["result"]),
            access_tokens: add.counters(
                "wicketgate_access_tokens_total",
                "Access tokens that were not known from an earlier request, by result.",
                &["result"],
            ),
            refreshes: add.counters(
                "wicketgate_refreshes_total",
                "Times that an identity provider was asked about a session's user again, by result.",
                &["result"],
            ),
            token_revocations: add.counters(
                "wicketgate_token_revocations_total",
                "Tokens of ended sessions that were to be revoked at their provider, by result.",
                &["result"],
            ),
            refreshes_queued: add.counters(
                "wicketgate_refreshes_queued_total",
                "Times that a refresh found no room at its identity provider, by what became of it.",
                &["provider", "result"],
            ),
            decision_errors: add.counter(
                "wicketgate_decision_errors_total",
                "Decisions denied because a policy could not be evaluated.",
            ),
            audit_queue: add.gauge(
                "wicketgate_audit_queue_records",
                "Audit records accepted and not yet written.",
            ),
            audit_records: add.counter("wicketgate_audit_records_total", "Audit records written."),
            audit_denied: add.counter(
                "wicketgate_audit_denied_total",
                "Audit records refused because they could not be kept; the access was denied.",
            ),
            audit_summarised: add.counter(
                "wicketgate_audit_summarised_total",
                "Refusals that are counted in a summary instead of a record of their own.",
            ),
            audit_write_errors: add.counter(
                "wicketgate_audit_write_errors_total",
                "Failed attempts to write or sync the audit log.",
            ),
            audit_healthy: add
                .gauge("wicketgate_audit_healthy", "1 while the audit log can be written, else 0."),
            audit_sync_duration: add.add(Histogram::with_opts(
                HistogramOpts::new(
                    "wicketgate_audit_sync_duration_seconds",
                    "Time that one fdatasync of the audit log took.",
                )
                .buckets(REQUEST_BUCKETS.to_vec()),
            )),
            reloads: add.counters(
                "wicketgate_reloads_total",
                "Attempts to reload the configuration, by result.",
                &["result"],
            ),
            config_generation: add.gauge(
                "wicketgate_configuration_generation",
                "Number of the configuration in force, from 1.",
            ),
            last_reload_success: add.gauge(
                "wicketgate_configuration_last_success_timestamp_seconds",
                "When the configuration in force was loaded.",
            ),
            certificate_expiry: add.gauges(
                "wicketgate_certificate_expiry_timestamp_seconds",
                "When a certificate in use expires, or a revocation list is due.",
                &["name"],
            ),
            certificates_refused: add.gauge(
                "wicketgate_certificates_refused",
                "Renewed certificates that are out of date, so the ones before them are served.",
            ),
            policy_set_info: add.gauges(
                "wicketgate_policy_set_info",
                "1, labelled with the hash of the policy set in force.",
                &["hash"],
            ),
            rate_limited: add.counters(
                "wicketgate_rate_limited_total",
                "Requests refused by a rate limit, by route and by what the limit counts.",
                &["route", "per"],
            ),
            shed: add.counters(
                "wicketgate_shed_total",
                "Requests turned away for want of room, by route and by what was full.",
                &["route", "full"],
            ),
            http2_floods: add.counter(
                "wicketgate_http2_floods_total",
                "Connections closed because their HTTP/2 frames only made work.",
            ),
            connections_shed: add.counter(
                "wicketgate_connections_shed_total",
                "HTTP/2 connections closed because memory stayed critically short.",
            ),
            memory_resident: add
                .gauge("wicketgate_memory_resident_bytes", "Resident memory, as last sampled."),
            memory_budget: add.gauge(
                "wicketgate_memory_budget_bytes",
                "Resident memory from which on requests are turned away.",
            ),
            unrouted: OnceLock::new(),
            routes: Mutex::default(),
            registry: add.registry,
        };
        Arc::new(metrics)
    }

    /// Everything in Prometheus' text format, version 0.0.4.
    pub fn render(&self) -> String {
        self.routes.lock().retain(|route| {
            route.upgrade().is_some_and(|route| {
                route.flush();
                true
            })
        });
        let mut text = String::with_capacity(16 * 1024);
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be rendered");
        }
        text
    }

    /// The handles of a route, resolved once; the snapshot keeps them.
    pub fn route(&self, name: &str) -> RouteMetrics {
        let route = RouteMetrics::resolve(self, name);
        let mut routes = self.routes.lock();
        // Now and then, so that those of former configurations don't pile up.
        if routes.len().is_power_of_two() {
            routes.retain(|route| route.strong_count() > 0);
        }
        routes.push(route.handles());
        drop(routes);
        route
    }

    /// The handles for requests that no route matched: the label is `-`, which no route is called.
    pub fn unrouted(&self) -> RouteMetrics {
        self.unrouted.get_or_init(|| self.route("-")).clone()
    }

    /// Open connections of a listener.
    pub fn connections(&self, listener: &str) -> IntGauge {
        self.connections.with_label_values(&[listener])
    }

    /// Counts a connection that was closed before it began; `reason` is a fixed word.
    pub fn connection_refused(&self, listener: &str, reason: &'static str) {
        self.connections_refused.with_label_values(&[listener, reason]).inc();
    }

    /// Counts a handshake. `version`: `1.2`, `1.3` or `-`; `result`: `full`, `resumed` or
    /// what failed.
    pub fn tls_handshakes(&self, version: &'static str, result: &'static str) {
        self.tls_handshakes.with_label_values(&[version, result]).inc();
    }

    /// Counts a session's end.
    pub fn sessions_ended(&self, reason: EndReason) {
        self.sessions_ended.with_label_values(&[labels::end_reason(reason)]).inc();
    }

    /// Counts an access token that was checked: `verified`, `refused` or `unavailable` (the
    /// issuer's keys).
    pub fn access_tokens(&self, result: &'static str) {
        self.access_tokens.with_label_values(&[result]).inc();
    }

    /// Counts a refresh: `refreshed`, `refused` (the session ended) or `unavailable`.
    pub fn refreshes(&self, result: &'static str) {
        self.refreshes.with_label_values(&[result]).inc();
    }

    /// Counts a token of an ended session: `revoked` at its provider, `failed`, or `dropped` because
    /// too many waited for that provider.
    pub fn token_revocations(&self, result: &'static str) {
        self.token_revocations.with_label_values(&[result]).inc();
    }

    /// Counts a refresh that found too many under way at its provider: `waited` or `put-off`.
    pub fn refreshes_queued(&self, provider: &str, result: &'static str) {
        self.refreshes_queued.with_label_values(&[provider, result]).inc();
    }

    /// Counts a login: `success`, `failure` (the user's or browser's part) or `unavailable` (the
    /// provider's).
    pub fn logins(&self, result: &'static str) {
        self.logins.with_label_values(&[result]).inc();
    }

    /// Counts a request that a rate limit refused. `route`: a configured name, or `-`.
    pub fn rate_limited(&self, route: &str, per: &'static str) {
        self.rate_limited.with_label_values(&[route, per]).inc();
    }

    /// Counts a request that found no room. `full`: `route`, `upstream`, `websockets` or `memory`.
    pub fn shed(&self, route: &str, full: &'static str) {
        self.shed.with_label_values(&[route, full]).inc();
    }

    /// Counts a reload: `applied` or `refused`.
    pub fn reloads(&self, result: &'static str) {
        self.reloads.with_label_values(&[result]).inc();
    }

    /// Says when a certificate of this file expires, or a revocation list is due. Of several in one
    /// file the first one to expire counts: the others could hide it.
    pub fn certificate_expiry(&self, file: &str, expires: Timestamp) {
        let gauge = self.certificate_expiry.with_label_values(&[file]);
        let known = gauge.get();
        if known == 0 || expires.as_seconds() < known {
            gauge.set(expires.as_seconds());
        }
    }

    /// Forgets the certificates of the configuration before; call it ahead of
    /// [`Metrics::certificate_expiry`] when a new one is in force.
    pub fn forget_certificates(&self) {
        self.certificate_expiry.reset();
    }

    /// Says which policy set is in force.
    pub fn policy_set_info(&self, hash: &PolicySetHash) {
        self.policy_set_info.reset();
        self.policy_set_info.with_label_values(&[&*hash.0]).set(1);
    }
}

#[cfg(test)]
mod tests;
