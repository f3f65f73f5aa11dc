//! What a pool does in the background.

use std::sync::Arc;
use std::time::Duration;

use super::balance::Balance;
use super::breaker::Breaker;
use super::idle::Idle;
use crate::metrics::{IntGauge, UpstreamMetrics};

/// How often names are resolved again.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);
/// How often idle connections are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(15);

/// Resolves names again, checks health, closes what has been idle for too long, and keeps the
/// endpoints in the metrics meanwhile.
pub(super) struct Upkeep {
    pub(super) balance: Arc<Balance>,
    pub(super) idle: Arc<Idle>,
    pub(super) shown: Shown,
    /// One an endpoint.
    pub(super) healthy: Vec<IntGauge>,
    /// Between two health checks, where there are any.
    pub(super) interval: Option<Duration>,
}

/// Keeps an upstream's state in the metrics. When it goes, another pool may be in its place.
pub(super) struct Shown(Arc<Breaker>);

impl Shown {
    pub(super) fn new(breaker: &Arc<Breaker>) -> Self {
        Self(Arc::clone(breaker))
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.hide();
    }
}

impl Upkeep {
    /// Every endpoint counts as healthy until a check says else.
    pub(super) fn begin(&self, metrics: UpstreamMetrics) {
        for gauge in &self.healthy {
            gauge.set(1);
        }
        self.shown.0.show(metrics, &self.balance.targets());
    }

    pub(super) async fn run(self) {
        let mut resolve = tokio::time::interval(RESOLVE_INTERVAL);
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        let mut check = self.interval.map(tokio::time::interval);
        for timer in [Some(&mut resolve), Some(&mut sweep), check.as_mut()].into_iter().flatten() {
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        }
        loop {
            tokio::select! {
                _ = resolve.tick() => self.balance.update().await,
                _ = sweep.tick() => {
                    let targets = self.balance.targets();
                    let current: Vec<_> = targets.iter().map(|target| target.address).collect();
                    self.idle.sweep(&current);
                }
                () = next(check.as_mut()) => {
                    self.balance.check_health().await;
                    self.publish();
                }
            }
        }
    }

    /// An endpoint is healthy while one of its addresses is.
    fn publish(&self) {
        let targets = self.balance.targets();
        for (position, gauge) in self.healthy.iter().enumerate() {
            let mut of_endpoint = targets.iter().filter(|target| target.endpoint == position);
            gauge.set(i64::from(of_endpoint.any(|target| self.balance.is_ready(target))));
        }
    }
}

async fn next(timer: Option<&mut tokio::time::Interval>) {
    match timer {
        Some(timer) => {
            timer.tick().await;
        }
        None => std::future::pending().await,
    }
}
