//! Why the demo could not go on.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("can't write `{}`: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("`{}` is not empty; name a new folder", .0.display())]
    NotEmpty(PathBuf),
    #[error("can't make the demo's folder: {0}")]
    Folder(io::Error),
    #[error("can't listen on the loopback address: {0}")]
    Listen(io::Error),
    #[error("port {0} is in use, or may not be used; choose another one with `--port`")]
    Port(u16),
    #[error("can't make the demo's certificates: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("can't set up TLS for the demo: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the system gives no random numbers")]
    Random,
    #[error("can't sign tokens: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
    #[error("can't write to the terminal: {0}")]
    Terminal(io::Error),
    #[error("can't start threads: {0}")]
    Runtime(io::Error),
    #[error("the gate did not start: {0}")]
    Gate(String),
}
