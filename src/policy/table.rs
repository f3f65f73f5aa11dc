//! Decision tables: YAML files that say who may do what, read into queries.
//!
//! ```yaml
//! principals:
//!   ada: { groups: [customers], tenant: acme }
//! devices:
//!   laptop: { owner: ada, posture: { age: 2h, managed: true } }
//! resources:
//!   portal: { application: customer-portal, zone: enterprise }
//! cases:
//!   - name: customers see the portal
//!     principal: ada
//!     action: view                 # a group, an action, or a list of them
//!     resource: portal
//!     context: { amr: [mfa], device: laptop }
//!     expect: permit
//!     because: [customer-portal/view]
//! ```

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::finding::Finding;
use crate::config::yaml::{self, Cursor, Findings, Map};
use crate::domain::clock::Timestamp;
use crate::domain::decision::Verdict;
use crate::domain::device::{Device, Posture};
use crate::domain::principal::{Authentication, Principal, PrincipalKind};
use crate::domain::query::{AccessQuery, Action, ActionGroup, RequestContext, Resource};

/// One row: every query of it has to end the same way.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) line: u32,
    pub(super) queries: Vec<AccessQuery>,
    pub(super) expect: Verdict,
    /// The ids that have to determine the decision, all of them and no others.
    pub(super) because: Option<BTreeSet<String>>,
}

/// The time of day does not matter to a test that doesn't name one: 2026-01-01T12:00:00Z.
const NOON: Timestamp = Timestamp::from_seconds(1_767_268_800);

/// Reads a table.
pub(super) fn read(file: &Path) -> Result<Vec<Case>, Vec<Finding>> {
    let node = yaml::read(file)?;
    let findings = Findings::new(file);
    let cases = read_cases(&node.root(&findings));
    let failed = findings.has_errors();
    match cases {
        Some(cases) if !failed => Ok(cases),
        _ => Err(findings.into_vec()),
    }
}

struct World {
    principals: HashMap<String, Arc<Principal>>,
    devices: HashMap<String, TestDevice>,
    resources: HashMap<String, Arc<Resource>>,
}

/// A posture's age is known, the time that it is counted from is the case's.
struct TestDevice {
    device: Device,
    posture_age: Option<std::time::Duration>,
}

fn read_cases(root: &Cursor<'_>) -> Option<Vec<Case>> {
    let top = root.map(&["principals", "devices", "resources", "cases"])?;
    let principals = top.required("principals")?;
    let resources = top.required("resources")?;
    let world = World {
        principals: each(&principals, principal),
        devices: top.get("devices").map(|devices| each(&devices, device)).unwrap_or_default(),
        resources: each(&resources, resource),
    };
    let cases = top.required("cases")?;
    Some(cases.non_empty_list().iter().filter_map(|at| case(at, &world)).collect())
}

fn each<T>(at: &Cursor<'_>, read: impl Fn(&str, &Cursor<'_>) -> Option<T>) -> HashMap<String, T> {
    at.named()
        .into_iter()
        .filter_map(|(name, at)| read(name, &at).map(|value| (name.to_owned(), value)))
        .collect()
}

fn text(map: &Map<'_>, key: &str) -> Option<Arc<str>> {
    map.get(key).and_then(|at| at.text().map(Arc::from))
}

fn texts(map: &Map<'_>, key: &str) -> BTreeSet<Arc<str>> {
    let list = map.get(key).map(|at| at.list()).unwrap_or_default();
    list.iter().filter_map(|at| at.text().map(Arc::from)).collect()
}

fn principal(name: &str, at: &Cursor<'_>) -> Option<Arc<Principal>> {
    let map = at.map(&["kind", "id", "email", "name", "groups", "tenant"])?;
    let kinds = [("user", PrincipalKind::User), ("service", PrincipalKind::Service)];
    Some(Arc::new(Principal {
        kind: map.or("kind", PrincipalKind::User, |at| at.choice(&kinds)),
        id: text(&map, "id").unwrap_or_else(|| name.into()),
        email: text(&map, "email"),
        name: text(&map, "name"),
        groups: texts(&map, "groups"),
        tenant: text(&map, "tenant"),
    }))
}

fn resource(name: &str, at: &Cursor<'_>) -> Option<Arc<Resource>> {
    let map = at.map(&["route", "application", "zone", "tenant"])?;
    Some(Arc::new(Resource {
        route: text(&map, "route").unwrap_or_else(|| name.into()),
        application: map.required("application")?.text()?.into(),
        zone: text(&map, "zone"),
        tenant: text(&map, "tenant"),
    }))
}

fn device(name: &str, at: &Cursor<'_>) -> Option<TestDevice> {
    let map = at.map(&["owner", "posture"])?;
    let mut posture_age = None;
    let posture = match map.get("posture") {
        None => None,
        Some(at) => {
            let facts = at.map(&[
                "age",
                "managed",
                "disk_encrypted",
                "firewall",
                "endpoint_protection",
                "screen_lock",
                "os",
                "os_version",
                "patch_age_days",
            ])?;
            posture_age = Some(facts.required("age")?.duration()?);
            let flag = |key: &str| facts.get(key).and_then(|at| at.boolean());
            Some(Posture {
                observed_at: NOON,
                managed: flag("managed"),
                disk_encrypted: flag("disk_encrypted"),
                firewall: flag("firewall"),
                endpoint_protection: flag("endpoint_protection"),
                screen_lock: flag("screen_lock"),
                os: text(&facts, "os"),
                os_version: text(&facts, "os_version"),
                patch_age_days: facts
                    .get("patch_age_days")
                    .and_then(|at| at.number(0_i64, 100_000)),
            })
        }
    };
    let device = Device { id: name.into(), owner: text(&map, "owner"), posture };
    Some(TestDevice { device, posture_age })
}

