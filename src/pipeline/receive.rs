//! A request gets its id and its time, and with them its snapshot.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::Guard;

use crate::domain::clock::Timestamp;
use crate::domain::connection::ClientAddr;
use crate::domain::id::DecisionId;

use super::client::ClientConnection;
use super::gate::Gate;
use super::rate::Quota;
use super::route::RouteEntry;
use super::snapshot::Snapshot;
use super::source;

/// What every later stage may look at.
#[derive(Debug)]
pub struct Arrival {
    pub id: DecisionId,
    pub at: Timestamp,
    pub begun: Instant,
    pub connection: Arc<ClientConnection>,
    /// Who asks; on a connection of a trusted proxy another one with each request.
    pub client: ClientAddr,
    /// Otherwise `client` is only the nearest proxy that is known, and the request is refused.
    pub client_is_known: bool,
    pub snapshot: Guard<Arc<Snapshot>>,
    pub head: Box<http::request::Parts>,
    /// Known once the request is routed, for records and metrics of a refusal.
    pub route: Option<Arc<RouteEntry>>,
    /// Known once the request is authenticated.
    pub principal: Option<Arc<str>>,
    /// What the rate limits that it met say.
    pub quota: Quota,
}

pub fn receive(
    gate: &Gate,
    connection: &Arc<ClientConnection>,
    head: Box<http::request::Parts>,
) -> Arrival {
    let at = gate.clock.now();
    let client = source::client(connection, &head.headers);
    Arrival {
        id: DecisionId::new(at, random_u128()),
        at,
        begun: Instant::now(),
        connection: Arc::clone(connection),
        client: client.unwrap_or_else(|unreadable| unreadable.nearest),
        client_is_known: client.is_ok(),
        snapshot: gate.snapshot.load(),
        head,
        route: None,
        principal: None,
        quota: Quota::default(),
    }
}

const POOL: usize = 1024;

struct RandomPool {
    bytes: [u8; POOL],
    used: usize,
}

thread_local! {
    // One call to the generator serves 64 ids.
    static RANDOM: RefCell<RandomPool> = const {
        RefCell::new(RandomPool { bytes: [0; POOL], used: POOL })
    };
}

/// 128 bits from the system's cryptographic generator.
pub fn random_u128() -> u128 {
    RANDOM.with_borrow_mut(|pool| {
        if pool.used + 16 > POOL {
            if aws_lc_rs::rand::fill(&mut pool.bytes).is_err() {
                // Without randomness ids would repeat; the time in them still tells them apart.
                return 0;
            }
            pool.used = 0;
        }
        let mut id = [0; 16];
        if let Some(fresh) = pool.bytes.get_mut(pool.used..pool.used + 16) {
            id.copy_from_slice(fresh);
            fresh.fill(0);
        }
        pool.used += 16;
        u128::from_le_bytes(id)
    })
}
