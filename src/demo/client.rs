//! A browser without a window: HTTPS, cookies, redirects and forms, enough to walk through the
//! demo as a person would.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, ORIGIN,
    SET_COOKIE,
};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use url::Url;

/// For any single exchange.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most redirects in a row: a login takes three.
const MOST_REDIRECTS: usize = 10;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("`{0}` is not an https address on this machine")]
    Address(String),
    #[error("no connection to `{0}`: {1}")]
    Connect(String, std::io::Error),
    #[error("no answer from `{0}`: {1}")]
    Exchange(String, String),
    #[error("no answer from `{0}` within 10 seconds")]
    Slow(String),
    #[error("more than {MOST_REDIRECTS} redirects, the last one to `{0}`")]
    Redirects(String),
    #[error("the page at `{0}` has no such form")]
    Form(String),
    #[error("the WebSocket at `{0}` was not opened: {1}")]
    WebSocket(String, String),
}

/// What came back, in the end.
#[derive(Clone, Debug)]
pub struct Answer {
    pub url: Url,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The decision id that the gate put on this answer.
    pub fn decision(&self) -> Option<&str> {
        self.header("x-wicketgate-decision")
    }
}

pub type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// One person's browser, with the cookies of every host.
#[derive(Clone, Debug)]
pub struct Browser {
    tls: Arc<rustls::ClientConfig>,
    cookies: BTreeMap<String, BTreeMap<String, String>>,
}

impl Browser {
    pub fn new(tls: Arc<rustls::ClientConfig>) -> Self {
        Self { tls, cookies: BTreeMap::new() }
    }

    /// Opens a page as a click on a link would, through all redirects.
    pub async fn open(&mut self, address: &str) -> Result<Answer, ClientError> {
        let answer = self.send(Method::GET, &parse(address)?, &NAVIGATE, "").await?;
        self.follow(answer).await
    }

    /// Opens a page and, when that leads to the provider, signs in there as `user`.
    pub async fn open_as(&mut self, address: &str, user: &str) -> Result<Answer, ClientError> {
        let answer = self.open(address).await?;
        if answer.url.host_str() != Some("login.localhost") {
            return Ok(answer);
        }
        let request =
            attribute(&answer.body, "name=\"request\" value=\"").ok_or_else(|| no_form(&answer))?;
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("request", &request)
            .append_pair("user", user)
            .finish();
        let action = join(&answer.url, "/authorize")?;
        let answer = self.submit(&action, &form).await?;
        self.follow(answer).await
    }

    /// Sends a form of a page of the same host, as a click does; no redirect is followed.
    pub async fn post(&mut self, address: &str, form: &str) -> Result<Answer, ClientError> {
        self.submit(&parse(address)?, form).await
    }

    /// Goes on from a page of the gate's by its first button, and signs in on the way.
    pub async fn go_on(&mut self, page: &Answer, user: &str) -> Result<Answer, ClientError> {
        let button =
            attribute(&page.body, "<a class=\"button\" href=\"").ok_or_else(|| no_form(page))?;
        self.open_as(join(&page.url, &button)?.as_str(), user).await
    }

    /// Says yes to the gate's question whether to send a kept form.
    pub async fn send_kept(&mut self, page: &Answer) -> Result<Answer, ClientError> {
        let action = attribute(&page.body, "<form method=\"post\" action=\"")
            .ok_or_else(|| no_form(page))?;
        let answer = self.submit(&join(&page.url, &action)?, "").await?;
        // 307: the same method once more, at the form's own address.
        let form = answer
            .header(LOCATION.as_str())
            .filter(|_| answer.status.as_u16() == 307)
            .map(str::to_owned);
        let form = form.ok_or_else(|| no_form(&answer))?;
        let sent = self.submit(&join(&answer.url, &form)?, "").await?;
        self.follow(sent).await
    }

    /// Signs out by the form on the gate's page.
    pub async fn sign_out(&mut self, origin: &str) -> Result<Answer, ClientError> {
        let page = self.open(&format!("{origin}/.wicketgate/logout")).await?;
        let action = attribute(&page.body, "<form method=\"post\" action=\"")
            .ok_or_else(|| no_form(&page))?;
        let action = join(&page.url, &action)?;
        let answer = self.submit(&action, "").await?;
        self.follow(answer).await
    }