/// The value that a name stands for, or a finding.
fn resolve<'w, T>(at: &Cursor<'_>, kind: &str, known: &'w HashMap<String, T>) -> Option<&'w T> {
    let name = at.text()?;
    let found = known.get(name);
    if found.is_none() {
        let cause = format!("{} is not one of the {kind} of this file", yaml::quote(name));
        match yaml::closest(name, known.keys().map(String::as_str)) {
            Some(meant) => at.error_with(cause, format!("did you mean `{meant}`?")),
            None => at.error(cause),
        }
    }
    found
}

/// A value, or a list of values.
fn one_or_more<'a>(at: Cursor<'a>) -> Vec<Cursor<'a>> {
    if at.is_list() { at.non_empty_list() } else { vec![at] }
}

fn actions(at: &Cursor<'_>) -> Option<Vec<Action>> {
    let of = |group| Action::ALL.into_iter().filter(|one| one.group() == group).collect();
    let mut choices: Vec<(&str, Vec<Action>)> =
        Action::ALL.iter().map(|action| (action.name(), vec![*action])).collect();
    choices.push(("view", of(ActionGroup::View)));
    choices.push(("operate", of(ActionGroup::Operate)));
    at.choice(&choices)
}

fn case(at: &Cursor<'_>, world: &World) -> Option<Case> {
    let map =
        at.map(&["name", "principal", "action", "resource", "context", "expect", "because"])?;
    let name = map.required("name").and_then(|at| at.text().map(str::to_owned));
    let principals: Vec<_> = one_or_more(map.required("principal")?)
        .iter()
        .map(|at| resolve(at, "principals", &world.principals))
        .collect::<Option<_>>()?;
    let actions: Vec<Vec<Action>> =
        one_or_more(map.required("action")?).iter().map(actions).collect::<Option<_>>()?;
    let resources: Vec<_> = one_or_more(map.required("resource")?)
        .iter()
        .map(|at| resolve(at, "resources", &world.resources))
        .collect::<Option<_>>()?;
    let (authentication, context) = match map.get("context") {
        Some(at) => context(&at, world)?,
        None => (Arc::default(), plain_context()),
    };
    let verdicts = [("permit", Verdict::Permit), ("deny", Verdict::Deny)];
    let expect = map.required("expect")?.choice(&verdicts)?;
    let because = map
        .get("because")
        .map(|at| at.list().iter().filter_map(|at| at.text().map(str::to_owned)).collect());
    let mut queries = Vec::new();
    for principal in &principals {
        for action in actions.iter().flatten() {
            for resource in &resources {
                queries.push(AccessQuery {
                    principal: Arc::clone(principal),
                    authentication: Arc::clone(&authentication),
                    action: *action,
                    resource: Arc::clone(resource),
                    context: context.clone(),
                });
            }
        }
    }
    Some(Case { name: name?, line: at.line(), queries, expect, because })
}

fn plain_context() -> RequestContext {
    RequestContext {
        host: "gate.example".into(),
        path: "/".into(),
        method: "GET".into(),
        source: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        time: NOON,
        device: None,
    }
}

fn context(at: &Cursor<'_>, world: &World) -> Option<(Arc<Authentication>, RequestContext)> {
    let map = at.map(&[
        "host",
        "path",
        "method",
        "source",
        "time",
        "acr",
        "amr",
        "auth_age",
        "session_age",
        "scopes",
        "client",
        "device",
    ])?;
    let plain = plain_context();
    let time =
        map.or("time", plain.time, |at| at.parsed(instant, "write it as `2026-11-21T22:00:00Z`"));
    let ago = |key: &str| map.get(key)?.duration().map(|age| time.minus(age));
    let authentication = Authentication {
        acr: text(&map, "acr"),
        amr: texts(&map, "amr"),
        auth_time: ago("auth_age"),
        session_started: ago("session_age"),
        scopes: texts(&map, "scopes"),
        client: text(&map, "client"),
    };
    let device = match map.get("device") {
        None => None,
        Some(at) => {
            let known = resolve(&at, "devices", &world.devices)?;
            let mut device = known.device.clone();
            if let (Some(posture), Some(age)) = (&mut device.posture, known.posture_age) {
                posture.observed_at = time.minus(age);
            }
            Some(Arc::new(device))
        }
    };
    let context = RequestContext {
        host: text(&map, "host").unwrap_or(plain.host),
        path: text(&map, "path").unwrap_or(plain.path),
        method: text(&map, "method").unwrap_or(plain.method),
        source: map.or("source", plain.source, |at| at.parsed(str::parse, "write an IP address")),
        time,
        device,
    };
    Some((Arc::new(authentication), context))
}

fn instant(text: &str) -> Result<Timestamp, time::error::Parse> {
    let at = OffsetDateTime::parse(text, &Rfc3339)?;
    Ok(Timestamp::from_millis(
        at.unix_timestamp().saturating_mul(1000) + i64::from(at.millisecond()),
    ))
}
