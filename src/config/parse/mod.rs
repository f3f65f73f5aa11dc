//! From the YAML tree to the model, one file a section.
//!
//! Every function records what is wrong and goes on, so that one run reports everything. Where a
//! value that has a default can't be read, the default stands in: the recorded finding keeps the
//! whole configuration from being used.

mod access;
mod applications;
mod backend;
mod bounds;
mod callers;
mod client;
mod files;
mod listeners;
mod providers;
mod refresh;
mod resilience;
mod routes;
mod session;
mod state;
mod store;
mod upstream;
mod values;

use std::path::Path;
use std::sync::Arc;

use super::finding::Finding;
use super::model::{Application, Config};
use super::reference;
use super::yaml::{Cursor, Findings, Map, Node};

use files::Base;

/// Builds the configuration; `file` is where `node` was read from.
///
/// # Errors
/// All findings, when one of them is an error. Without an error they come with the configuration.
pub(super) fn config(file: &Path, node: &Node) -> Result<(Config, Vec<Finding>), Vec<Finding>> {
    let findings = Findings::new(file);
    let config = sections(file, &node.root(&findings));
    let failed = findings.has_errors();
    let findings = findings.into_vec();
    match config {
        Some(config) if !failed => Ok((config, findings)),
        _ => Err(findings),
    }
}

fn sections(file: &Path, root: &Cursor<'_>) -> Option<Config> {
    let base = Base::of(file);
    let top = keys(root)?;
    let listeners = top.required("listeners").map(|at| listeners::listeners(&at, &base));
    let (listeners, addresses) = listeners.unzip();
    let identity_providers =
        top.required("identity_providers").map(|at| providers::identity_providers(&at, &base));
    // Without providers every name of one would be reported as unknown.
    let providers = identity_providers.as_ref().filter(|known| !known.is_empty());
    let session = session::session(&top, &base);
    let devices = top.get("devices").and_then(|at| access::devices(&at, &base));
    let asked = listeners.as_ref().is_none_or(|all| all.iter().any(callers::asks_for_certificates));
    let certificates = asked && top.get("devices").is_some();
    let policies = top.required("policies").and_then(|at| access::policies(&at, &base));
    let own = session.as_ref().map(|(session, _)| session);
    let applications =
        top.required("applications").map(|at| applications::applications(&at, providers, own));
    // Without applications every route would be reported for naming an unknown one.
    let known = applications.as_ref().filter(|known| !known.is_empty());
    let routes =
        top.required("routes").map(|at| routes::routes(&at, known, providers, certificates, &base));
    let audit = top.required("audit").and_then(|at| state::audit(&at, &base));
    let admin = listeners::admin(&top, &addresses.unwrap_or_default(), audit.as_ref(), &base);
    let store = top.required("store").and_then(|at| store::store(&at, own, &base));
    let rate_limits = bounds::rate_limits(&top);
    let limits = bounds::limits(&top);
    let (mut session, sign_out_urls) = session?;
    let applications = applications?;
    let idle = |application: &Arc<Application>| application.session?.idle_timeout;
    session.shortest_idle = applications.iter().filter_map(idle).min();
    Some(Config {
        source: file.to_owned(),
        listeners: listeners?,
        admin: admin?,
        identity_providers: identity_providers?,
        session,
        sign_out_urls,
        devices,
        policies: policies?,
        applications,
        routes: routes?,
        audit: audit?,
        store: store?,
        rate_limits,
        limits,
    })
}

/// The map at a cursor, its keys checked against the reference.
fn keys<'a>(at: &Cursor<'a>) -> Option<Map<'a>> {
    at.map(&reference::children(&pattern(at.path())))
}

/// `routes[2].tls` is described as `routes[].tls`.
fn pattern(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|letter| {
            match letter {
                '[' => inside = true,
                ']' => inside = false,
                _ => return !inside,
            }
            true
        })
        .collect()
}
