//! A small world for the tests of this module.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::archive::{Archive, SourceText};
use super::engine::Engine;
use crate::config::finding::Finding;
use crate::domain::clock::Timestamp;
use crate::domain::principal::{Authentication, Principal, PrincipalKind};
use crate::domain::query::{AccessQuery, Action, RequestContext, Resource};

pub(super) const SCHEMA: &str = include_str!("../../policies/wicketgate.cedarschema");

pub(super) fn archive(files: &[(&str, &str)]) -> Archive {
    Archive {
        schema: SourceText { name: "wicketgate.cedarschema".into(), text: SCHEMA.into() },
        policies: files
            .iter()
            .map(|(name, text)| SourceText { name: (*name).into(), text: (*text).into() })
            .collect(),
    }
}

/// One file `test.cedar`; `User`, `Group` and so on stand for `Wicketgate::User`, ...
pub(super) fn load(text: &str) -> Result<Engine, Vec<Finding>> {
    Engine::from_archive(archive(&[("test.cedar", &qualify(text))]))
}

pub(super) fn qualify(text: &str) -> String {
    ["User", "Group", "Tenant", "Device", "Zone", "Application", "Route", "Action"]
        .iter()
        .fold(text.to_owned(), |text, kind| {
            text.replace(&format!("{kind}::\""), &format!("Wicketgate::{kind}::\""))
        })
        .replace("Wicketgate::Wicketgate::", "Wicketgate::")
}

pub(super) fn user(id: &str, groups: &[&str], tenant: Option<&str>) -> Arc<Principal> {
    Arc::new(Principal {
        kind: PrincipalKind::User,
        id: id.into(),
        email: None,
        name: None,
        groups: groups.iter().map(|group| Arc::from(*group)).collect::<BTreeSet<_>>(),
        tenant: tenant.map(Arc::from),
    })
}

pub(super) fn route(name: &str, application: &str, tenant: Option<&str>) -> Arc<Resource> {
    Arc::new(Resource {
        route: name.into(),
        application: application.into(),
        zone: Some("control".into()),
        tenant: tenant.map(Arc::from),
    })
}

pub(super) fn query(
    principal: &Arc<Principal>,
    action: Action,
    resource: &Arc<Resource>,
) -> AccessQuery {
    AccessQuery {
        principal: Arc::clone(principal),
        authentication: Arc::new(Authentication::default()),
        action,
        resource: Arc::clone(resource),
        context: RequestContext {
            host: "ics.localhost".into(),
            path: "/pumps/7".into(),
            method: "GET".into(),
            source: IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)),
            time: Timestamp::from_seconds(1_795_298_770),
            device: None,
        },
    }
}
