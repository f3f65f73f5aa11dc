//! Adapters from sockets to the pipeline.
//!
//! `sockets` says where listening sockets come from, `serve` starts the workers on them `leave` says how they end and `pulse` whether they live; `accept` takes connections, `connection` speaks HTTP/1.1 or HTTP/2
//! on one of them within its limits (`activity`) while `head` looks for what reads in two ways, `http` carries each request through the
//! pipeline to an upstream and the answer back (`body`, `streamed`), `websocket` holds an upgraded connection
//! (`frames`). `redirect` is all that the plain listener does.

pub mod accept;
pub mod activity;
pub mod body;
pub mod connection;
mod flood;
pub mod frames;
pub mod head;
pub mod hold;
mod http;
pub mod leave;
pub mod pulse;
pub mod redirect;
pub mod serve;
pub mod sockets;
pub mod streamed;
pub mod websocket;
