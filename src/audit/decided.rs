//! The record of a decision, the one that every request pays for.
//!
//! Most of its text recurs from request to request: who asks, for what, and what the policies
//! said. That is serialised once and kept, apart for each worker; what is left is written into the
//! worker's own buffer. The text is exactly that of [`Event::Decision`](crate::domain::event::Event).

use std::sync::Arc;

use serde::Serialize;

use super::record;
use crate::domain::decision::Decision;
use crate::domain::event::Occasion;
use crate::domain::id::{DecisionId, SessionId};
use crate::domain::principal::{Authentication, Principal};
use crate::domain::query::{AccessQuery, Action, RequestContext, Resource};

/// Texts that each worker keeps of either kind.
const KEPT: usize = 256;

/// A decision as the log takes it.
#[derive(Clone, Copy, Debug)]
pub struct Decided<'a> {
    pub id: DecisionId,
    pub occasion: Occasion,
    pub query: &'a AccessQuery,
    pub decision: &'a Arc<Decision>,
    pub session: &'a SessionId,
}

/// What one worker keeps. Values are told apart by their address, which can't be another's while
/// they are held here.
#[derive(Default)]
pub(super) struct Kept {
    asked: Table<Asked>,
    decided: Table<Arc<Decision>>,
    text: Vec<u8>,
}

/// Who asks for what.
struct Asked {
    principal: Arc<Principal>,
    authentication: Arc<Authentication>,
    action: Action,
    resource: Arc<Resource>,
}

/// A table in which a newcomer takes the place of whoever has the same one.
struct Table<K> {
    places: Vec<Option<(K, Box<[u8]>)>>,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self { places: Vec::new() }
    }
}

impl<K> Table<K> {
    fn get(
        &mut self,
        address: usize,
        is_it: impl Fn(&K) -> bool,
        make: impl FnOnce() -> Result<(K, Vec<u8>), serde_json::Error>,
    ) -> Result<&[u8], serde_json::Error> {
        if self.places.is_empty() {
            self.places.resize_with(KEPT, || None);
        }
        // Fibonacci hashing: addresses differ in their middle bits.
        let spread = address.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as usize) >> (usize::BITS - 8);
        let Some(place) = self.places.get_mut(spread % KEPT) else { return Ok(&[]) };
        let known = place.take_if(|(key, _)| !is_it(key)).is_none() && place.is_some();
        if !known {
            let (key, text) = make()?;
            *place = Some((key, text.into()));
        }
        Ok(place.as_ref().map_or(&[], |(_, text)| text))
    }
}

#[derive(Serialize)]
struct AskedText<'a> {
    principal: &'a Principal,
    authentication: &'a Authentication,
    action: Action,
    resource: &'a Resource,
}

impl Kept {
    /// The event as a JSON object.
    pub(super) fn encode(&mut self, decided: &Decided<'_>) -> Result<&[u8], serde_json::Error> {
        let Self { asked, decided: decisions, text } = self;
        let query = decided.query;
        text.clear();
        text.extend_from_slice(b"{\"event\":\"decision\",\"id\":\"");
        text.extend_from_slice(&decided.id.encode());
        text.extend_from_slice(match decided.occasion {
            Occasion::Request => b"\",\"occasion\":\"request\",".as_slice(),
            Occasion::Reauthorisation => b"\",\"occasion\":\"reauthorisation\",",
        });
        text.extend_from_slice(
            asked.get(
                Arc::as_ptr(&query.principal)
                    .addr()
                    .wrapping_add(Arc::as_ptr(&query.resource).addr().rotate_left(17)),
                |known| {
                    Arc::ptr_eq(&known.principal, &query.principal)
                        && Arc::ptr_eq(&known.resource, &query.resource)
                        && Arc::ptr_eq(&known.authentication, &query.authentication)
                        && known.action == query.action
                },
                || Ok((Asked::of(query), Asked::text(query)?)),
            )?,
        );
        context(&query.context, text)?;
        text.push(b',');
        let decision = decided.decision;
        text.extend_from_slice(decisions.get(
            Arc::as_ptr(decision).addr(),
            |known| Arc::ptr_eq(known, decision),
            || Ok((Arc::clone(decision), fields(&**decision)?)),
        )?);
        text.extend_from_slice(b",\"session\":\"");
        text.extend_from_slice(&decided.session.digits());
        text.extend_from_slice(b"\"}");
        Ok(text)
    }
}

impl Asked {
    fn of(query: &AccessQuery) -> Self {
        Self {
            principal: Arc::clone(&query.principal),
            authentication: Arc::clone(&query.authentication),
            action: query.action,
            resource: Arc::clone(&query.resource),
        }
    }

    fn text(query: &AccessQuery) -> Result<Vec<u8>, serde_json::Error> {
        fields(&AskedText {
            principal: &query.principal,
            authentication: &query.authentication,
            action: query.action,
            resource: &query.resource,
        })
    }
}

/// What differs from request to request, field by field as serde writes it.
fn context(context: &RequestContext, text: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let RequestContext { host, path, method, source, time, device } = context;
    text.extend_from_slice(b",\"context\":{\"host\":");
    record::write(host, text)?;
    text.extend_from_slice(b",\"path\":");
    record::write(path, text)?;
    text.extend_from_slice(b",\"method\":");
    record::write(method, text)?;
    text.extend_from_slice(b",\"source\":");
    record::write(source, text)?;
    text.extend_from_slice(b",\"time\":");
    record::write(time, text)?;
    if let Some(device) = device {
        text.extend_from_slice(b",\"device\":");
        record::write(device, text)?;
    }
    text.push(b'}');
    Ok(())
}

/// The fields of an object, without its braces.
fn fields(object: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut text = Vec::new();
    record::write(object, &mut text)?;
    text.pop();
    if !text.is_empty() {
        text.remove(0);
    }
    Ok(text)
}
