//! What counting and timing a request costs: its outcome and its upstream's answer.

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use wicketgate::metrics::{Metrics, RequestOutcome, Stage};

pub fn count(criterion: &mut Criterion) {
    let metrics = Metrics::new();
    let route = metrics.route("app");
    wicketgate::sharded::claim(0);
    let mut group = criterion.benchmark_group("metrics");
    // All that a request counts; the stages of one request in sixteen are timed.
    group.bench_function("request", |bencher| {
        let mut number = 0_u64;
        bencher.iter(|| {
            number += 1;
            let took = Duration::from_nanos(black_box(180_000 + number % 1024));
            if number.is_multiple_of(16) {
                for stage in Stage::ALL {
                    route.stage(stage, took);
                }
            }
            route.upstream_latency(took);
            route.observe(RequestOutcome::Permitted, took);
        });
    });
    group.finish();
}
