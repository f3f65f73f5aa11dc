//! `applications`.

use std::sync::Arc;

use crate::config::model::{Application, IdentityProvider, Session};
use crate::config::yaml::Cursor;

use super::values::{Unique, name, unique_name, words};
use super::{keys, providers, session};

pub(super) fn applications(
    at: &Cursor<'_>,
    known: Option<&Vec<Arc<IdentityProvider>>>,
    session: Option<&Session>,
) -> Vec<Arc<Application>> {
    let mut names = Unique::new();
    let application = |entry: &Cursor<'_>| {
        let map = keys(entry)?;
        let own_name = unique_name(&map, &mut names);
        let display_name = map.get("display_name").and_then(|at| words(&at));
        let zone = map.get("zone").and_then(|at| name(&at));
        let tenant = map.get("tenant").and_then(|at| words(&at));
        let identity_providers = providers::taken(&map, known);
        let session = map.get("session").and_then(|at| session::limits(&at, session));
        let name = own_name?;
        let display_name = display_name.unwrap_or_else(|| Arc::clone(&name));
        Some(Arc::new(Application {
            name,
            display_name,
            zone,
            tenant,
            identity_providers,
            session,
        }))
    };
    at.non_empty_list().iter().filter_map(application).collect()
}
