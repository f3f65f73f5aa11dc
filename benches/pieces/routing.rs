//! From the request line to a route: canonicalisation, then the route table at three sizes.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use wicketgate::config::model::{
    Application, AuditDurability, Endpoint, OutlierDetection, ResponseRewrite, RetryBudget, Route,
    RouteBounds, Selection, Upstream, UpstreamHost, UpstreamProtocol,
};
use wicketgate::domain::canonical::{Authority, CanonicalRequest, Host};
use wicketgate::domain::query::Resource;
use wicketgate::metrics::Metrics;
use wicketgate::pipeline::route::{RouteEntry, RouteTable};
use wicketgate::upstream::Pool;

fn host(number: usize) -> Host {
    Host::parse(&format!("app-{number}.example.com")).unwrap()
}

fn entry(metrics: &Metrics, number: usize) -> Arc<RouteEntry> {
    let application = Arc::new(Application {
        name: "app".into(),
        display_name: "App".into(),
        zone: None,
        tenant: None,
        identity_providers: None,
        session: None,
    });
    let route = Arc::new(Route {
        name: format!("route-{number}").into(),
        host: host(number / 10),
        path: format!("/part-{}", number % 10).into(),
        application,
        accepted: wicketgate::config::model::Accepted::default(),
        allow_from: None,
        tenant: None,
        identity_providers: None,
        upstream: Upstream {
            endpoints: vec![Endpoint {
                host: Host::parse("127.0.0.1").unwrap(),
                port: 8080,
                weight: 1,
            }],
            selection: Selection::RoundRobin,
            protocol: UpstreamProtocol::Http1,
            tls: None,
            credential: None,
            host: UpstreamHost::Preserve,
            health: None,
            outliers: Some(OutlierDetection::default()),
            slow_start: None,
            retries: RetryBudget::default(),
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(300),
            max_idle: 32,
        },
        max_body_bytes: 1 << 20,
        websocket: true,
        path_parameters: false,
        audit: AuditDurability::Buffered,
        refuse_cross_site: true,
        cross_site_origins: Vec::new(),
        response: ResponseRewrite { location: true, cookie_domain: true },
        bounds: RouteBounds::default(),
    });
    let resource = Resource {
        route: Arc::clone(&route.name),
        application: "app".into(),
        zone: None,
        tenant: None,
    };
    let pool = Pool::new(&route, 1, metrics).unwrap();
    let handles = metrics.route(&route.name);
    Arc::new(RouteEntry::new(route, resource, handles, pool))
}

pub fn canonicalise(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("canonicalise");
    for (name, target) in [
        ("plain", "/part-3/orders/1024/lines?page=2&sort=date"),
        ("encoded", "/part-3/caf%c3%a9/%7Euser/a%20b?page=2"),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let authority = Authority::parse(black_box("app-0.example.com:8443")).unwrap();
                CanonicalRequest::parse("GET".into(), authority, black_box(target)).unwrap()
            });
        });
    }
    group.finish();
}

pub fn route(criterion: &mut Criterion) {
    let metrics = Metrics::new();
    let mut group = criterion.benchmark_group("route");
    for count in [10, 1_000, 10_000] {
        let table = RouteTable::new((0..count).map(|number| entry(&metrics, number)));
        let authority = Authority { host: host(0), port: None };
        let request =
            CanonicalRequest::parse("GET".into(), authority, "/part-3/orders/1024").unwrap();
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| table.find(black_box(&request)).unwrap());
        });
    }
    group.finish();
}
