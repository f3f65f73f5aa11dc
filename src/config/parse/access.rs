//! `devices` and `policies`: what is decided by.

use crate::config::model::{Devices, Policies};
use crate::config::yaml::Cursor;

use super::files::{Base, is_file};
use super::keys;

const SCHEMA: &str = "wicketgate.cedarschema";

pub(super) fn devices(at: &Cursor<'_>, base: &Base) -> Option<Devices> {
    let registry = keys(at)?.required("registry").and_then(|at| base.file(&at))?;
    Some(Devices { registry })
}

pub(super) fn policies(at: &Cursor<'_>, base: &Base) -> Option<Policies> {
    let map = keys(at)?;
    let given = map.get("schema");
    let schema = given.as_ref().and_then(|at| base.file(at));
    let directory_at = map.required("directory")?;
    let directory = base.directory(&directory_at)?;
    let schema = match given {
        Some(_) => schema?,
        None => {
            let default = directory.join(SCHEMA);
            is_file(&directory_at, &default).then_some(default)?
        }
    };
    Some(Policies { directory, schema })
}