    /// A request as a script on the page makes it: no redirect is followed.
    pub async fn fetch(
        &mut self,
        method: Method,
        address: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Answer, ClientError> {
        let url = parse(address)?;
        let origin = url.origin().ascii_serialization();
        let mut all = vec![
            (ACCEPT.as_str(), "application/json"),
            ("sec-fetch-mode", "cors"),
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-dest", "empty"),
        ];
        if method != Method::GET {
            all.extend([(ORIGIN.as_str(), &*origin), (CONTENT_TYPE.as_str(), "application/json")]);
        }
        all.extend_from_slice(headers);
        self.send(method, &url, &all, body).await
    }

    /// Opens a WebSocket as a script on the page does.
    pub async fn websocket(&self, address: &str) -> Result<Socket, ClientError> {
        let url = parse(address)?;
        let failed = |why: String| ClientError::WebSocket(address.to_owned(), why);
        let target = address.replacen("https", "wss", 1);
        let mut request =
            target.into_client_request().map_err(|error| failed(error.to_string()))?;
        let headers = request.headers_mut();
        if let Ok(origin) = HeaderValue::try_from(url.origin().ascii_serialization()) {
            headers.insert(ORIGIN, origin);
        }
        if let Some(cookies) = self.cookies_for(&url) {
            headers.insert(COOKIE, cookies);
        }
        let stream = self.connect(&url).await?;
        let opened = tokio_tungstenite::client_async(request, stream);
        match tokio::time::timeout(PATIENCE, opened).await {
            Ok(Ok((socket, _))) => Ok(socket),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(ClientError::Slow(address.to_owned())),
        }
    }

    async fn submit(&mut self, action: &Url, form: &str) -> Result<Answer, ClientError> {
        let origin = action.origin().ascii_serialization();
        let mut headers = NAVIGATE.to_vec();
        headers.extend([
            (ORIGIN.as_str(), &*origin),
            (CONTENT_TYPE.as_str(), "application/x-www-form-urlencoded"),
            ("sec-fetch-site", "same-origin"),
        ]);
        self.send(Method::POST, action, &headers, form).await
    }

    async fn follow(&mut self, mut answer: Answer) -> Result<Answer, ClientError> {
        for _ in 0..MOST_REDIRECTS {
            let Some(to) =
                answer.header(LOCATION.as_str()).filter(|_| answer.status.is_redirection())
            else {
                return Ok(answer);
            };
            let to = join(&answer.url, to)?;
            answer = self.send(Method::GET, &to, &NAVIGATE, "").await?;
        }
        Err(ClientError::Redirects(answer.url.to_string()))
    }

    /// One exchange on a connection of its own.
    async fn send(
        &mut self,
        method: Method,
        url: &Url,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Answer, ClientError> {
        match tokio::time::timeout(PATIENCE, self.exchange(method, url, headers, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Slow(url.to_string())),
        }
    }

    async fn exchange(
        &mut self,
        method: Method,
        url: &Url,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Answer, ClientError> {
        let failed = |error: &dyn std::fmt::Display| {
            ClientError::Exchange(url.to_string(), error.to_string())
        };
        let stream = self.connect(url).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
                .await
                .map_err(|error| failed(&error))?;
        let connection = tokio::spawn(connection);
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let mut request =
            Request::builder().method(method).uri(target).header(HOST, authority(url));
        if let Some(cookies) = self.cookies_for(url) {
            request = request.header(COOKIE, cookies);
        }
        let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
        let mut request = request.body(body).map_err(|error| failed(&error))?;
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).map_err(|error| failed(&error))?;
            let value = HeaderValue::try_from(*value).map_err(|error| failed(&error))?;
            request.headers_mut().insert(name, value);
        }
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, 4 << 20).collect().await.map_err(|error| failed(&error))?;
        connection.abort();
        self.remember(url, &head.headers);
        Ok(Answer {
            url: url.clone(),
            status: head.status,
            headers: head.headers,
            body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        })
    }

    /// Every host of the demo is this machine, whatever a name service would say (RFC 6761, 6.3).
    async fn connect(&self, url: &Url) -> Result<TlsStream<TcpStream>, ClientError> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let failed = |error| ClientError::Connect(url.to_string(), error);
        let port = url.port_or_known_default().unwrap_or(443);
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(failed)?;
        let name = ServerName::try_from(host).map_err(|_| ClientError::Address(url.to_string()))?;
        TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await.map_err(failed)
    }

    fn cookies_for(&self, url: &Url) -> Option<HeaderValue> {
        let cookies = self.cookies.get(url.host_str()?)?;
        let pairs: Vec<String> =
            cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        (!pairs.is_empty()).then(|| HeaderValue::try_from(pairs.join("; ")).ok())?
    }

    fn remember(&mut self, url: &Url, headers: &HeaderMap) {
        let Some(host) = url.host_str() else { return };
        let jar = self.cookies.entry(host.to_owned()).or_default();
        for field in headers.get_all(SET_COOKIE) {
            let Some(cookie) =
                field.to_str().ok().and_then(|text| cookie::Cookie::parse(text).ok())
            else {
                continue;
            };
            if cookie.max_age().is_some_and(|age| age <= time::Duration::ZERO) {
                jar.remove(cookie.name());
            } else {
                jar.insert(cookie.name().to_owned(), cookie.value().to_owned());
            }
        }
    }
}

const NAVIGATE: [(&str, &str); 4] = [
    ("accept", "text/html,application/xhtml+xml,*/*;q=0.8"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-dest", "document"),
    ("sec-fetch-site", "none"),
];

fn parse(address: &str) -> Result<Url, ClientError> {
    let wrong = || ClientError::Address(address.to_owned());
    let url = Url::parse(address).map_err(|_| wrong())?;
    let local = url.host_str().is_some_and(|host| host.ends_with(".localhost"));
    if url.scheme() == "https" && local { Ok(url) } else { Err(wrong()) }
}

fn join(base: &Url, to: &str) -> Result<Url, ClientError> {
    let url = base.join(to).map_err(|_| ClientError::Address(to.to_owned()))?;
    parse(url.as_str())
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn no_form(answer: &Answer) -> ClientError {
    ClientError::Form(answer.url.to_string())
}

/// What follows `before` up to the next quotation mark, with character references resolved.
fn attribute(page: &str, before: &str) -> Option<String> {
    let (_, rest) = page.split_once(before)?;
    let (value, _) = rest.split_once('"')?;
    Some(value.replace("&#38;", "&").replace("&amp;", "&"))
}
