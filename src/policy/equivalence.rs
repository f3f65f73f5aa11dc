//! The engine against plain Cedar: the index, the footprint and the memory may make a decision
//! cheaper and nothing else.

use std::net::IpAddr;
use std::sync::Arc;

use cedar_policy::{Authorizer, PolicySet};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::context::Projection;
use super::engine::Engine;
use super::footprint::Footprint;
use super::samples::{archive, qualify, query, route, user};
use crate::domain::clock::Timestamp;
use crate::domain::decision::{Decision, Verdict};
use crate::domain::device::{Device, Posture};
use crate::domain::principal::{Authentication, Principal};
use crate::domain::query::{AccessQuery, Action, Resource};

/// What plain Cedar says over the full set, with the full context: verdict as it stands, ids of
/// the determining policies, ids of the policies with errors.
fn plain(engine: &Engine, query: &AccessQuery) -> (bool, Vec<String>, Vec<String>) {
    let numbers = 0..engine.policies().count();
    let set = PolicySet::from_policies(
        numbers.map(|number| engine.loaded(number).unwrap().policy.clone()),
    )
    .unwrap();
    let question = engine.question(query).unwrap();
    let projection = Projection::new(Footprint::ALL, query);
    let (request, with_device) = engine.request(&question, &projection).unwrap();
    let entities = with_device.unwrap_or(question.entities);
    let response = Authorizer::new().is_authorized(&request, &set, &entities);
    let mut reasons: Vec<String> =
        response.diagnostics().reason().map(ToString::to_string).collect();
    let mut errors: Vec<String> = response
        .diagnostics()
        .errors()
        .map(|error| match error {
            cedar_policy::AuthorizationError::PolicyEvaluationError(error) => {
                error.policy_id().to_string()
            }
        })
        .collect();
    reasons.sort();
    errors.sort();
    (response.decision() == cedar_policy::Decision::Allow, reasons, errors)
}

fn agrees(engine: &Engine, query: &AccessQuery, decision: &Decision) -> Result<(), TestCaseError> {
    let (allowed, reasons, errors) = plain(engine, query);
    prop_assert_eq!(decision.verdict == Verdict::Permit, allowed && errors.is_empty());
    let mut determining: Vec<String> =
        decision.determining.iter().map(|policy| policy.id.to_string()).collect();
    determining.sort();
    let expected = if allowed && !errors.is_empty() { Vec::new() } else { reasons };
    prop_assert_eq!(determining, expected);
    prop_assert_eq!(decision.errors.len(), errors.len());
    for id in errors {
        let quoted = format!("`{id}`");
        prop_assert!(decision.errors.iter().any(|error| error.contains(&quoted)));
    }
    Ok(())
}

fn policy() -> impl Strategy<Value = String> {
    let principal = select(vec![
        "principal",
        "principal == User::\"a\"",
        "principal == User::\"b\"",
        "principal in Group::\"g\"",
        "principal in Group::\"h\"",
        "principal in Tenant::\"t\"",
        "principal in User::\"a\"",
        "principal is Wicketgate::User",
        "principal is Wicketgate::Service",
        "principal is Wicketgate::User in Group::\"g\"",
    ]);
    let action = select(vec![
        "action",
        "action == Action::\"http:GET\"",
        "action == Action::\"http:POST\"",
        "action in Action::\"view\"",
        "action in [Action::\"http:PUT\", Action::\"operate\"]",
        "action in [Action::\"http:GET\", Action::\"http:PUT\"]",
    ]);
    let resource = select(vec![
        "resource",
        "resource == Route::\"r\"",
        "resource in Application::\"x\"",
        "resource in Application::\"y\"",
        "resource in Zone::\"control\"",
        "resource in Route::\"s\"",
        "resource is Wicketgate::Route",
        "resource is Wicketgate::Route in Application::\"x\"",
    ]);
    let condition = select(vec![
        "",
        "when { true }",
        "unless { context has posture }",
        "when { context has posture && context.posture.age < 60 }",
        "when { context has posture.managed && context.posture.managed }",
        "when { context has posture && context.posture == context.posture }",
        "unless { context has device && context.device has owner }",
        "when { context has device && context.device == Device::\"d\" }",
        "when { Device::\"d\".id == \"d\" }",
        "when { context.segments has \"1\" && context.segments[\"1\"] == \"p\" }",
        "when { context.segments.count > 1 }",
        "when { context.path like \"/p*\" }",
        "when { context.source.isInRange(ip(\"10.0.0.0/8\")) }",
        "when { context.time > datetime(\"2026-11-21T00:00:00Z\") }",
        "when { context has auth_age && context.auth_age * 9223372036854775807 > 5 }",
        "when { context has amr && context.amr.contains(\"mfa\") }",
        "when { (if context has acr then context else context).method == \"GET\" }",
        "unless { principal has tenant && resource has tenant && principal.tenant == resource.tenant }",
        "when { context has scopes && context.scopes.contains(\"orders:read\") }",
        "unless { context has client && context.client == \"erp\" }",
        "when { context has session_age && 9223372036854775807 + context.session_age > 5 }",
    ]);
    let effect = prop_oneof![3 => Just("permit"), 1 => Just("forbid")];
    (effect, principal, action, resource, condition).prop_map(
        |(effect, principal, action, resource, condition)| {
            qualify(&format!("{effect}({principal}, {action}, {resource}) {condition};"))
        },
    )
}

