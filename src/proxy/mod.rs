//! Adapters from sockets to the pipeline.
//!
//! `sockets` says where listening sockets come from, `serve` starts the workers on them, `leave`
//! says how they end and `pulse` whether they live. `accept` takes connections, `entry` says whose
//! they are and which may begin (`proxy_protocol`, `seats`); of their TLS handshakes, `handshakes`
//! bounds how many are under way.
//!
//! `connection` speaks HTTP/1.1 or HTTP/2 on one of them. `activity` knows what it is doing and
//! watches its bytes: for what reads in two ways (`head`), for headers that don't end
//! (`header_blocks`), for frames that only make work (`flood`) and for clients that are too slow
//! (`pace`). `cork` sends what HTTP/2 writes in one go, and `linger` hears a client out at the end.
//!
//! `http` carries each request through the pipeline to an upstream and the answer back (`body`,
//! `streamed`), `websocket` holds an upgraded connection (`frames`); what lasts is held to session
//! and policies (`hold`). `redirect` is all that the plain listener does.

pub mod accept;
pub mod activity;
mod bell;
pub mod body;
pub mod connection;
mod cork;
pub mod entry;
mod flood;
pub mod frames;
pub mod h2_frames;
pub mod handshakes;
pub mod head;
pub mod header_blocks;
pub mod hold;
mod http;
pub mod leave;
pub mod linger;
pub mod pace;
pub mod proxy_protocol;
pub mod pulse;
pub mod redirect;
mod restraint;
pub mod seats;
pub mod serve;
pub mod sockets;
pub mod streamed;
pub mod websocket;
