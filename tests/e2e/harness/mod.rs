//! Builds a test's world in a line: `Gate::with_upstream(&recorder).start().await`.

pub mod binary;
pub mod caller;
pub mod cgroup;
pub mod client;
pub mod folder;
pub mod frames;
pub mod gate;
pub mod held;
pub mod moody;
pub mod notify;
pub mod pki;
pub mod port;
pub mod process;
pub mod provider;
pub mod raw;
pub mod recorder;
pub mod redis;
pub mod revocable;
pub mod rogue;
pub mod servers;
pub mod unchecked;
pub mod wait;
pub mod websocket;

pub use binary::binary;
pub use cgroup::MemoryGroup;
pub use client::Browser;
pub use gate::{Gate, Setup};
pub use held::Held;
pub use notify::Notifications;
pub use raw::Raw;
pub use recorder::Recorder;
pub use rogue::Rogue;
pub use unchecked::not_checked;
pub use wait::{eventually, within};
