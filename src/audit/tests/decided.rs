//! The record of a decision, put together from kept text, is the one that serde would make.

use super::*;
use crate::audit::decided::Kept;
use crate::domain::decision::PolicyRef;
use crate::domain::device::{Device, Posture};
use crate::domain::id::SessionId;
use crate::domain::principal::Authentication;

fn query(user: &str, route: &str, action: Action, path: &str) -> AccessQuery {
    let principal = Principal {
        kind: PrincipalKind::User,
        id: user.into(),
        email: None,
        name: Some("A \"quoted\"\u{202e} name\n".into()),
        groups: ["a".into(), "b".into()].into(),
        tenant: Some("acme".into()),
    };
    AccessQuery {
        principal: Arc::new(principal),
        authentication: Arc::new(Authentication {
            acr: Some("mfa".into()),
            amr: ["otp".into()].into(),
            auth_time: Some(second(1)),
            scopes: ["orders:read".into()].into(),
            client: Some("erp".into()),
            ..Authentication::default()
        }),
        action,
        resource: Arc::new(Resource {
            route: route.into(),
            application: "app".into(),
            zone: None,
            tenant: Some("globex".into()),
        }),
        context: RequestContext {
            host: "portal.localhost".into(),
            path: path.into(),
            method: "GET".into(),
            source: "2001:db8::1".parse().unwrap(),
            time: second(2),
            device: None,
        },
    }
}

fn verdict(verdict: Verdict, policies: &[&str]) -> Arc<Decision> {
    Arc::new(Decision {
        verdict,
        policy_set: PolicySetHash("ab12".into()),
        determining: policies
            .iter()
            .map(|id| PolicyRef { id: (*id).into(), file: "a.cedar".into(), line: 7 })
            .collect(),
        errors: if policies.is_empty() { vec!["it \u{7f} failed".into()] } else { vec![] },
    })
}

#[test]
fn what_is_put_together_is_what_serde_would_have_made() {
    let mut queries = vec![
        query("idp/ada", "portal", Action::HttpGet, "/documents"),
        query("idp/ada", "portal", Action::HttpPost, "/documents/\u{e9}\u{200b}\\\""),
        query("idp/vera", "ics", Action::WebSocketSend, "/"),
    ];
    // The same principal and resource with another action, authentication or device.
    let mut other = queries[0].clone();
    other.action = Action::HttpDelete;
    queries.push(other);
    let mut other = queries[0].clone();
    other.authentication = Arc::default();
    queries.push(other);
    let mut other = queries[2].clone();
    other.context.device = Some(Arc::new(Device {
        id: "laptop-7".into(),
        owner: Some("idp/vera".into()),
        posture: Some(Posture {
            observed_at: second(0),
            managed: Some(true),
            disk_encrypted: None,
            firewall: Some(false),
            endpoint_protection: None,
            screen_lock: None,
            os: Some("linux".into()),
            os_version: None,
            patch_age_days: Some(-3),
        }),
    }));
    queries.push(other);
    let decisions = [verdict(Verdict::Permit, &["a", "b#2"]), verdict(Verdict::Deny, &[])];
    let mut kept = Kept::default();
    // Twice, so that the second round finds what the first one kept.
    for number in 0..2 * queries.len() * decisions.len() {
        let query = &queries[number % queries.len()];
        let decision = &decisions[number / queries.len() % decisions.len()];
        let occasion = if number % 2 == 0 { Occasion::Request } else { Occasion::Reauthorisation };
        let session = SessionId([u8::try_from(number).unwrap() | 0xa0; 32]);
        let id = id(i64::try_from(number).unwrap());
        let event = Event::Decision {
            id,
            occasion,
            query: Box::new(query.clone()),
            decision: Decision::clone(decision),
            session: Some(session.short()),
        };
        let decided = Decided { id, occasion, query, decision, session: &session };
        let text = String::from_utf8(kept.encode(&decided).unwrap().to_vec()).unwrap();
        assert_eq!(text, String::from_utf8(record::encode(&event).unwrap()).unwrap());
    }
}

#[test]
fn nothing_kept_is_taken_for_something_else_however_many_ask() {
    let mut kept = Kept::default();
    let session = SessionId([7; 32]);
    let decision = verdict(Verdict::Permit, &["a"]);
    // Each is dropped before the next is made, so that its addresses come again.
    for number in 0..3000 {
        let query = query(&format!("idp/{number}"), "portal", Action::HttpGet, "/");
        let decided = Decided {
            id: id(1),
            occasion: Occasion::Request,
            query: &query,
            decision: &decision,
            session: &session,
        };
        let text = String::from_utf8(kept.encode(&decided).unwrap().to_vec()).unwrap();
        assert!(text.contains(&format!("\"id\":\"idp/{number}\"")), "{number}: {text}");
    }
}