fn engine() -> impl Strategy<Value = Engine> {
    vec(policy(), 1..12).prop_map(|policies| {
        Engine::from_archive(archive(&[("random.cedar", &policies.join("\n"))])).unwrap()
    })
}

fn principals() -> Vec<Arc<Principal>> {
    vec![
        user("a", &["g"], Some("t")),
        user("b", &["g", "h"], None),
        user("c", &[], Some("u")),
        // The same principal a second time, as a second login makes it.
        user("a", &["g"], Some("t")),
    ]
}

fn resources() -> Vec<Arc<Resource>> {
    vec![route("r", "x", None), route("s", "x", Some("t")), route("u", "y", Some("u"))]
}

fn device() -> impl Strategy<Value = Device> {
    let posture = (0_i64..120, option::of(any::<bool>())).prop_map(|(age, managed)| Posture {
        managed,
        ..Posture::unknown(Timestamp::from_seconds(1_795_298_770 - age))
    });
    let owner = option::of(select(vec!["a", "b"]));
    (select(vec!["d", "e"]), owner, option::of(posture)).prop_map(|(id, owner, posture)| Device {
        id: id.into(),
        owner: owner.map(Arc::from),
        posture,
    })
}

fn questions() -> impl Strategy<Value = Vec<AccessQuery>> {
    let (principals, resources) = (principals(), resources());
    let address = select(vec!["10.1.2.3", "::ffff:10.1.2.3", "192.0.2.1", "2001:db8::1"]);
    let authentication = (
        option::of(select(vec!["mfa", "pwd"])),
        option::of(select(vec!["high", "low"])),
        option::of(0_i64..3),
        option::of(0_i64..3),
        option::of(select(vec!["orders:read", "orders:write"])),
        option::of(select(vec!["erp", "mes"])),
    );
    let one = (
        (select(principals), select(Action::ALL.to_vec()), select(resources)),
        authentication,
        select(vec!["/", "/p", "/p/q", "/other/q/r"]),
        address,
        option::of(device()),
        select(vec!["GET", "PUT"]),
        -1_i64..2,
    );
    let one = one.prop_map(|(who, how, path, address, device, method, days)| {
        let mut query = query(&who.0, who.1, &who.2);
        let now = query.context.time.as_seconds();
        let ago = |seconds: i64| Timestamp::from_seconds(now - seconds);
        query.authentication = Arc::new(Authentication {
            amr: how.0.into_iter().map(Arc::from).collect(),
            acr: how.1.map(Arc::from),
            auth_time: how.2.map(ago),
            session_started: how.3.map(ago),
            scopes: how.4.into_iter().map(Arc::from).collect(),
            client: how.5.map(Arc::from),
        });
        query.context.path = path.into();
        query.context.source = address.parse::<IpAddr>().unwrap();
        query.context.device = device.map(Arc::new);
        query.context.method = method.into();
        if days != 0 {
            query.context.time = ago(days * 86_400);
        }
        query
    });
    vec(one, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_decision_is_what_plain_cedar_says_over_the_full_set(
        engine in engine(),
        questions in questions(),
    ) {
        for query in &questions {
            agrees(&engine, query, &engine.decision(query))?;
        }
    }

    #[test]
    fn a_remembered_decision_is_the_one_that_is_made_afresh(
        engine in engine(),
        questions in questions(),
    ) {
        let other = Engine::from_archive(engine.archive().clone()).unwrap();
        for query in questions.iter().chain(&questions) {
            // Principals and resources at addresses that nothing is remembered under.
            let mut fresh = query.clone();
            fresh.principal = Arc::new(Principal::clone(&query.principal));
            fresh.resource = Arc::new(Resource::clone(&query.resource));
            prop_assert_eq!(engine.decision(query), other.decision(&fresh));
        }
    }
}
