//! Looking a session up on the hot path, and asking whether a live connection's is still good.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use wicketgate::config::model;
use wicketgate::domain::clock::Clock;
use wicketgate::domain::principal::{Authentication, Principal, PrincipalKind};
use wicketgate::identity::session::{Cached, NewSession, Sessions};
use wicketgate::metrics::Metrics;
use wicketgate::store::MemoryStore;

const OTHERS: usize = 10_000;

fn login(index: usize) -> NewSession {
    NewSession {
        principal: Arc::new(Principal {
            kind: PrincipalKind::User,
            id: format!("idp/user-{index}").into(),
            email: None,
            name: None,
            groups: Default::default(),
            tenant: None,
        }),
        authentication: Authentication::default(),
        provider: "idp".into(),
        vouched_by: Default::default(),
        sid: None,
        subject: None,
        id_token: None,
        access_token: None,
        refresh: None,
        host: None,
        begun: None,
    }
}

pub fn sessions(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let clock = Clock::System;
    let (sessions, cookie, session) = runtime.block_on(async {
        let config = model::Session {
            idle_timeout: Duration::from_secs(1800),
            absolute_lifetime: Duration::from_secs(36_000),
            ..Default::default()
        };
        let store = Arc::new(MemoryStore::default());
        let sessions = Sessions::open(store, &config, clock.clone(), Metrics::new()).await.unwrap();
        for index in 0..OTHERS {
            sessions.create(login(index), None).await.unwrap();
        }
        let (cookie, session) = sessions.create(login(OTHERS), None).await.unwrap();
        (sessions, cookie, session)
    });
    let now = clock.now();
    let unknown = "A".repeat(43);
    c.bench_function("session/hit", |b| {
        b.iter(|| {
            let found = sessions.find_cached(black_box(cookie.expose()), now);
            assert!(matches!(found, Cached::Hit(_)));
        });
    });
    c.bench_function("session/miss", |b| {
        b.iter(|| sessions.find_cached(black_box(&unknown), now));
    });
    c.bench_function("session/alive", |b| {
        b.iter(|| sessions.is_alive(black_box(&session.id), now));
    });
}
