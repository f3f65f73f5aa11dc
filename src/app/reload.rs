//! Reload: the new configuration is built beside the old one and takes its place as a whole, or
//! nothing changes. Only a certificate out of date doesn't take the place of a good one (`dates`).
//!
//! Ten thousand policies take a second to parse and validate. That is done on a thread of its own,
//! which gives way to the workers: under full load a reload takes longer, not the requests. The
//! control goes on meanwhile, so it answers the watchdog and cuts connections of ended sessions.
//! What is replaced is freed beside them, too, when the last request that began under it is over.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::admin;
use crate::audit;
use crate::config::finding::Finding;
use crate::config::watch::{self, Watcher};
use crate::domain::event::Event;
use crate::pipeline::record;
use crate::pipeline::snapshot::Snapshot;

use super::assemble::{Assembly, assemble};
use super::control::{Control, same_process};
use super::manager;

/// How far the thread stands back: a tenth of a worker's share where both want the processor (nice
/// 10 against 0, `sched(7)`).
const NICE: i32 = 10;

/// Of a refused configuration's findings, and of their text in bytes: `audit` refuses larger records.
const MOST_FINDINGS: usize = 100;
const MOST_TEXT: usize = 64 * 1024;

/// How often it is looked whether a former snapshot is still in use.
const LOOK: Duration = Duration::from_secs(1);

type Built = Result<Assembly, Vec<Finding>>;

/// A configuration that is being built.
#[derive(Debug)]
pub struct Building {
    done: oneshot::Receiver<Built>,
    former: Arc<Snapshot>,
    /// Something changed since it was begun.
    again: bool,
}

/// Resolves when it is built, and never where nothing is. Safe to drop and call again.
pub async fn built(building: Option<&mut Building>) -> Option<Built> {
    match building {
        Some(building) => (&mut building.done).await.ok(),
        None => std::future::pending().await,
    }
}

/// Runs `work` on a thread that gives way to all others.
fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<oneshot::Receiver<T>> {
    let (done, answer) = oneshot::channel();
    std::thread::Builder::new().name("reload".to_owned()).spawn(move || {
        // On Linux this is about the calling thread, and those that it starts. Without it the work
        // is done all the same.
        if let Err(error) = rustix::process::setpriority_process(None, NICE) {
            tracing::debug!(%error, "a reload can't stand back");
        }
        // An error says that nobody waits any more.
        let _ = done.send(work());
    })?;
    Ok(answer)
}

/// Keeps the set of policies for the audit log's readers: before it decides. One that has not changed
/// was kept when it came.
fn archive(built: &Assembly, former: &Snapshot) -> Result<(), Vec<Finding>> {
    let (config, policies) = (&built.config, &built.policies);
    if policies.hash() == former.policies.hash() {
        return Ok(());
    }
    serde_json::to_vec(policies.archive())
        .map_err(std::io::Error::other)
        .and_then(|set| audit::archive_policy_set(&config.audit.directory, policies.hash(), &set))
        .map_err(|error| {
            let cause = format!("the policy set can't be kept: {error}");
            vec![Finding::error(&config.source, cause)]
        })
}

/// The first findings as text, as much as a record and a log line should hold.
fn told(findings: &[Finding]) -> String {
    let mut text = String::new();
    for (number, finding) in findings.iter().enumerate() {
        let finding = finding.to_string();
        if number == MOST_FINDINGS || text.len() + finding.len() > MOST_TEXT {
            let more = findings.len() - number;
            text.push_str(&format!("\nand {more} more: `wicketgate check` shows all"));
            break;
        }
        if number > 0 {
            text.push('\n');
        }
        text.push_str(&finding);
    }
    text
}

/// Frees what was replaced when nobody uses it any more: not on a worker, which would do so in
/// the middle of somebody's request.
async fn put_away(former: Arc<Snapshot>) {
    while Arc::strong_count(&former) > 1 {
        tokio::time::sleep(LOOK).await;
    }
    if aside(move || drop(former)).is_err() {
        tracing::debug!("a former configuration is freed here, for want of a thread");
    }
}

