//! What an audit record costs the request that it is about, and what a durable one takes.

use std::hint::black_box;
use std::sync::Arc;

use criterion::Criterion;
use wicketgate::audit::{AuditLog, Decided};
use wicketgate::config::model;
use wicketgate::domain::clock::{Clock, Timestamp};
use wicketgate::domain::decision::{Decision, Verdict};
use wicketgate::domain::event::Occasion;
use wicketgate::domain::id::{DecisionId, PolicySetHash, SessionId};
use wicketgate::domain::principal::{Authentication, Principal, PrincipalKind};
use wicketgate::domain::query::{AccessQuery, Action, RequestContext, Resource};
use wicketgate::metrics::Metrics;

fn query(at: Timestamp) -> AccessQuery {
    let principal = Principal {
        kind: PrincipalKind::User,
        id: "demo/2f1c9b1e".into(),
        email: Some("ada@acme.example".into()),
        name: Some("Ada".into()),
        groups: ["customers".into()].into(),
        tenant: Some("acme".into()),
    };
    AccessQuery {
        principal: Arc::new(principal),
        authentication: Arc::new(Authentication::default()),
        action: Action::HttpGet,
        resource: Arc::new(Resource {
            route: "portal-acme".into(),
            application: "customer-portal".into(),
            zone: Some("enterprise".into()),
            tenant: Some("acme".into()),
        }),
        context: RequestContext {
            host: "portal.localhost".into(),
            path: "/acme/orders/1024".into(),
            method: "GET".into(),
            source: std::net::Ipv4Addr::LOCALHOST.into(),
            time: at,
            device: None,
        },
    }
}

pub fn append(criterion: &mut Criterion) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let config = model::Audit {
        directory: folder.path().join("audit"),
        queue: 1 << 20,
        segment_bytes: 1 << 28,
    };
    let Ok(log) = AuditLog::open(&config, Metrics::new()) else { return };
    let at = Clock::System.now();
    let query = query(at);
    let decision = Arc::new(Decision {
        verdict: Verdict::Permit,
        policy_set: PolicySetHash("0123456789abcdef0123456789abcdef".into()),
        determining: vec![],
        errors: vec![],
    });
    let decided = Decided {
        id: DecisionId::new(at, 0x1234_5678_9abc_def0),
        occasion: Occasion::Request,
        query: &query,
        decision: &decision,
        session: &SessionId([7; 32]),
    };
    // Refused appends (the bench outruns the disk) would flatter the figure, so they wait.
    criterion.bench_function("audit/append", |bencher| {
        bencher.iter(|| {
            while black_box(log.append_decision(at, black_box(&decided))).is_err() {
                std::thread::yield_now();
            }
        });
    });
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return };
    criterion.bench_function("audit/append durable", |bencher| {
        bencher.iter(|| {
            let ticket = log.append_decision(at, &decided);
            ticket.map(|ticket| runtime.block_on(ticket.durable()))
        });
    });
}
