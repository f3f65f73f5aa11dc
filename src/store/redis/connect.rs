//! From the configuration to a connection. TLS is verified, always: the feature of the crate that
//! could switch it off isn't compiled in.

use std::path::Path;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo,
    IntoConnectionInfo, RedisConnectionInfo, RedisResult, TlsCertificates, TlsMode, Value,
};

use crate::config::model::{Redis, RedisNode, RedisServers, RedisTls};
use crate::config::secret::Secret;

/// Answers are matched with commands in their order, so that clones can share one.
#[derive(Clone)]
pub(super) enum Connection {
    /// Also the master that sentinels named.
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    pub(super) async fn run(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(command).await,
            Self::Cluster(connection) => connection.req_packed_command(command).await,
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("{0}")]
    Server(#[from] redis::RedisError),
    #[error("`{path}` can't be read: {error}")]
    File { path: String, error: std::io::Error },
}

/// Connects. `answers` is for how long an answer may be waited for; more than that means that the
/// other side is gone. The sentinel or node that is asked first changes with `attempt`: one that
/// says nothing must not stand before the others for ever.
pub(super) async fn connect(
    config: &Redis,
    answers: Duration,
    attempt: usize,
) -> Result<Connection, ConnectError> {
    let certificates = config.tls.as_ref().map(certificates).transpose()?;
    let timeouts = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(config.timeout))
        .set_response_timeout(Some(answers));
    match &config.servers {
        RedisServers::Single(node) => {
            let info = info(node, config)?;
            let client = match certificates {
                Some(certificates) => Client::build_with_tls(info, certificates)?,
                None => Client::open(info)?,
            };
            let connection = client.get_multiplexed_async_connection_with_config(&timeouts).await?;
            Ok(Connection::Single(connection))
        }
        RedisServers::Sentinel { master, nodes, username, password } => {
            let addresses = rotated(nodes, attempt).map(|node| address(node, config.tls.is_some()));
            let mut builder =
                SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?
                    .set_client_to_redis_db(i64::from(config.database));
            if let Some(certificates) = certificates {
                builder = builder
                    .set_client_to_redis_tls_mode(TlsMode::Secure)
                    .set_client_to_redis_certificates(certificates.clone())
                    .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                    .set_client_to_sentinel_certificates(certificates);
            }
            if let Some(username) = &config.username {
                builder = builder.set_client_to_redis_username(username);
            }
            if let Some(password) = &config.password {
                builder = builder.set_client_to_redis_password(password.expose());
            }
            if let Some(username) = username {
                builder = builder.set_client_to_sentinel_username(username);
            }
            if let Some(password) = password {
                builder = builder.set_client_to_sentinel_password(password.expose());
            }
            let mut client = builder.build()?;
            Ok(Connection::Single(client.get_async_connection_with_config(&timeouts).await?))
        }
        RedisServers::Cluster(nodes) => {
            let infos: RedisResult<Vec<_>> =
                rotated(nodes, attempt).map(|node| info(node, config)).collect();
            let mut builder = ClusterClientBuilder::new(infos?)
                .retries(2)
                .min_retry_wait(10)
                .max_retry_wait(100)
                .connection_timeout(config.timeout)
                .response_timeout(answers);
            if let Some(username) = &config.username {
                builder = builder.username(username);
            }
            if let Some(password) = &config.password {
                builder = builder.password(password.expose());
            }
            if let Some(certificates) = certificates {
                builder = builder.tls(TlsMode::Secure).certs(certificates);
            }
            Ok(Connection::Cluster(builder.build()?.get_async_connection().await?))
        }
    }
}

fn rotated(nodes: &[RedisNode], attempt: usize) -> impl Iterator<Item = &RedisNode> {
    let first = attempt.checked_rem(nodes.len()).unwrap_or(0);
    nodes.iter().cycle().skip(first).take(nodes.len())
}

fn address(node: &RedisNode, tls: bool) -> ConnectionAddr {
    match node {
        RedisNode::Unix(path) => ConnectionAddr::Unix(path.clone()),
        RedisNode::Tcp { host, port } if tls => ConnectionAddr::TcpTls {
            host: host.clone(),
            port: *port,
            insecure: false,
            tls_params: None,
        },
        RedisNode::Tcp { host, port } => ConnectionAddr::Tcp(host.clone(), *port),
    }
}

fn info(node: &RedisNode, config: &Redis) -> RedisResult<ConnectionInfo> {
    let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
    if !matches!(config.servers, RedisServers::Cluster(_)) {
        settings = settings.set_db(i64::from(config.database));
    }
    if let Some(username) = &config.username {
        settings = settings.set_username(username);
    }
    if let Some(password) = config.password.as_ref().map(Secret::expose) {
        settings = settings.set_password(password);
    }
    let info = address(node, config.tls.is_some()).into_connection_info()?;
    Ok(info.set_redis_settings(settings))
}

/// Read for each connection, so that renewed files need no restart.
fn certificates(tls: &RedisTls) -> Result<TlsCertificates, ConnectError> {
    let root_cert = tls.ca.as_deref().map(read).transpose()?;
    let client_tls = match &tls.client_certificate {
        Some(files) => Some(ClientTlsConfig {
            client_cert: read(&files.certificate)?,
            client_key: read(&files.key)?,
        }),
        None => None,
    };
    Ok(TlsCertificates { client_tls, root_cert })
}

fn read(path: &Path) -> Result<Vec<u8>, ConnectError> {
    let shown = || path.display().to_string();
    std::fs::read(path).map_err(|error| ConnectError::File { path: shown(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attempt_begins_with_another_node() {
        let node = |port| RedisNode::Tcp { host: "a".to_owned(), port };
        let nodes = [node(1), node(2), node(3)];
        let ports = |attempt| -> Vec<u16> {
            rotated(&nodes, attempt)
                .map(|node| match node {
                    RedisNode::Tcp { port, .. } => *port,
                    RedisNode::Unix(_) => 0,
                })
                .collect()
        };
        assert_eq!(ports(0), [1, 2, 3]);
        assert_eq!(ports(1), [2, 3, 1]);
        assert_eq!(ports(5), [3, 1, 2]);
        assert_eq!(rotated(&[], 1).count(), 0);
    }
}
