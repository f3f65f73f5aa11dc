//! The one way out to an identity provider.
//!
//! Every worker of the gate is a runtime of its own, while a pooled connection belongs to the
//! runtime that opened it. So all calls to a provider are made on one background thread with its
//! own runtime; callers hand over a request and await the answer, from whichever runtime they
//! live in. A provider that hangs therefore costs a login its deadline and a worker nothing.
//!
//! INVARIANT: an answer is never larger than [`MAX_RESPONSE`], no call outlives its deadline, no
//! redirect is followed (RFC 9700, section 4.12), and TLS is always verified.
//! INVARIANT: those who are not signed in yet never take all places ([`SignIns`]).

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::{mpsc, oneshot};

use super::outage::AT_ONCE;
use super::sign_ins::{self, SignInPlace, SignIns};

/// Largest answer of a provider that is read, in bytes.
pub const MAX_RESPONSE: usize = 256 * 1024;

/// Deepest nesting of objects and lists in an answer that is read: far more than any honest one
/// has, and far less than would exhaust a stack.
pub const MAX_DEPTH: usize = 32;

/// Calls that are under way at once, and as many that wait for the background thread; those past
/// that wait in the order in which they came, for as long as a call may take.
const MAX_CALLS: usize = 64;

const _: () = assert!(MAX_CALLS - sign_ins::MOST > AT_ONCE, "some are left besides refreshes");

/// Why no answer of a provider can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    #[error("the identity provider can't be reached: {0}")]
    Unreachable(String),
    #[error("the identity provider did not answer in time")]
    Timeout,
    #[error("the identity provider answered with status {0}")]
    Status(u16),
    #[error("the identity provider's answer is larger than {MAX_RESPONSE} bytes")]
    TooLarge,
    #[error("the identity provider's answer is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("too many calls to the identity provider are under way")]
    Busy,
}

/// Why the client can't be made: a matter of configuration.
#[derive(Debug, thiserror::Error)]
pub enum HttpSetupError {
    #[error("the CA file `{file}` can't be read: {cause}")]
    ReadCa { file: String, cause: std::io::Error },
    #[error("the CA file `{0}` holds no certificate, or one that is broken")]
    BadCa(String),
    #[error("the client for the identity provider can't be made: {0}")]
    Client(String),
    #[error("the thread for calls to the identity provider can't be started: {0}")]
    Thread(std::io::Error),
}

struct Call {
    request: HttpRequest,
    answer: oneshot::Sender<Result<HttpResponse, HttpError>>,
}

/// A handle to the background thread. The thread ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct ProviderHttp {
    calls: mpsc::Sender<Call>,
    sign_ins: Arc<SignIns>,
    timeout: Duration,
}

impl ProviderHttp {
    /// `ca` replaces the system's roots. `plain_loopback` permits `http`, for a provider on this
    /// very machine; everywhere else only `https` is spoken. `timeout` bounds a whole call.
    pub fn start(
        ca: Option<&Path>,
        plain_loopback: bool,
        timeout: Duration,
    ) -> Result<Self, HttpSetupError> {
        let client = client(ca, plain_loopback, timeout)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(HttpSetupError::Thread)?;
        let (calls, mut waiting) = mpsc::channel::<Call>(MAX_CALLS);
        std::thread::Builder::new()
            .name("wicketgate-oidc".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    let mut under_way = tokio::task::JoinSet::new();
                    while let Some(call) = waiting.recv().await {
                        while under_way.try_join_next().is_some() {}
                        if under_way.len() >= MAX_CALLS {
                            under_way.join_next().await;
                        }
                        let client = client.clone();
                        under_way.spawn(async move {
                            let mut answer = call.answer;
                            // A caller that went away takes its call with it.
                            tokio::select! {
                                result = exchange(&client, call.request) => {
                                    let _ = answer.send(result);
                                }
                                () = answer.closed() => {}
                            }
                        });
                    }
                });
            })
            .map_err(HttpSetupError::Thread)?;
        Ok(Self { calls, sign_ins: Arc::default(), timeout })
    }

    /// Waits for a place among the sign-ins, and those of this client, for as long as a call may
    /// take.
    ///
    /// # Errors
    /// `Busy`.
    pub async fn sign_in(&self, source: IpAddr) -> Result<SignInPlace, HttpError> {
        let place = tokio::time::timeout(self.timeout, self.sign_ins.place(source)).await;
        place.ok().flatten().ok_or(HttpError::Busy)
    }

    /// One exchange. Statuses of 500 and above, and 429, are errors: the provider is there, but
    /// does not do its work.
    pub async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (answer, answered) = oneshot::channel();
        let turn = tokio::time::timeout(self.timeout, self.calls.reserve()).await;
        let Ok(Ok(turn)) = turn else { return Err(HttpError::Busy) };
        turn.send(Call { request, answer });
        // The exchange has the same deadline inside; this one holds should its thread stall.
        match tokio::time::timeout(self.timeout + Duration::from_secs(1), answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(HttpError::Unreachable("the call was dropped".to_owned())),
            Err(_) => Err(HttpError::Timeout),
        }
    }
}

