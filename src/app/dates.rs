//! Certificates end while the gate runs: what is told of that and when, and that no reload puts one
//! out of date in the place of a good one. Whatever else a reload brings is in force all the same:
//! a revocation or a policy doesn't wait for a certificate.
//!
//! INVARIANT: each stage towards an end is told once for each certificate in force, however often
//! it is looked at, whatever is reloaded, and also when the clock goes back.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::config::watch::Watcher;
use crate::domain::clock::Timestamp;
use crate::domain::event::Event;
use crate::pipeline::record;
use crate::tls::{ServerTls, Stage, Term, What, Worse};

use super::control::Control;

/// Looked at this often also where nothing is due: the clock may be set.
const LONGEST: Duration = Duration::from_secs(30);

/// What is known of the dates of what is in force.
#[derive(Debug, Default)]
pub(super) struct Dates {
    told: HashMap<(Arc<str>, Term), Stage>,
    /// When something comes nearer to its end.
    next: Option<Timestamp>,
    /// When a certificate that was refused becomes valid.
    awaited: Option<Timestamp>,
    /// What the last reload didn't take.
    pub(super) refused: Vec<Worse>,
}

impl Dates {
    /// What is to be told now of what is in force, by listener.
    fn look(
        &mut self,
        in_force: impl Iterator<Item = (Arc<str>, Term)>,
        now: Timestamp,
    ) -> Vec<(Arc<str>, Term, Stage)> {
        let (mut news, mut told) = (Vec::new(), HashMap::new());
        self.next = None;
        for (listener, term) in in_force {
            if term.is_succeeded {
                continue;
            }
            let key = (listener, term);
            let before = self.told.get(&key).copied().unwrap_or(Stage::Good);
            let (stage, next) = (key.1.stage(now), key.1.next(now));
            self.next = [self.next, next].into_iter().flatten().min();
            if told.insert(key.clone(), stage.max(before)).is_none() && stage > before {
                news.push((key.0, key.1, stage));
            }
        }
        self.told = told;
        news
    }
}

impl Control {
    /// Has what is in date go on in a reload where what comes in its place isn't, and tells it.
    pub(super) fn keep_in_date(&mut self, loaded: &mut [(Arc<str>, ServerTls)]) {
        let now = self.gate.clock.now();
        let mut refused = Vec::new();
        for (listener, tls) in loaded {
            let Some((_, acceptor)) = self.acceptors.iter().find(|(known, _)| known == listener)
            else {
                continue;
            };
            for one in acceptor.keep_in_date(tls, now) {
                let reason = one.finding.to_string();
                tracing::error!(%listener, "a certificate is refused, the old one stays:\n{reason}");
                let file = one.finding.file.display().to_string().into();
                let event =
                    Event::CertificateRefused { listener: Arc::clone(listener), file, reason };
                record::note(&self.gate, now, event);
                refused.push(one);
            }
        }
        self.dates.awaited = refused.iter().filter_map(|one| one.begins).min();
        self.dates.refused = refused;
        self.show_refused();
    }

    /// Shows what of the certificates is refused now.
    fn show_refused(&self) {
        let refused = self.dates.refused.iter().map(|one| one.finding.to_string());
        // Listeners may share files.
        let refused: BTreeSet<String> = refused.collect();
        let number = i64::try_from(refused.len()).unwrap_or(i64::MAX);
        self.gate.metrics.certificates_refused.set(number);
        self.state.lock().readiness.refused_certificates = refused.into_iter().collect();
    }

    /// How long until [`heed_dates`](Self::heed_dates) has something to do.
    pub(super) fn until_dates(&self) -> Duration {
        let now = self.gate.clock.now();
        let due = [self.dates.next, self.dates.awaited].into_iter().flatten().min();
        due.map_or(LONGEST, |due| due.since(now).min(LONGEST))
    }

    /// Tells what has come near its end, and tries again what was refused for being too early.
    pub(super) fn heed_dates(&mut self, watcher: &mut Option<Watcher>) {
        self.tell_dates();
        let now = self.gate.clock.now();
        self.dates.refused.retain(|one| one.is_worse(now));
        self.show_refused();
        if self.dates.awaited.take_if(|begins| *begins <= now).is_some() {
            tracing::info!("a certificate has become valid: reading the configuration again");
            self.begin_reload(watcher);
        }
    }

