//! A client's connection, and what its requests have in common, worked out once.
//!
//! Nearly all requests of a connection ask the same host for the same session. That session is kept
//! at hand, and the header fields that tell upstreams of both are made for the first of them and
//! handed out again. They belong to the
//! connection, which lives on one worker, so that workers share none of it.
//!
//! INVARIANT: what is kept here is only ever found under everything that it was made of.

use std::ops::Deref;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use parking_lot::{Mutex, MutexGuard};

use super::gate::Gate;
use super::headers;
use super::prepare::{self, value};
use super::receive::Arrival;
use super::refusal::Refusal;
use crate::domain::canonical::Authority;
use crate::domain::clock::Timestamp;
use crate::domain::connection::{ClientAddr, Connection};
use crate::domain::principal::Principal;
use crate::identity::certificate::ClientCertificate;
use crate::identity::credential::Credential;
use crate::identity::session::{Cached, Known, Session, Sessions};
use crate::posture::Registry;

#[derive(Debug)]
pub struct ClientConnection {
    pub gate: Arc<Gate>,
    facts: Connection,
    told: Mutex<Told>,
}

impl Deref for ClientConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.facts
    }
}

impl ClientConnection {
    pub fn new(gate: Arc<Gate>, facts: Connection) -> Arc<Self> {
        Arc::new(Self { gate, facts, told: Mutex::default() })
    }

    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock()
    }
}

/// The fields of the last request.
#[derive(Debug, Default)]
pub(super) struct Told {
    place: Option<Place>,
    names: Option<Names>,
    assertion: Option<Assertion>,
    session: Option<Known>,
    service: Option<Box<LookedUp>>,
}

/// What a registry said of the client's certificate.
#[derive(Debug)]
struct LookedUp {
    registry: Arc<Registry>,
    at: Timestamp,
    service: Option<Arc<ClientCertificate>>,
}

/// Which host was asked for, and by whom.
#[derive(Debug)]
pub(super) struct Place {
    authority: Authority,
    client: ClientAddr,
    pub host: HeaderValue,
    pub forwarded: HeaderValue,
    pub forwarded_for: HeaderValue,
}

#[derive(Debug)]
struct Names {
    principal: Arc<Principal>,
    fields: Box<[(HeaderName, HeaderValue)]>,
}

#[derive(Debug)]
struct Assertion {
    principal: Arc<Principal>,
    audience: Arc<str>,
    value: HeaderValue,
    made: Timestamp,
}

impl Told {
    /// The session of a cookie, unless it has to be read from the store.
    pub fn session(
        &mut self,
        sessions: &Sessions,
        cookie_value: &str,
        now: Timestamp,
    ) -> Option<Arc<Session>> {
        let known = self.session.as_ref();
        if let Some(session) = known.and_then(|known| sessions.find_known(known, cookie_value, now))
        {
            return Some(session);
        }
        self.session = None;
        let Cached::Hit(session) = sessions.find_cached(cookie_value, now) else { return None };
        self.session = Some(Known::new(cookie_value, &session));
        Some(session)
    }

    /// The service that the client's certificate stands for. Looked up once a second and whenever
    /// the registry is another.
    pub fn service(&mut self, arrival: &Arrival) -> Option<Arc<ClientCertificate>> {
        let der = arrival.connection.client_certificate.as_ref()?;
        let (devices, now) = (&arrival.snapshot.devices, arrival.at);
        let known = self.service.as_ref().filter(|known| {
            Arc::ptr_eq(&known.registry, devices) && known.at.as_seconds() == now.as_seconds()
        });
        if let Some(known) = known {
            return known.service.clone();
        }
        let found = devices.service(der, now);
        let former = self.service.take().and_then(|known| known.service);
        let service = match (former, found) {
            (Some(former), Some(found)) if former.principal == found => Some(former),
            (_, found) => found.map(|principal| Arc::new(ClientCertificate::new(der, principal))),
        };
        let (registry, at) = (Arc::clone(devices), now);
        self.service = Some(Box::new(LookedUp { registry, at, service: service.clone() }));
        service
    }

    /// What this text was read as, when the last request named its host so.
    pub fn authority(&self, text: &[u8]) -> Option<Authority> {
        let place = self.place.as_ref().filter(|place| place.host == *text)?;
        Some(place.authority.clone())
    }

    pub fn place(&mut self, authority: &Authority, client: ClientAddr) -> Result<&Place, Refusal> {
        let known = |place: &Place| place.client == client && place.authority == *authority;
        let place = match self.place.take().filter(known) {
            Some(place) => place,
            None => Place::new(authority, client)?,
        };
        Ok(self.place.insert(place))
    }

    /// A field that the principal lacks is absent: it was stripped before, so nobody else's
    /// survives (CVE-2026-30851).
    pub fn names(&mut self, caller: &Credential) -> &[(HeaderName, HeaderValue)] {
        // A certificate stays the same when the registry says something else of it.
        let principal = caller.principal();
        let names = match self.names.take().filter(|names| is_same(&names.principal, principal)) {
            Some(names) => names,
            None => {
                let fields = prepare::identity_fields(principal);
                Names { principal: Arc::clone(principal), fields }
            }
        };
        &self.names.insert(names).fields
    }

    pub fn assertion(
        &mut self,
        gate: &Gate,
        caller: &Credential,
        audience: &Arc<str>,
        now: Timestamp,
    ) -> Result<HeaderValue, Refusal> {
        if let Some(kept) = &self.assertion
            && is_same(&kept.principal, caller.principal())
            && (Arc::ptr_eq(&kept.audience, audience) || kept.audience == *audience)
            && gate.signer.is_fresh(kept.made, now)
        {
            return Ok(kept.value.clone());
        }
        let (value, made) = gate.signer.assertion(caller, audience, now).map_err(|error| {
            tracing::error!(%error, "the identity assertion can't be signed");
            Refusal::SessionsUnavailable
        })?;
        self.assertion = Some(Assertion {
            principal: Arc::clone(caller.principal()),
            audience: Arc::clone(audience),
            value: value.clone(),
            made,
        });
        Ok(value)
    }
}

fn is_same(one: &Arc<Principal>, other: &Arc<Principal>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

impl Place {
    /// Where the request came from, as the gate saw it: RFC 7239, and the older `X-Forwarded-For`.
    fn new(authority: &Authority, client: ClientAddr) -> Result<Self, Refusal> {
        let host = authority.to_string();
        let address = client.0.to_string();
        let quoted = if client.0.is_ipv6() { format!("\"[{address}]\"") } else { address.clone() };
        Ok(Self {
            authority: authority.clone(),
            client,
            forwarded: value(format!("for={quoted};host=\"{host}\";proto=https"))?,
            forwarded_for: value(address)?,
            host: value(host)?,
        })
    }

    /// Says so in a request's header.
    pub fn tell(&self, headers: &mut http::HeaderMap) {
        headers.insert(http::header::FORWARDED, self.forwarded.clone());
        headers.insert(headers::FORWARDED_FOR, self.forwarded_for.clone());
        headers.insert(headers::FORWARDED_HOST, self.host.clone());
        headers.insert(headers::FORWARDED_PROTO, HeaderValue::from_static("https"));
    }
}
