//! A browser without a screen: cookies, redirects on request, HTTP/1.1 or HTTP/2.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use cookie::Cookie;
use http::header::{COOKIE, HOST, LOCATION, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

use super::wait::within;

pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

#[derive(Clone)]
pub struct Browser {
    base: Url,
    tls: Arc<rustls::ClientConfig>,
    cookies: Vec<StoredCookie>,
    /// Sent with every request to the gate.
    headers: BTreeMap<String, String>,
}

#[derive(Clone)]
struct StoredCookie {
    host: String,
    path: String,
    name: String,
    value: String,
}

#[derive(Debug)]
pub struct Answer {
    pub url: Url,
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// Where a redirect leads, as an absolute URL.
    pub fn location(&self) -> Url {
        let text =
            self.header(LOCATION.as_str()).unwrap_or_else(|| panic!("no redirect: {self:?}"));
        self.url.join(text).unwrap()
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{} {self:?}", self.text());
        self
    }
}

impl Browser {
    /// `base` is what relative addresses are relative to.
    pub fn new(base: &str, tls: Arc<rustls::ClientConfig>) -> Self {
        let headers = [("accept".to_owned(), "text/html,*/*;q=0.8".to_owned())].into();
        Self { base: Url::parse(base).unwrap(), tls, cookies: Vec::new(), headers }
    }

    /// Replaces a header that goes with every request.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Asks as a program does, not as a person's browser.
    #[must_use]
    pub fn as_program(self) -> Self {
        self.with_header("accept", "application/json")
    }

    pub fn headers(&self) -> &BTreeMap<String, String> {
        &self.headers
    }

    pub async fn get(&mut self, target: &str) -> Answer {
        self.send(Method::GET, target, &[], Bytes::new()).await
    }

    pub async fn post(&mut self, target: &str, form: &str) -> Answer {
        let origin = self.url(target).origin().ascii_serialization();
        let headers =
            [("content-type", "application/x-www-form-urlencoded"), ("origin", origin.as_str())];
        self.send(Method::POST, target, &headers, Bytes::copy_from_slice(form.as_bytes())).await
    }

    /// Signs out at the gate as a person does: the page's button, then what follows.
    pub async fn sign_out(&mut self) -> Answer {
        let page = self.get("/.wicketgate/logout").await.expect(200).text();
        let action = page.split("action=\"").nth(1).and_then(|rest| rest.split('"').next());
        let action = action.expect("the page has a button").replace("&amp;", "&");
        self.post(&action, "").await
    }

    pub async fn send(
        &mut self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Answer {
        let url = self.url(target);
        within(&format!("the answer to {method} {url}"), async {
            let response = self.open(method.clone(), target, headers, body).await;
            let (parts, body) = response.into_parts();
            let collected = body.collect().await.unwrap();
            let trailers = collected.trailers().cloned().unwrap_or_default();
            Answer {
                url: url.clone(),
                status: parts.status.as_u16(),
                headers: parts.headers,
                body: collected.to_bytes(),
                trailers,
            }
        })
        .await
    }

    /// A response whose body is still to come.
    pub async fn open(
        &mut self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Response<Incoming> {
        let url = self.url(target);
        let (wire, h2) = self.connect(&url).await;
        let mut request = Request::builder().method(method);
        let mut lines: Vec<(String, String)> = Vec::new();
        if url.origin() == self.base.origin() || url.scheme() == "https" {
            lines.extend(self.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        lines.extend(headers.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        let cookies = self.cookies_for(&url);
        if !cookies.is_empty() {
            lines.push((COOKIE.as_str().to_owned(), cookies));
        }
        for (name, value) in lines {
            let name: HeaderName = name.parse().unwrap();
            request = request.header(name, HeaderValue::from_str(&value).unwrap());
        }
        let body = Full::new(body);
        let response = if h2 {
            let io = TokioIo::new(wire);
            let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
            let (mut sender, connection) = handshake.await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request.uri(url.as_str()).body(body).unwrap()).await
        } else {
            let handshake = hyper::client::conn::http1::handshake(TokioIo::new(wire));
            let (mut sender, connection) = handshake.await.unwrap();
            tokio::spawn(connection.with_upgrades());
            let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
            let request = request.header(HOST, authority(&url)).uri(target);
            sender.send_request(request.body(body).unwrap()).await
        };
        let response = response.unwrap_or_else(|error| panic!("no answer from {url}: {error:?}"));
        self.remember(&url, response.headers());
        response
    }

    /// A stream to the host of `url`, and whether HTTP/2 was agreed on.
    pub async fn connect(&self, url: &Url) -> (Box<dyn Wire>, bool) {
        self.try_connect(url)
            .await
            .unwrap_or_else(|error| panic!("no connection to {url}: {error}"))
    }

    pub async fn try_connect(&self, url: &Url) -> std::io::Result<(Box<dyn Wire>, bool)> {
        let port = url.port_or_known_default().unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        if url.scheme() == "http" {
            return Ok((Box::new(tcp), false));
        }
        let name = ServerName::try_from(url.host_str().unwrap().to_owned()).unwrap();
        let tls = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await?;
        let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((Box::new(tls), h2))
    }

    pub fn url(&self, target: &str) -> Url {
        self.base.join(target).unwrap()
    }

    /// Follows redirects until there is something to read.
    pub async fn follow(&mut self, mut answer: Answer) -> Answer {
        for _ in 0..12 {
            if !matches!(answer.status, 301..=303 | 307 | 308) {
                return answer;
            }
            answer = self.get(answer.location().as_str()).await;
        }
        panic!("redirected in circles: {answer:?}");
    }

    /// The value of the session cookie of a host.
    pub fn session_cookie(&self) -> Option<String> {
        let found = self.cookies.iter().find(|cookie| cookie.name == "__Host-wicketgate");
        found.map(|cookie| cookie.value.clone())
    }

    pub fn set_session_cookie(&mut self, value: &str) {
        let host = self.base.host_str().unwrap().to_owned();
        self.store(host, "/".to_owned(), "__Host-wicketgate", value);
    }

    /// Drops the cookies of a host, as if its session had ended.
    pub fn forget(&mut self, host: &str) {
        self.cookies.retain(|cookie| cookie.host != host);
    }

    /// Loses one cookie of the gate's own host.
    pub fn lose(&mut self, name: &str) {
        let host = self.base.host_str().unwrap().to_owned();
        self.cookies.retain(|cookie| (cookie.host.as_str(), cookie.name.as_str()) != (&host, name));
    }

    /// The `cookie` header's value for an address.
    pub fn cookies_for(&self, url: &Url) -> String {
        let host = url.host_str().unwrap_or_default();
        let fits = |cookie: &&StoredCookie| {
            cookie.host == host && url.path().starts_with(cookie.path.as_str())
        };
        let pairs: Vec<String> = self
            .cookies
            .iter()
            .filter(fits)
            .map(|cookie| format!("{}={}", cookie.name, cookie.value))
            .collect();
        pairs.join("; ")
    }

    fn remember(&mut self, url: &Url, headers: &HeaderMap) {
        for line in headers.get_all(SET_COOKIE) {
            let cookie = Cookie::parse(line.to_str().unwrap().to_owned()).unwrap();
            let host = url.host_str().unwrap().to_owned();
            let path = cookie.path().unwrap_or("/").to_owned();
            let past = cookie.expires_datetime().is_some_and(|at| at.unix_timestamp() < 86_400);
            let gone = past || cookie.max_age().is_some_and(|age| !age.is_positive());
            self.cookies.retain(|old| {
                (&old.host, &old.path, old.name.as_str()) != (&host, &path, cookie.name())
            });
            if !gone {
                self.store(host, path, cookie.name(), cookie.value());
            }
        }
    }

    fn store(&mut self, host: String, path: String, name: &str, value: &str) {
        self.cookies
            .retain(|old| (&old.host, &old.path, old.name.as_str()) != (&host, &path, name));
        let (name, value) = (name.to_owned(), value.to_owned());
        self.cookies.push(StoredCookie { host, path, name, value });
    }
}

/// Host and port as a browser writes them into `Host`.
pub fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