    /// Tells what has come near its end and was not told yet.
    pub(super) fn tell_dates(&mut self) {
        let now = self.gate.clock.now();
        let in_force = self.acceptors.iter().flat_map(|(listener, acceptor)| {
            let terms = acceptor.terms().into_iter();
            terms.map(|term| (Arc::clone(listener), term))
        });
        for (listener, term, stage) in self.dates.look(in_force, now) {
            tell(&listener, &term, stage);
            if let (What::Certificate, Stage::Over) = (term.what, stage) {
                let (file, expired_at) = (term.file, term.ends);
                let event = Event::CertificateExpired { listener, file, expired_at };
                record::note(&self.gate, now, event);
            }
        }
    }
}

fn tell(listener: &str, term: &Term, stage: Stage) {
    let (file, ends) = (&term.file, term.ends);
    match (term.what, stage) {
        (_, Stage::Good) => {}
        (What::Certificate, Stage::Over) => tracing::error!(
            listener, %file, %ends,
            "a certificate has expired and no other covers its names: clients refuse the gate; renew it"
        ),
        (What::RevocationList, _) => tracing::error!(
            listener, %file, %ends,
            "a revocation list is past its time: the clients of its CA are refused; fetch the next one"
        ),
        (What::ClientCa, Stage::Over) => {
            tracing::warn!(listener, %file, %ends, "a certificate of the client CA has expired; renew it");
        }
        (What::Certificate | What::ClientCa, Stage::Last) => {
            tracing::error!(listener, %file, %ends, "a certificate is in its last hours; renew it");
        }
        (What::Certificate | What::ClientCa, Stage::Soon) => {
            tracing::warn!(listener, %file, %ends, "a certificate ends soon; renew it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const BEGIN: Timestamp = Timestamp::from_seconds(1_000_000);

    fn term(file: &str, days: u32) -> (Arc<str>, Term) {
        let (file, ends) = (file.into(), BEGIN.plus(DAY * days));
        let (what, is_succeeded) = (What::Certificate, false);
        ("public".into(), Term { what, file, begins: BEGIN, ends, is_succeeded })
    }

    /// The files that are told of, with how near their ends are.
    fn news(dates: &mut Dates, all: &[(Arc<str>, Term)], day: u32) -> Vec<(String, Stage)> {
        let found = dates.look(all.iter().cloned(), BEGIN.plus(DAY * day));
        found.into_iter().map(|(_, term, stage)| (term.file.to_string(), stage)).collect()
    }

    #[test]
    fn each_stage_is_told_once_also_over_reloads_and_when_the_clock_goes_back() {
        let (mut dates, one, two) = (Dates::default(), term("one", 90), term("two", 365));
        let both = [one.clone(), two];
        assert_eq!(news(&mut dates, &both, 0), []);
        assert_eq!(dates.next, Some(BEGIN.plus(DAY * 76)));
        assert_eq!(news(&mut dates, &both, 76), [("one".to_owned(), Stage::Soon)]);
        assert_eq!(dates.next, Some(BEGIN.plus(DAY * 89)));
        // One of them is gone after a reload.
        let alone = [one];
        for day in [77, 50, 77] {
            assert_eq!(news(&mut dates, &alone, day), [], "{day}");
        }
        // Nobody looked in between.
        assert_eq!(news(&mut dates, &alone, 91), [("one".to_owned(), Stage::Over)]);
        assert_eq!(news(&mut dates, &alone, 92), []);
        assert_eq!(dates.next, None);
    }

    #[test]
    fn a_renewed_certificate_is_another_one() {
        let mut dates = Dates::default();
        assert_eq!(news(&mut dates, &[term("one", 90)], 89), [("one".to_owned(), Stage::Last)]);
        assert_eq!(news(&mut dates, &[term("one", 180)], 89), []);
        assert_eq!(news(&mut dates, &[term("one", 180)], 170), [("one".to_owned(), Stage::Soon)]);
    }

    #[test]
    fn nothing_is_told_of_one_that_another_takes_over_from() {
        let (mut dates, mut one) = (Dates::default(), term("one", 90));
        one.1.is_succeeded = true;
        assert_eq!(news(&mut dates, &[one], 91), []);
        assert_eq!(dates.next, None);
    }
}
