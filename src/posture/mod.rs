//! Which device a connection comes from, and what is known of its health.
//!
//! A client certificate that the device CA signed identifies a device or a service of the registry, a
//! YAML file that is replaced as a whole. The types in [`crate::domain::device`] say nothing of where
//! a fact came from.
//!
//! INVARIANT: a fact that nobody observed is absent, one that claims to come from the future has no
//! freshness (its age is the largest there is), and a certificate that is not valid now identifies
//! nothing.

mod named;
mod registry;
mod revoked;

pub use registry::Registry;
pub use revoked::Revoked;
