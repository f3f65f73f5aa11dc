//! Cedar policies: from files to a decision on every request, and from a decision to its reasons.
//!
//! INVARIANT: a [`Permit`] can only be made here, by [`Engine::decide`], from the policies' own
//! answer. Whoever wants to connect upstream needs one.
//!
//! INVARIANT: default deny, and an evaluation error in any policy denies, also where Cedar by
//! itself would skip the policy and allow.
//!
//! The way of a set: [`archive`] reads the files, [`load`] parses and validates them, [`index`]
//! sorts the policies by scope, [`footprint`] finds out what they can read of a request, and
//! [`engine`] puts the question. The way of a question: [`entities`] and [`context`] translate it,
//! and nothing but what the footprint names is ever shown to the policies, so that the shown part
//! can be the key under which the answer is remembered.

pub mod archive;
mod conformance;
mod context;
pub mod engine;
mod entities;
pub mod explain;
mod footprint;
mod index;
mod limits;
mod load;
mod pairs;
pub mod permit;
mod recall;
pub mod step_up;
pub mod suite;
mod table;

pub use archive::Archive;
pub use engine::Engine;
pub use explain::{Explanation, explain};
pub use permit::{Denial, Permit};
pub use recall::Asked;

#[cfg(test)]
mod equivalence;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;
