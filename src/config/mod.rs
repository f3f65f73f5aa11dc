//! The configuration file: from YAML to validated types, every finding reported at once.
//!
//! [`load`] reads the file into a tree ([`yaml`]), the tree into the [`model`] (`parse`, whose keys
//! come from [`reference`]), and checks everything that can be checked without another module:
//! names, addresses, overlaps, files and secrets. Whether certificates cover hosts and policies
//! are valid is found out by those who read them.
//!
//! INVARIANT: a file that isn't wholly good yields no configuration, whatever is wrong with it.

pub mod finding;
pub mod model;
mod parse;
pub mod reference;
pub mod secret;
mod shared;
pub mod watch;
pub mod yaml;

use std::path::Path;

use finding::Finding;
use model::Config;

/// Reads and validates a configuration file. Relative paths in it start at its folder.
///
/// # Errors
/// Every finding, warnings too, when at least one is an error. Without an error the configuration
/// comes with its warnings.
pub fn load(path: &Path) -> Result<(Config, Vec<Finding>), Vec<Finding>> {
    parse::config(path, &yaml::read(path)?)
}

#[cfg(test)]
mod tests;
