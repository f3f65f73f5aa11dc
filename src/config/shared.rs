//! Where sessions are kept, as the configuration says it: in a file, or at servers that several
//! gates share.

use std::path::PathBuf;
use std::time::Duration;

use super::model::CertificateFiles;
use super::secret::Secret;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// A file of this gate alone.
    Embedded {
        path: PathBuf,
    },
    Redis(Box<Redis>),
}

/// Valkey or Redis, which any number of gates share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    pub servers: RedisServers,
    /// `None`: plain, which is for this machine, or was asked for.
    pub tls: Option<RedisTls>,
    /// Of the access control list (ACL). `None`: the default user.
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// Number of the database. Default 0.
    pub database: u16,
    /// What all keys begin with, inside a hash tag. Default `wicketgate`.
    pub key_prefix: String,
    /// For each call. Default 1 s.
    pub timeout: Duration,
    /// How long sessions count as good after the gate last heard of all revocations. Default 1.5 s.
    pub lease: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisServers {
    Single(RedisNode),
    Sentinel {
        /// Name of the master that the sentinels watch.
        master: String,
        /// The sentinels. At least one.
        nodes: Vec<RedisNode>,
        /// The sentinels' own, which aren't the servers'.
        username: Option<String>,
        password: Option<Secret>,
    },
    /// Any of the cluster's nodes; the others are found. At least one.
    Cluster(Vec<RedisNode>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisNode {
    Tcp {
        /// A name, or an address without brackets.
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisTls {
    /// PEM bundle that the servers' certificates are verified with, instead of the system's.
    pub ca: Option<PathBuf>,
    pub client_certificate: Option<CertificateFiles>,
}
