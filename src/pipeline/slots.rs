//! How many requests may be on their way at once: on a route, and to a set of upstream endpoints.
//!
//! What is full answers 503 at once instead of queueing: a backend that is late doesn't get more
//! to be late with, and the gate holds a bounded number of requests whatever happens behind it.
//!
//! A WebSocket is no request: it rests most of the time and stays for hours, so it has a bound of
//! its own and leaves the requests' places alone.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::rate::Limits;
use super::refusal::Refusal;
use super::snapshot::Snapshot;
use crate::config::model::Route;
use crate::domain::canonical::Host;

/// Counts what is on its way, over all workers, by the references to one token: taking a place and
/// giving it back are one atomic step each.
///
/// INVARIANT: nothing but a [`Slot`] holds a second reference.
#[derive(Debug, Default)]
struct Slots(Arc<()>);

impl Slots {
    /// Never more than `limit`. Two that race for the last place may both find none.
    fn take(&self, limit: usize) -> Option<Slot> {
        let slot = Slot(Arc::clone(&self.0));
        (Arc::strong_count(&slot.0) - 1 <= limit).then_some(slot)
    }
}

/// One place, free again when it is dropped: at the end of the answer's body, however it ends.
#[derive(Debug)]
struct Slot(Arc<()>);

/// What tells sets of endpoints apart: routes that share one share its places.
type Endpoints = BTreeSet<(Host, u16)>;

/// The endpoints of a route, whatever their weights and order.
fn endpoints(route: &Route) -> Endpoints {
    let endpoints = route.upstream.endpoints.iter();
    endpoints.map(|endpoint| (endpoint.host.clone(), endpoint.port)).collect()
}

/// The places of a route. They outlive a reload: what was on its way before still is.
#[derive(Clone, Debug, Default)]
pub struct Places {
    requests: Arc<Slots>,
    websockets: Arc<Slots>,
    upstream: Arc<Slots>,
}

impl Places {
    /// Takes a place for a request, or for a WebSocket.
    ///
    /// # Errors
    /// `Busy` when there is none.
    pub fn take(&self, route: &Route, websocket: bool) -> Result<Held, Refusal> {
        if websocket {
            let slot = self.websockets.take(route.bounds.max_websockets);
            let route = slot.ok_or(Refusal::Busy("websockets"))?;
            return Ok(Held { _route: route, _upstream: None });
        }
        let own = self.requests.take(route.bounds.max_in_flight).ok_or(Refusal::Busy("route"))?;
        let upstream = match route.bounds.max_upstream_in_flight {
            Some(limit) => Some(self.upstream.take(limit).ok_or(Refusal::Busy("upstream"))?),
            None => None,
        };
        Ok(Held { _route: own, _upstream: upstream })
    }
}

/// The places of one request, given back when it is dropped.
#[derive(Debug)]
pub struct Held {
    _route: Slot,
    _upstream: Option<Slot>,
}

/// Finds limits and places for the routes of a configuration, with the counts of the one before.
#[derive(Debug)]
pub struct Bounds<'a> {
    former: Option<&'a Snapshot>,
    shared: HashMap<Endpoints, Places>,
}

impl<'a> Bounds<'a> {
    pub fn after(former: Option<&'a Snapshot>) -> Self {
        let entries = former.into_iter().flat_map(|former| former.routes.entries());
        let bounded = entries.filter(|entry| entry.config.bounds.max_upstream_in_flight.is_some());
        let shared = bounded.map(|entry| (endpoints(&entry.config), entry.places.clone()));
        Self { former, shared: shared.collect() }
    }

    pub fn of(&mut self, route: &Route) -> (Limits, Places) {
        let former = self.former.and_then(|former| former.routes.named(&route.name));
        let limits = Limits::of_route(&route.bounds.rate_limits, former.map(|entry| &entry.limits));
        let mut places = former.map(|entry| entry.places.clone()).unwrap_or_default();
        if route.bounds.max_upstream_in_flight.is_some() {
            let first = self.shared.entry(endpoints(route)).or_default();
            places.upstream = Arc::clone(&first.upstream);
        }
        (limits, places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_however_its_request_ends() {
        let slots = Slots::default();
        let first = slots.take(2).unwrap();
        let second = slots.take(2).unwrap();
        assert!(slots.take(2).is_none());
        drop(first);
        let third = slots.take(2).unwrap();
        assert!(slots.take(2).is_none());
        drop((second, third));
        assert_eq!(Arc::strong_count(&slots.0), 1, "those who found none left nothing behind");
    }
}
