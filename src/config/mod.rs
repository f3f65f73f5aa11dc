//! The configuration file: from YAML to validated types, every finding reported at once.

pub mod finding;
pub mod model;
pub mod secret;
pub mod yaml;
