//! Which certificate serves which name.
//!
//! INVARIANT: as long as one that is in date covers a name, none that isn't serves it, whatever
//! their order. That is decided at each handshake: a gate runs for longer than certificates last.
//! Nor does a reload change it: what was served until then stays where what comes is out of date
//! ([`Certificates::keep`]).

use std::collections::{BTreeSet, HashMap};
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
#[derive(Clone, Debug)]
pub(super) struct Certificates {
    clock: Clock,
    exact: Names,
    /// `example.com` for `*.example.com`.
    wildcard: Names,
    /// For clients that name no host: the first, and those that cover all that it covers.
    unnamed: Vec<Arc<Pair>>,
    /// Those in force.
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
            serve(&mut self.exact, &mut self.wildcard, name, &pair);
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

    /// Whether everybody whom the certificate serves gets another one in date when it has expired:
    /// who asks for a name of it, and who names none. Nobody knows whom one without names is for,
    /// so that is missed.
    pub(super) fn is_succeeded(&self, pair: &Pair) -> bool {
        let then = pair.facts.not_after.plus(Duration::from_millis(1));
        let goes_on = |next: Option<&Arc<Pair>>| next.is_none_or(|next| next.is_current(then));
        let names = &pair.facts.names;
        let serves_unnamed = self.unnamed.iter().any(|one| std::ptr::eq(&**one, pair));
        // A name that nothing serves is one that a kept certificate has lost.
        !names.is_empty()
            && names.iter().all(|name| goes_on(self.at(name, then)))
            && (!serves_unnamed || goes_on(choose(self.unnamed.iter(), then)))
    }

    /// Where a certificate out of date would take the place of one of `former` that is in date, for
    /// a name or for clients that name none, keeps the former one behind it: that serves there
    /// until the other is in date, or neither is. Returns each new one with a former one.
    pub(super) fn keep(&mut self, former: &Self, now: Timestamp) -> Vec<Kept> {
        let worse = |new: Option<&Arc<Pair>>, old: Option<&Arc<Pair>>| {
            let (new, old) = (new?, old?);
            (old.is_current(now) && !new.is_current(now))
                .then(|| (Arc::clone(new), Arc::clone(old)))
        };
        let pairs = self.all.iter().chain(&former.all);
        let names: BTreeSet<&str> =
            pairs.flat_map(|pair| &pair.facts.names).map(String::as_str).collect();
        // All are found before one is kept: that would hide another.
        let named: Vec<(String, Kept)> = names
            .into_iter()
            .filter_map(|name| {
                Some((name.to_owned(), worse(self.at(name, now), former.at(name, now))?))
            })
            .collect();
        let unnamed = worse(choose(self.unnamed.iter(), now), choose(former.unnamed.iter(), now));
        for (name, (_, old)) in &named {
            serve(&mut self.exact, &mut self.wildcard, name, old);
        }
        if let Some((_, old)) = &unnamed {
            self.unnamed.push(Arc::clone(old));
        }

        let mut kept: Vec<Kept> = Vec::new();
        for (new, old) in named.into_iter().map(|(_, found)| found).chain(unnamed) {
            if !self.all.iter().any(|known| Arc::ptr_eq(known, &old)) {
                self.all.push(Arc::clone(&old));
            }
            if !kept.iter().any(|(known, _)| Arc::ptr_eq(known, &new)) {
                kept.push((new, old));
            }
        }
        let held_back: Vec<_> =
            kept.iter().map(|(new, _)| new).filter(|new| !self.serves(new, now)).collect();
        let mut all = std::mem::take(&mut self.all);
        all.retain(|pair| !held_back.iter().any(|held| Arc::ptr_eq(held, pair)));
        self.all = all;
        kept
    }

    /// Whether the certificate is served to anybody.
    fn serves(&self, pair: &Arc<Pair>, now: Timestamp) -> bool {
        let named = pair.facts.names.iter().map(|name| self.at(name, now));
        let unnamed = choose(self.unnamed.iter(), now);
        named.chain([unnamed]).flatten().any(|served| Arc::ptr_eq(served, pair))
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

/// A new certificate, and the former one that goes on in its place.
type Kept = (Arc<Pair>, Arc<Pair>);

type Names = HashMap<String, Vec<Arc<Pair>>>;

/// Has the certificate serve the name, after those that do already.
fn serve(exact: &mut Names, wildcard: &mut Names, name: &str, pair: &Arc<Pair>) {
    let (names, name) = match name.strip_prefix("*.") {
        Some(parent) => (wildcard, parent),
        None => (exact, name),
    };
    names.entry(name.to_owned()).or_default().push(Arc::clone(pair));
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
