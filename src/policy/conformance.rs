//! Shows, before a set decides anything, that its schema describes what the gate really sends.
//!
//! A schema that calls an attribute required which the gate leaves out, or names it otherwise,
//! would let validation accept policies that always fail. So the largest and the smallest query
//! of every action are held against the schema.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use cedar_policy::{Entities, Request, Schema};

use super::context::Projection;
use super::engine::Engine;
use super::footprint::Footprint;
use crate::domain::clock::Timestamp;
use crate::domain::device::{Device, Posture};
use crate::domain::principal::{Authentication, Principal, PrincipalKind};
use crate::domain::query::{AccessQuery, Action, RequestContext, Resource};

/// The error says what does not fit.
pub(super) fn check(engine: &Engine, schema: &Schema) -> Result<(), String> {
    for action in Action::ALL {
        for kind in [PrincipalKind::User, PrincipalKind::Service] {
            for query in [smallest(action, kind), largest(action, kind)] {
                check_query(engine, schema, &query).map_err(|error| {
                    format!("the schema does not fit what the gate asks: {error}")
                })?;
            }
        }
    }
    Ok(())
}

fn check_query(engine: &Engine, schema: &Schema, query: &AccessQuery) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let question = engine.question(query).map_err(|error| text(&error))?;
    let projection = Projection::new(Footprint::ALL, query);
    let (request, with_device) =
        engine.request(&question, &projection).map_err(|error| text(&error))?;
    let entities = with_device.unwrap_or(question.entities);
    Entities::from_entities(entities, Some(schema)).map_err(|error| text(&error))?;
    let context = request.context().cloned().unwrap_or_else(cedar_policy::Context::empty);
    Request::new(question.principal, question.action, question.resource, context, Some(schema))
        .map(|_| ())
        .map_err(|error| text(&error))
}

fn smallest(action: Action, kind: PrincipalKind) -> AccessQuery {
    AccessQuery {
        principal: Arc::new(Principal {
            kind,
            id: "provider/subject".into(),
            email: None,
            name: None,
            groups: BTreeSet::new(),
            tenant: None,
        }),
        authentication: Arc::new(Authentication::default()),
        action,
        resource: Arc::new(Resource {
            route: "route".into(),
            application: "application".into(),
            zone: None,
            tenant: None,
        }),
        context: RequestContext {
            host: "host".into(),
            path: "/".into(),
            method: "GET".into(),
            source: IpAddr::V4(Ipv4Addr::LOCALHOST),
            time: Timestamp::from_seconds(0),
            device: None,
        },
    }
}

fn largest(action: Action, kind: PrincipalKind) -> AccessQuery {
    let at = Timestamp::from_seconds(0);
    let smallest = smallest(action, kind);
    AccessQuery {
        principal: Arc::new(Principal {
            email: Some("someone@example.com".into()),
            name: Some("Someone".into()),
            groups: BTreeSet::from(["group".into()]),
            tenant: Some("tenant".into()),
            ..Principal::clone(&smallest.principal)
        }),
        authentication: Arc::new(Authentication {
            acr: Some("acr".into()),
            amr: BTreeSet::from(["mfa".into()]),
            auth_time: Some(at),
            session_started: Some(at),
            // Schemas from before access tokens were taken don't know of their scopes and clients;
            // then no valid policy reads them.
            ..Authentication::default()
        }),
        resource: Arc::new(Resource {
            zone: Some("zone".into()),
            tenant: Some("tenant".into()),
            ..Resource::clone(&smallest.resource)
        }),
        context: RequestContext {
            path: "/1/2/3/4/5/6/7/8/9".into(),
            device: Some(Arc::new(Device {
                id: "device".into(),
                owner: Some("provider/subject".into()),
                posture: Some(Posture {
                    observed_at: at,
                    managed: Some(true),
                    disk_encrypted: Some(true),
                    firewall: Some(true),
                    endpoint_protection: Some(true),
                    screen_lock: Some(true),
                    os: Some("os".into()),
                    os_version: Some("1".into()),
                    patch_age_days: Some(1),
                }),
            })),
            ..smallest.context
        },
        ..smallest
    }
}
