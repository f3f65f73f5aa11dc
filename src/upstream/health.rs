//! Asks endpoints whether they are well, the way requests reach them: through the route's own
//! connector, with its TLS, its protocol and its `Host`.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::Request;
use http::header::{HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use pingora_core::{Error, ErrorType};
use pingora_load_balancing::Backend;
use pingora_load_balancing::health_check::HealthCheck;

use super::balance::Target;
use super::body::RequestBody;
use super::breaker::Breaker;
use super::connect::Connector;
use super::error::UpstreamError;
use super::send;
use crate::config::model::{HealthCheck as Settings, HealthCheckKind, UpstreamProtocol};

pub(super) struct Probe {
    pub(super) route: Arc<str>,
    pub(super) settings: Settings,
    pub(super) connector: Connector,
    pub(super) protocol: UpstreamProtocol,
    /// What goes into `Host` when the endpoint itself should not: the route's fixed or public host.
    pub(super) host: String,
    pub(super) targets: Arc<ArcSwap<Vec<Arc<Target>>>>,
    pub(super) breaker: Arc<Breaker>,
}

impl Probe {
    async fn ask(&self, target: &Target) -> Result<(), UpstreamError> {
        let (stream, _) = self.connector.connect(target, self.settings.timeout).await?;
        let HealthCheckKind::Http { path } = &self.settings.kind else {
            return Ok(());
        };
        let scheme = if self.connector.tls.is_some() { "https" } else { "http" };
        let (uri, host) = match self.protocol {
            UpstreamProtocol::Http1 => (path.clone(), Some(self.host.as_str())),
            UpstreamProtocol::Http2 => (format!("{scheme}://{}{path}", self.host), None),
        };
        let mut request = Request::get(uri).header(USER_AGENT, "wicketgate-health");
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        let request = request
            .body(RequestBody::Empty)
            .map_err(|error| UpstreamError::Request { cause: error.to_string() })?;
        let io = TokioIo::new(stream);
        let failed = |error: hyper::Error| UpstreamError::from_hyper(&error);
        // Dropping the sender ends the connection, so neither task outlives the check.
        let answer = match self.protocol {
            UpstreamProtocol::Http1 => {
                let (mut sender, connection) =
                    send::http1_builder().handshake(io).await.map_err(failed)?;
                tokio::spawn(connection);
                sender.send_request(request).await.map_err(failed)?
            }
            UpstreamProtocol::Http2 => {
                let (mut sender, connection) =
                    send::http2_builder().handshake(io).await.map_err(failed)?;
                tokio::spawn(connection);
                sender.send_request(request).await.map_err(failed)?
            }
        };
        let status = answer.status();
        if status.is_success() || status.is_redirection() {
            return Ok(());
        }
        Err(UpstreamError::protocol(format!("the health check was answered with {status}")))
    }
}

#[async_trait]
impl HealthCheck for Probe {
    async fn check(&self, backend: &Backend) -> pingora_core::Result<()> {
        let targets = self.targets.load_full();
        let target = targets.iter().find(|target| backend.addr.as_inet() == Some(&target.address));
        let Some(target) = target else {
            return Error::e_explain(ErrorType::InternalError, "the endpoint is no longer in use");
        };
        let timeout: Duration = self.settings.timeout;
        match tokio::time::timeout(timeout, self.ask(target)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Error::e_explain(ErrorType::ConnectError, error.to_string()),
            Err(_) => Error::e_explain(ErrorType::ConnectTimedout, "no answer in time"),
        }
    }

    async fn health_status_change(&self, backend: &Backend, healthy: bool) {
        let endpoint = backend.addr.to_string();
        if healthy {
            tracing::info!(route = %self.route, endpoint, "an upstream endpoint is healthy again");
            let targets = self.targets.load();
            let mut of = targets.iter();
            if let Some(target) = of.find(|of| backend.addr.as_inet() == Some(&of.address)) {
                self.breaker.checked_well(&targets, target);
            }
        } else {
            tracing::warn!(route = %self.route, endpoint, "an upstream endpoint is unhealthy");
        }
    }

    fn health_threshold(&self, success: bool) -> usize {
        if success { self.settings.healthy_after } else { self.settings.unhealthy_after }
    }
}