impl<'c> AsyncHttpClient<'c> for ProviderHttp {
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(ProviderHttp::call(self, request))
    }
}

fn client(
    ca: Option<&Path>,
    plain_loopback: bool,
    timeout: Duration,
) -> Result<reqwest::Client, HttpSetupError> {
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(timeout)
        .connect_timeout(timeout)
        .https_only(!plain_loopback)
        // Where tokens go is configured, not inherited from the environment.
        .no_proxy()
        .referer(false)
        .dns_resolver(Names)
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(4)
        .user_agent(concat!("wicketgate/", env!("CARGO_PKG_VERSION")));
    if let Some(file) = ca {
        let name = file.display().to_string();
        let pem = std::fs::read(file)
            .map_err(|cause| HttpSetupError::ReadCa { file: name.clone(), cause })?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem)
            .ok()
            .filter(|certificates| !certificates.is_empty())
            .ok_or(HttpSetupError::BadCa(name))?;
        builder = builder.tls_certs_only(certificates);
    }
    builder.build().map_err(|error| HttpSetupError::Client(innermost(&error)))
}

/// The system's names, except that `localhost` and what ends in `.localhost` is this machine, as
/// browsers see it too (RFC 6761, section 6.3): not every system's resolver does as it should.
#[derive(Debug)]
struct Names;

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str();
            let addresses: Addrs = if host == "localhost" || host.ends_with(".localhost") {
                let loopback = [
                    SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
                    SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
                ];
                Box::new(loopback.into_iter())
            } else {
                let found: Vec<_> = tokio::net::lookup_host((host, 0)).await?.collect();
                Box::new(found.into_iter())
            };
            Ok(addresses)
        })
    }
}

async fn exchange(
    client: &reqwest::Client,
    request: HttpRequest,
) -> Result<HttpResponse, HttpError> {
    let request = reqwest::Request::try_from(request).map_err(|error| failed(&error))?;
    let mut response = client.execute(request).await.map_err(|error| failed(&error))?;
    let status = response.status();
    if status.is_server_error() || status.as_u16() == 429 {
        return Err(HttpError::Status(status.as_u16()));
    }
    if response.content_length().is_some_and(|length| length > MAX_RESPONSE as u64) {
        return Err(HttpError::TooLarge);
    }
    let headers = std::mem::take(response.headers_mut());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
        if body.len() + chunk.len() > MAX_RESPONSE {
            return Err(HttpError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    if is_deep(&body) {
        return Err(HttpError::TooDeep);
    }
    let mut answer = http::Response::new(body);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    Ok(answer)
}

/// Whether a JSON text is nested too deeply; of any other text it does not matter.
fn is_deep(text: &[u8]) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

fn failed(error: &reqwest::Error) -> HttpError {
    if error.is_timeout() { HttpError::Timeout } else { HttpError::Unreachable(innermost(error)) }
}

/// The last cause in the chain, which names neither the address (it may hold a code) nor a token.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    let mut found = false;
    while let Some(next) = cause.source() {
        cause = next;
        found = true;
    }
    if found { cause.to_string() } else { "the request failed".to_owned() }
}

#[cfg(test)]
impl ProviderHttp {
    /// As if as many calls waited as may.
    pub(super) async fn crowd(&self) -> impl Sized + '_ {
        self.calls.reserve_many(MAX_CALLS).await.unwrap()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn get(listener: &TcpListener) -> HttpRequest {
        let address = format!("http://{}/", listener.local_addr().unwrap());
        http::Request::builder().uri(address).body(Vec::new()).unwrap()
    }

    #[tokio::test]
    async fn a_provider_that_hangs_takes_no_other_ones_calls() {
        let patience = Duration::from_secs(30);
        let start = || ProviderHttp::start(None, true, patience).unwrap();
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (stuck, well) = (start(), start());
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let answers = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let calls: Vec<_> = (0..MAX_CALLS * 3)
            .map(|_| {
                let (stuck, request) = (stuck.clone(), get(&silent));
                tokio::spawn(async move { stuck.call(request).await })
            })
            .collect();
        // Its places are taken, and so is its queue.
        while stuck.calls.capacity() > 0 {
            tokio::task::yield_now().await;
        }
        let answer = async {
            let (mut stream, _) = answers.accept().await.unwrap();
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
        };
        let (called, ()) = tokio::join!(well.call(get(&answers)), answer);
        assert_eq!(called.unwrap().body(), b"{}");
        assert!(calls.iter().all(|call| !call.is_finished()));
    }

    #[test]
    fn nesting_is_counted_outside_of_texts() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(!is_deep(nested(MAX_DEPTH).as_bytes()));
        assert!(is_deep(nested(MAX_DEPTH + 1).as_bytes()));
        assert!(is_deep("[{\"a\":".repeat(MAX_DEPTH).as_bytes()));
        assert!(!is_deep(format!("[{}]", "[],".repeat(1000)).as_bytes()), "wide is not deep");
        assert!(!is_deep(format!("\"\\\"{}\"", "[".repeat(99)).as_bytes()));
    }
}
