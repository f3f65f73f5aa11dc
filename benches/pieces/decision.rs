//! What a decision costs: remembered, and made afresh, with few and with many unrelated policies.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use criterion::Criterion;
use wicketgate::domain::clock::Timestamp;
use wicketgate::domain::id::DecisionId;
use wicketgate::domain::principal::{Authentication, Principal, PrincipalKind};
use wicketgate::domain::query::{AccessQuery, Action, RequestContext, Resource};
use wicketgate::policy::archive::SourceText;
use wicketgate::policy::{Archive, Engine};

const SCHEMA: &str = include_str!("../../policies/wicketgate.cedarschema");

/// Three policies that apply to the query below, the rest about other applications.
fn engine(policies: usize, condition: &str) -> Engine {
    let mut text = format!(
        r#"
        permit(principal in Wicketgate::Group::"g", action in Wicketgate::Action::"view",
               resource in Wicketgate::Application::"app") {condition};
        forbid(principal, action, resource in Wicketgate::Application::"app")
        when {{ principal has tenant && resource has tenant && principal.tenant != resource.tenant }};
        forbid(principal, action, resource in Wicketgate::Zone::"control")
        when {{ context has posture && context.posture.age > 604800 }};
        "#
    );
    for number in 3..policies {
        text.push_str(&format!(
            r#"permit(principal in Wicketgate::Group::"g{number}",
                      action in Wicketgate::Action::"view",
                      resource in Wicketgate::Application::"app{number}")
               when {{ context.method == "GET" }};"#
        ));
    }
    let archive = Archive {
        schema: SourceText { name: "wicketgate.cedarschema".into(), text: SCHEMA.into() },
        policies: vec![SourceText { name: "bench.cedar".into(), text: text.into() }],
    };
    Engine::from_archive(archive).expect("the bench's policies are valid")
}

fn query() -> AccessQuery {
    AccessQuery {
        principal: Arc::new(Principal {
            kind: PrincipalKind::User,
            id: "demo/ada".into(),
            email: Some("ada@example.com".into()),
            name: Some("Ada".into()),
            groups: ["g", "h", "i"].into_iter().map(Arc::from).collect(),
            tenant: Some("acme".into()),
        }),
        authentication: Arc::new(Authentication::default()),
        action: Action::HttpGet,
        resource: Arc::new(Resource {
            route: "route".into(),
            application: "app".into(),
            zone: Some("control".into()),
            tenant: Some("acme".into()),
        }),
        context: RequestContext {
            host: "app.example.com".into(),
            path: "/pumps/7".into(),
            method: "GET".into(),
            source: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            time: Timestamp::from_seconds(1_795_298_770),
            device: None,
        },
    }
}

pub fn decisions(criterion: &mut Criterion) {
    let id = DecisionId::new(Timestamp::from_seconds(1), 1);
    let mut group = criterion.benchmark_group("decision");
    for policies in [5, 20, 100, 1_000, 10_000] {
        let remembering = engine(policies, "");
        let query = query();
        group.bench_function(format!("remembered/{policies}"), |bencher| {
            bencher.iter(|| black_box(remembering.decide(id, query.clone()).is_ok()));
        });

        // The time is part of what the policies read, and no two queries have the same.
        let afresh = engine(policies, "when { context.time > datetime(\"2020-01-01\") }");
        let mut at = 1_795_298_770_000;
        group.bench_function(format!("afresh/{policies}"), |bencher| {
            bencher.iter(|| {
                at += 1;
                let mut query = query.clone();
                query.context.time = Timestamp::from_millis(at);
                black_box(afresh.decide(id, query).is_ok())
            });
        });

        // A principal that was never seen: index, entities, evaluation.
        group.bench_function(format!("newcomer/{policies}"), |bencher| {
            bencher.iter(|| {
                let mut query = query.clone();
                query.principal = Arc::new(Principal::clone(&query.principal));
                black_box(remembering.decide(id, query).is_ok())
            });
        });
    }
    group.finish();
}
