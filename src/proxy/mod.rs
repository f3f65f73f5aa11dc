//! Adapters from sockets to the pipeline.
pub mod activity;
pub mod connection;
pub mod frames;
