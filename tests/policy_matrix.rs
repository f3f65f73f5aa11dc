//! Who may do what in the demo's world, as a table for a reviewer to read.
//!
//! A change of the shipped policies shows as a change of `snapshots/policy_matrix.txt`. Write it
//! anew with `UPDATE=1 cargo test --test policy_matrix`, and look at the difference.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use wicketgate::config::model::Policies;
use wicketgate::domain::clock::Timestamp;
use wicketgate::domain::id::DecisionId;
use wicketgate::domain::principal::{Authentication, Principal, PrincipalKind};
use wicketgate::domain::query::{AccessQuery, Action, ActionGroup, RequestContext, Resource};
use wicketgate::policy::{Engine, suite};

const USERS: [(&str, &str, Option<&str>); 5] = [
    ("ada", "customers", Some("acme")),
    ("grace", "customers", Some("globex")),
    ("vera", "vendors", None),
    ("otto", "ot-engineers", None),
    ("sam", "security-team", None),
];

const ROUTES: [(&str, &str, &str, Option<&str>); 7] = [
    ("portal", "customer-portal", "enterprise", None),
    ("portal-acme", "customer-portal", "enterprise", Some("acme")),
    ("portal-globex", "customer-portal", "enterprise", Some("globex")),
    ("ics", "ics-dashboard", "control", None),
    ("ics-pump", "ics-dashboard", "control", None),
    ("legacy", "legacy", "enterprise", None),
    ("gate", "gate", "dmz", None),
];

const NOW: Timestamp = Timestamp::from_seconds(1_795_298_770);

fn shipped() -> Policies {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    Policies { schema: root.join("wicketgate.cedarschema"), directory: root }
}

fn decide(
    engine: &Engine,
    user: (&str, &str, Option<&str>),
    action: Action,
    route: (&str, &str, &str, Option<&str>),
    amr: Option<&str>,
) -> (bool, String) {
    let query = AccessQuery {
        principal: Arc::new(Principal {
            kind: PrincipalKind::User,
            id: format!("demo/{}", user.0).into(),
            email: None,
            name: None,
            groups: [Arc::from(user.1)].into(),
            tenant: user.2.map(Arc::from),
        }),
        authentication: Arc::new(Authentication {
            amr: amr.into_iter().map(Arc::from).collect(),
            auth_time: amr.map(|_| NOW),
            ..Authentication::default()
        }),
        action,
        resource: Arc::new(Resource {
            route: route.0.into(),
            application: route.1.into(),
            zone: Some(route.2.into()),
            tenant: route.3.map(Arc::from),
        }),
        context: RequestContext {
            host: "gate.localhost".into(),
            path: "/".into(),
            method: "GET".into(),
            source: IpAddr::V4(Ipv4Addr::LOCALHOST),
            time: NOW,
            device: None,
        },
    };
    let id = DecisionId::new(query.context.time, 1);
    let (allowed, decision) = match engine.decide(id, query) {
        Ok(permit) => (true, permit.decision().clone()),
        Err(denial) => (false, denial.decision().clone()),
    };
    assert!(decision.errors.is_empty(), "{decision:?}");
    let ids: Vec<&str> = decision.determining.iter().map(|policy| policy.id.as_ref()).collect();
    (allowed, if ids.is_empty() { "no policy allows it".to_owned() } else { ids.join(", ") })
}

/// `view` and `operate` where all of a group's actions end alike, else the actions' names.
fn summary(actions: &[Action]) -> String {
    let mut words = Vec::new();
    for (word, group) in [("view", ActionGroup::View), ("operate", ActionGroup::Operate)] {
        let of_group = || Action::ALL.into_iter().filter(|action| action.group() == group);
        if of_group().all(|action| actions.contains(&action)) {
            words.push(word);
        } else {
            let single = of_group().filter(|action| actions.contains(action));
            words.extend(single.map(Action::name));
        }
    }
    words.join(" ")
}

/// One row for all actions that end alike.
fn matrix(engine: &Engine) -> String {
    let mut table = String::new();
    let stronger = [(USERS[3], Some("mfa")), (USERS[4], Some("mfa"))];
    for (user, amr) in USERS.into_iter().map(|user| (user, None)).chain(stronger) {
        for route in ROUTES {
            let mut rows: Vec<((bool, String), Vec<Action>)> = Vec::new();
            for action in Action::ALL {
                let outcome = decide(engine, user, action, route, amr);
                match rows.iter_mut().find(|(known, _)| *known == outcome) {
                    Some((_, actions)) => actions.push(action),
                    None => rows.push((outcome, vec![action])),
                }
            }
            for ((allowed, why), actions) in rows {
                let name = amr.map_or(user.0.to_owned(), |amr| format!("{}+{amr}", user.0));
                let verdict = if allowed { "permit" } else { "deny" };
                let actions = summary(&actions);
                // Writing to a string can't fail.
                let _ =
                    writeln!(table, "{name:<8} {:<14} {verdict:<7} {actions:<13} {why}", route.0);
            }
        }
        table.push('\n');
    }
    table
}

#[test]
fn the_shipped_policies_decide_as_the_reviewed_table_says() {
    let engine = Engine::load(&shipped()).unwrap();
    let now = matrix(&engine);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/policy_matrix.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &now).unwrap();
    }
    let reviewed = std::fs::read_to_string(&file).unwrap();
    let differing = now.lines().zip(reviewed.lines()).position(|(one, other)| one != other);
    assert!(
        now == reviewed,
        "the decision table changed, first at line {:?}; see the head of this file\n{now}",
        differing.map(|line| line + 1)
    );
}

#[test]
fn the_shipped_policy_tests_pass() {
    let policies = shipped();
    let report = suite::run(&policies, &policies.directory.join("tests")).unwrap();
    assert!(report.passed(), "{report}");
    assert_eq!(report.files, 4);
}
