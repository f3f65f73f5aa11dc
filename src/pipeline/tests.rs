//! A whole gate in memory, for what shows only when a store or a provider stops at the right moment.

mod live;
mod meanwhile;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::header::{COOKIE, HOST};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::client::ClientConnection;
use super::exchange::{Authorized, Exchange};
use super::gate::{Gate, Outcome};
use super::live::Live;
use super::pressure::Pressure;
use super::rate::Limits;
use super::route::RouteTable;
use super::snapshot::Snapshot;
use super::{backchannel, reserved, route};
use crate::audit::AuditLog;
use crate::config::model::{
    self, AuditDurability, ClaimNames, ClientAuthentication, IdentityProvider, Issuer, Refresh,
    Route, TokenExchange, UpstreamToken,
};
use crate::config::secret::Secret;
use crate::domain::canonical::Host;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::connection::{Connection, PeerAddr, SourceAddr, SourceRules};
use crate::domain::principal::{Authentication, Principal, PrincipalKind};
use crate::identity::assertion::Signer;
use crate::identity::bearer::Bearers;
use crate::identity::kept::KeptForms;
use crate::identity::login::LoginStates;
use crate::identity::oidc::Provider;
use crate::identity::provider_token::ProviderToken;
use crate::identity::providers::Providers;
use crate::identity::recent::RecentLogins;
use crate::identity::refresh::RefreshToken;
use crate::identity::session::{NewSession, Session, Sessions};
use crate::identity::suspension::Suspensions;
use crate::metrics::Metrics;
use crate::policy::Engine;
use crate::policy::archive::{Archive, SourceText};
use crate::posture::Registry;
use crate::store::{MemoryStore, Space, Store, StoreError};

const HOST_NAME: &str = "app.example";
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
/// Both are over before a session is idle for too long.
const PACE: Refresh =
    Refresh { interval: Duration::from_secs(300), max_age: Duration::from_secs(600) };
const EVERYTHING: &str = "permit (principal, action, resource);";
const SCHEMA: &str = include_str!("../../policies/wicketgate.cedarschema");

/// A store that stops answering for sessions when told to, as one whose shard is away.
#[derive(Debug, Default)]
struct Stopping {
    inner: MemoryStore,
    hangs: AtomicBool,
    /// Calls that hang.
    waiting: AtomicUsize,
}

#[async_trait]
impl Store for Stopping {
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let of_sessions = matches!(space, Space::Sessions | Space::Refreshes);
        if of_sessions && self.hangs.load(Ordering::SeqCst) {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        self.inner.get(space, key).await
    }
    async fn put(
        &self,
        space: Space,
        key: &[u8],
        value: &[u8],
        expires: Timestamp,
    ) -> Result<(), StoreError> {
        self.inner.put(space, key, value, expires).await
    }
    async fn put_if_absent(
        &self,
        space: Space,
        key: &[u8],
        value: &[u8],
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.inner.put_if_absent(space, key, value, expires, now).await
    }
    async fn remove(&self, space: Space, key: &[u8]) -> Result<bool, StoreError> {
        self.inner.remove(space, key).await
    }
    async fn scan(
        &self,
        space: Space,
        prefix: &[u8],
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        self.inner.scan(space, prefix).await
    }
    async fn purge(&self, space: Space, now: Timestamp) -> Result<usize, StoreError> {
        self.inner.purge(space, now).await
    }
}

/// An identity provider's metadata and token endpoint.
#[derive(Debug)]
struct Idp {
    down: AtomicBool,
    /// Times that the token endpoint was asked.
    asked: AtomicUsize,
    /// The token endpoint answers with one.
    answers: Semaphore,
}

