//! What the entries in `fuzz_targets/` share. `stable/` has the same module.

pub mod targets;