impl Control {
    /// Begins to build what the files say now. When that is being done already, it is done once
    /// more afterwards.
    pub(super) fn begin_reload(&mut self, watcher: &mut Option<Watcher>) {
        if let Some(building) = &mut self.building {
            building.again = true;
            return;
        }
        manager::reloading();
        let (path, workers) = (self.path.clone(), self.workers());
        let (metrics, former) = (Arc::clone(&self.gate.metrics), self.gate.snapshot.load_full());
        let begun = aside({
            let former = Arc::clone(&former);
            let asked = former.policies.asked();
            let config = self.config.clone();
            move || {
                let built = assemble(&path, &metrics, workers, Some(&former))?;
                if let Some(config) = &config {
                    same_process(config, &built.config)?;
                }
                archive(&built, &former)?;
                built.policies.recall(&asked);
                Ok(built)
            }
        });
        match begun {
            Ok(done) => self.building = Some(Building { done, former, again: false }),
            Err(error) => {
                let refused = Err(vec![Finding::error(&self.path, error.to_string())]);
                self.conclude(refused, watcher);
            }
        }
    }

    /// Swaps, or changes nothing.
    pub(super) fn finish_reload(&mut self, built: Option<Built>, watcher: &mut Option<Watcher>) {
        let Some(Building { former, again, .. }) = self.building.take() else { return };
        let failed = || Err(vec![Finding::error(&self.path, "reading the configuration failed")]);
        let result = built.unwrap_or_else(failed);
        let result = result.and_then(|assembly| self.apply(assembly, former));
        self.conclude(result, watcher);
        if again {
            self.begin_reload(watcher);
        }
    }

    fn conclude(&mut self, result: Result<(), Vec<Finding>>, watcher: &mut Option<Watcher>) {
        let now = self.gate.clock.now();
        let error = match result {
            Ok(()) => {
                self.gate.metrics.reloads("applied");
                if let (Some(watcher), Some(config)) = (watcher, &self.config) {
                    watcher.set_paths(watch::paths(config), self.seen.clone());
                }
                self.applied();
                None
            }
            Err(findings) => {
                self.gate.metrics.reloads("refused");
                let text = told(&findings);
                tracing::error!("reload refused, the old configuration stays:\n{text}");
                record::note(&self.gate, now, Event::ConfigurationRefused { reason: text.clone() });
                Some(text)
            }
        };
        manager::ready(&match &error {
            None => self.status(),
            Some(_) => format!("{}; the last reload was refused", self.status()),
        });
        self.state.lock().readiness.last_reload = Some(admin::Reload { at: now, error });
    }

    fn apply(&mut self, mut assembly: Assembly, former: Arc<Snapshot>) -> Result<(), Vec<Finding>> {
        let (logins, clock) = (&self.logins, &self.gate.clock);
        let providers = assembly.providers(logins, clock, Some(&former.providers))?;
        super::log_warnings(&assembly.warnings);
        // From here on nothing can fail.
        self.generation += 1;
        self.keep_in_date(&mut assembly.tls);
        self.gate.snapshot.store(Arc::new(assembly.snapshot(self.generation, providers)));
        self.gate.sessions.reconfigure(&assembly.config.session);
        self.gate.live.wake_all();
        for (name, tls) in assembly.tls {
            if let Some((_, acceptor)) = self.acceptors.iter().find(|(known, _)| *known == name) {
                acceptor.replace(tls);
            }
        }
        self.config = Some(assembly.config);
        self.seen = assembly.seen;
        self.upkeep.spawn(put_away(former));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_findings_the_first_are_told_and_how_many_more_there_are() {
        let finding = |number: usize| Finding::error("a.yaml", format!("mistake {number}"));
        let findings: Vec<_> = (0..3).map(finding).collect();
        let text: Vec<_> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(told(&findings), text.join("\n"));
        let findings: Vec<_> = (0..20_000).map(finding).collect();
        let text = told(&findings);
        assert!(text.contains("mistake 99") && !text.contains("mistake 100"), "{text}");
        assert!(text.ends_with("\nand 19900 more: `wicketgate check` shows all"), "{text}");
        let long = [Finding::error("a.yaml", "x".repeat(MOST_TEXT)), finding(1)];
        assert!(told(&long).ends_with("and 2 more: `wicketgate check` shows all"));
    }
}