impl Idp {
    async fn start() -> (Arc<Self>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let (down, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
        let idp = Arc::new(Self { down, asked, answers: Semaphore::new(1000) });
        let (this, own) = (Arc::clone(&idp), issuer.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (this, own) = (Arc::clone(&this), own.clone());
                tokio::spawn(async move {
                    let mut head = [0; 4096];
                    let read = stream.read(&mut head).await.unwrap_or(0);
                    let text = String::from_utf8_lossy(&head[..read]).into_owned();
                    let (status, body) = this.answer(&own, &text).await;
                    let body = body.to_string();
                    let answer = format!(
                        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\n\
                         content-length: {}\r\nconnection: close\r\n\r\n{body}",
                        body.len()
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        (idp, issuer)
    }

    async fn answer(&self, issuer: &str, head: &str) -> (u16, Value) {
        if self.down.load(Ordering::SeqCst) {
            return (503, json!({}));
        }
        if head.contains(" /token ") {
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.answers.acquire().await.unwrap().forget();
            let kind = "urn:ietf:params:oauth:token-type:access_token";
            return (
                200,
                json!({ "access_token": "for-the-application", "token_type": "Bearer",
                    "issued_token_type": kind, "expires_in": 60 }),
            );
        }
        let metadata = json!({
            "issuer": issuer, "authorization_endpoint": format!("{issuer}/auth"),
            "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/jwks"),
            "response_types_supported": ["code"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        });
        (200, metadata)
    }

    /// Nothing is answered from here on.
    fn hold(&self) {
        self.answers.forget_permits(usize::MAX >> 4);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

struct World {
    gate: Arc<Gate>,
    clock: Clock,
    store: Arc<Stopping>,
    idp: Arc<Idp>,
    connection: Arc<ClientConnection>,
    provider: Arc<Provider>,
    /// Of the audit log.
    _folder: TempDir,
}

/// `/` and, with the same upstream, `/durable` and `/exchange`.
fn routes() -> Vec<Route> {
    let durable = Route {
        audit: AuditDurability::Durable,
        ..route::tests::config("durable", HOST_NAME, "/durable")
    };
    let mut exchange = route::tests::config("exchange", HOST_NAME, "/exchange");
    exchange.accepted.upstream_token =
        UpstreamToken::Exchange(TokenExchange { audience: "orders".into(), scope: "".into() });
    vec![route::tests::config("app", HOST_NAME, "/"), durable, exchange]
}

fn policies(text: &str) -> Arc<Engine> {
    let text = SourceText { name: "test.cedar".into(), text: text.into() };
    let schema = SourceText { name: "wicketgate.cedarschema".into(), text: SCHEMA.into() };
    Arc::new(Engine::from_archive(Archive { schema, policies: vec![text] }).unwrap())
}

impl World {
    async fn new() -> Self {
        Self::allowing(EVERYTHING).await
    }

    async fn allowing(text: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (idp, issuer) = Idp::start().await;
        let (clock, metrics) =
            (Clock::manual(Timestamp::from_seconds(1_800_000_000)), Metrics::new());
        let stopping = Arc::new(Stopping::default());
        let store: Arc<dyn Store> = stopping.clone();
        let folder = tempfile::tempdir().unwrap();
        let audit = model::Audit {
            directory: folder.path().join("audit"),
            queue: 8192,
            segment_bytes: 1 << 20,
        };
        let audit = AuditLog::open(&audit, Arc::clone(&metrics)).unwrap();
        let (own, now) = (model::Session::default(), clock.clone());
        let sessions =
            Sessions::open(Arc::clone(&store), &own, now, Arc::clone(&metrics)).await.unwrap();
        let seals = Arc::clone(sessions.seals());
        let suspensions =
            Suspensions::load(Arc::clone(&store), Arc::clone(&seals), clock.clone()).await.unwrap();
        let logins = LoginStates::load_or_create(Arc::clone(&store), seals, clock.clone()).await;
        let logins = Arc::new(logins.unwrap());
        let provider = Arc::new(
            Provider::new(Arc::new(identity_provider(&issuer)), Arc::clone(&logins), clock.clone())
                .unwrap(),
        );
        let providers = Arc::new(Providers::new(vec![Arc::clone(&provider)], logins));
        let entries = routes().into_iter().map(|config| route::tests::entry_of(config, &metrics));
        let snapshot = snapshot(1, policies(text), RouteTable::new(entries), providers);
        let gate = Arc::new(Gate {
            snapshot: ArcSwap::from_pointee(snapshot),
            sessions,
            suspensions,
            signer: Signer::load_or_create(Arc::clone(&store), clock.clone()).await.unwrap(),
            audit,
            metrics,
            live: Live::default(),
            recent: RecentLogins::load_or_create(store.as_ref(), clock.clone()).await.unwrap(),
            kept: KeptForms::new(Arc::clone(&store), clock.clone()),
            clock: clock.clone(),
            pressure: Pressure::default(),
            forged: backchannel::forged(),
            failed_logins: reserved::failed_logins(),
        });
        let facts = Connection {
            listener: "main".into(),
            peer: PeerAddr(SocketAddr::new(ADDRESS, 50_000)),
            source: SourceAddr(ADDRESS),
            rules: Arc::new(SourceRules::default()),
            local_port: 443,
            server_name: Some(Host::parse(HOST_NAME).unwrap()),
            client_certificate: None,
        };
        let connection = ClientConnection::new(Arc::clone(&gate), facts);
        Self { gate, clock, store: stopping, idp, connection, provider, _folder: folder }
    }

    /// With an access token for applications, and one to refresh the session with.
    async fn sign_in(&self) -> (String, Arc<Session>) {
        let login = NewSession {
            principal: Arc::new(Principal {
                kind: PrincipalKind::User,
                id: "idp/ada".into(),
                email: None,
                name: None,
                groups: Default::default(),
                tenant: None,
            }),
            authentication: Authentication::default(),
            provider: "idp".into(),
            vouched_by: self.provider.vouched_by(),
            sid: None,
            subject: Some("ada".into()),
            id_token: None,
            access_token: ProviderToken::new("her-own", None),
            refresh: Some(RefreshToken { token: Secret::new("r-0"), lifetime: None, asked: None }),
            host: Some(HOST_NAME.into()),
            begun: None,
        };
        let (value, session) = self.gate.sessions.create(login, None).await.unwrap();
        (format!("__Host-wicketgate={}", value.expose()), session)
    }

    async fn admit(&self, request: http::request::Builder) -> Outcome {
        let head = request.body(()).unwrap().into_parts().0;
        self.gate.admit(&self.connection, Box::new(head)).await
    }

    /// Takes the policies out that there are, and puts these in.
    fn reload(&self, text: &str) {
        let before = self.gate.snapshot.load_full();
        let routes = routes();
        let entries =
            routes.into_iter().map(|config| route::tests::entry_of(config, &self.gate.metrics));
        let (routes, providers) = (RouteTable::new(entries), Arc::clone(&before.providers));
        let after = snapshot(before.generation + 1, policies(text), routes, providers);
        self.gate.snapshot.store(Arc::new(after));
    }
}

fn snapshot(
    generation: u64,
    policies: Arc<Engine>,
    routes: RouteTable,
    providers: Arc<Providers>,
) -> Snapshot {
    Snapshot {
        generation,
        routes,
        policies,
        devices: Arc::new(Registry::empty()),
        bearers: Bearers::new(providers.iter()),
        providers,
        keep_forms: 4096,
        sign_out_urls: Arc::new([]),
        limits: Arc::new(Limits::default()),
        counts: Arc::default(),
    }
}

fn identity_provider(issuer: &str) -> IdentityProvider {
    IdentityProvider {
        name: "idp".into(),
        display_name: "IdP".into(),
        issuer: Issuer::parse(issuer).unwrap(),
        client_id: "gate".into(),
        client: ClientAuthentication::Public,
        parameters: Vec::new(),
        own_callback: false,
        access_tokens: None,
        refresh: Some(PACE),
        scopes: vec!["openid".into()],
        ca: None,
        claims: ClaimNames::default(),
        asks_userinfo: false,
        revokes_tokens: true,
        step_up: Vec::new(),
        timeout: Duration::from_secs(20),
    }
}

fn get(path: &str, cookie: &str) -> http::request::Builder {
    http::Request::get(path).header(HOST, HOST_NAME).header(COOKIE, cookie)
}

#[track_caller]
fn forwarded(outcome: Outcome) -> Box<Exchange<Authorized>> {
    match outcome {
        Outcome::Forward(exchange) => exchange,
        other => panic!("{other:?}"),
    }
}

/// Status and kind of the problem.
#[track_caller]
fn refused(outcome: Outcome) -> (u16, String) {
    let Outcome::Reply(response) = outcome else { panic!("{outcome:?}") };
    let problem: Value = serde_json::from_slice(response.body()).unwrap();
    let kind = problem["type"].as_str().unwrap().trim_start_matches("urn:wicketgate:").to_owned();
    (response.status().as_u16(), kind)
}
