//! Which certificate serves which name.
//!
//! INVARIANT: as long as one that is in date covers a name, none that isn't serves it, whatever
//! their order. That is decided at each handshake: a gate runs for longer than certificates last.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::domain::canonical::Host;
use crate::domain::clock::{Clock, Timestamp};
use crate::pem::CertificateFacts;

/// A certificate with its key.
#[derive(Debug)]
pub(super) struct Pair {
    /// The certificate's.
    pub(super) file: PathBuf,
    pub(super) facts: CertificateFacts,
    pub(super) key: Arc<CertifiedKey>,
}

impl Pair {
    fn is_current(&self, now: Timestamp) -> bool {
        self.facts.is_current(now)
    }
}

/// A listener's certificates by the names that they cover.
#[derive(Debug)]
pub(super) struct Certificates {
    clock: Clock,
    exact: HashMap<String, Vec<Arc<Pair>>>,
    /// `example.com` for `*.example.com`.
    wildcard: HashMap<String, Vec<Arc<Pair>>>,
    /// For clients that name no host: the first, and those that cover all that it covers.
    unnamed: Vec<Arc<Pair>>,
    all: Vec<Arc<Pair>>,
}

impl Certificates {
    pub(super) fn new(clock: Clock) -> Self {
        let (exact, wildcard) = (HashMap::new(), HashMap::new());
        Self { clock, exact, wildcard, unnamed: Vec::new(), all: Vec::new() }
    }

    /// Adds a certificate. Of those in date that cover a name, one with the exact name goes before
    /// one with a wildcard, and then an earlier one before a later one.
    pub(super) fn add(&mut self, pair: Pair) {
        let pair = Arc::new(pair);
        for name in &pair.facts.names {
            let (names, name) = match name.strip_prefix("*.") {
                Some(parent) => (&mut self.wildcard, parent),
                None => (&mut self.exact, name.as_str()),
            };
            names.entry(name.to_owned()).or_default().push(Arc::clone(&pair));
        }
        let covers_first = self.unnamed.first().is_none_or(|first| {
            first.facts.names.iter().all(|name| pair.facts.names.contains(name))
        });
        if covers_first {
            self.unnamed.push(Arc::clone(&pair));
        }
        self.all.push(pair);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether some certificate covers the name that a client asks for.
    pub(super) fn has(&self, name: &str) -> bool {
        !matches!(self.of(name), ([], []))
    }

    pub(super) fn covers(&self, host: &Host) -> bool {
        self.all.iter().any(|pair| pair.facts.covers(host))
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = &Pair> {
        self.all.iter().map(|pair| &**pair)
    }

    /// Whether all that the certificate covers has another one in date when it has expired.
    pub(super) fn is_succeeded(&self, pair: &Pair) -> bool {
        let then = pair.facts.not_after.plus(Duration::from_millis(1));
        let mut names = pair.facts.names.iter();
        names.all(|name| self.at(name, then).is_some_and(|next| next.is_current(then)))
    }

    /// Certificates out of date, each with the one of `former` that is in date and whose place it
    /// would take for some name.
    pub(super) fn worse_than<'a>(
        &'a self,
        former: &'a Self,
        now: Timestamp,
    ) -> Vec<(&'a Pair, &'a Pair)> {
        let mut worse: Vec<(&Arc<Pair>, &Arc<Pair>)> = Vec::new();
        let pairs = self.all.iter().chain(&former.all);
        for name in pairs.flat_map(|pair| &pair.facts.names) {
            if let (Some(new), Some(old)) = (self.at(name, now), former.at(name, now))
                && old.is_current(now)
                && !new.is_current(now)
                && !worse.iter().any(|(known, _)| Arc::ptr_eq(known, new))
            {
                worse.push((new, old));
            }
        }
        worse.into_iter().map(|(new, old)| (&**new, &**old)).collect()
    }

    /// Those with the exact name, and those with a wildcard for it. A wildcard's own name finds
    /// the latter.
    fn of(&self, name: &str) -> (&[Arc<Pair>], &[Arc<Pair>]) {
        let exact = self.exact.get(name).map(Vec::as_slice);
        let parent = name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        (exact.unwrap_or_default(), parent.map(Vec::as_slice).unwrap_or_default())
    }

    /// What serves the name at a time.
    fn at(&self, name: &str, now: Timestamp) -> Option<&Arc<Pair>> {
        let (exact, wildcard) = self.of(name);
        choose(exact.iter().chain(wildcard), now)
    }

    /// What serves the name now; without one, a client that names no host.
    fn serving(&self, name: Option<&str>) -> Option<&Arc<Pair>> {
        let (exact, wildcard) = match name {
            Some(name) => self.of(name),
            None => (self.unnamed.as_slice(), &[][..]),
        };
        match (exact, wildcard) {
            // Nothing to choose: the usual case needs no clock.
            ([only], []) | ([], [only]) => Some(only),
            _ => choose(exact.iter().chain(wildcard), self.clock.now()),
        }
    }
}

/// The first that is in date, or else the first.
fn choose<'a>(
    mut pairs: impl Iterator<Item = &'a Arc<Pair>> + Clone,
    now: Timestamp,
) -> Option<&'a Arc<Pair>> {
    pairs.clone().find(|pair| pair.is_current(now)).or_else(|| pairs.next())
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let pair = match hello.server_name() {
            None => self.serving(None),
            // The acceptor has already turned unknown names away, with the fitting alert.
            Some(name) => self.serving(Some(Host::parse(name).ok()?.as_str())),
        };
        pair.map(|pair| Arc::clone(&pair.key))
    }
}
