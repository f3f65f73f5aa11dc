//! The plain listener: it answers where the same thing is under https, and nothing else.
//!
//! INVARIANT: it names only hosts that are served here, so that it can't be made to redirect
//! elsewhere, and it never looks at a session: what came in clear is not trusted.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, LOCATION, STRICT_TRANSPORT_SECURITY};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, request};
use http_body_util::Full;

use super::activity::InFlight;
use crate::domain::canonical::{Authority, CanonicalRequest, Host};
use crate::pipeline::client::ClientConnection;
use crate::pipeline::refusal::Refusal;
use crate::pipeline::respond::end_connection;
use crate::pipeline::source;

/// 308 (RFC 9110, section 15.4.9) to the same target, 400 where it is ambiguous, 421 where the
/// host is none of ours; the refusals go through the gate. `port` is the public one of the TLS
/// listener.
pub async fn answer<B>(
    connection: &Arc<ClientConnection>,
    in_flight: &InFlight,
    request: Request<B>,
    port: u16,
) -> Response<Full<Bytes>> {
    let (head, _) = request.into_parts();
    let target = match (in_flight.ambiguity(), source::client(connection, &head.headers)) {
        (Some(ambiguity), _) => Err(Refusal::Malformed(ambiguity.text())),
        (None, Err(_)) => Err(Refusal::UNKNOWN_CLIENT),
        (None, Ok(client)) if !connection.rules.allows(client) => Err(Refusal::Source),
        (None, Ok(_)) => {
            let snapshot = connection.gate.snapshot.load();
            location(&head, port, |host| snapshot.routes.knows_host(host))
        }
    };
    let is_head = head.method == Method::HEAD;
    let mut response = match target {
        Ok(location) => redirect(location),
        Err(refusal) => connection.gate.refuse_early(connection, Box::new(head), &refusal).await,
    };
    let headers = response.headers_mut();
    // RFC 6797, section 7.2: not over a transport that anyone can write to.
    headers.remove(STRICT_TRANSPORT_SECURITY);
    // One answer a connection: nothing else is to be had here.
    end_connection(Version::HTTP_11, headers);
    if is_head {
        response.headers_mut().remove(CONTENT_LENGTH);
        *response.body_mut() = Bytes::new();
    }
    response.map(Full::new)
}

fn redirect(location: HeaderValue) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(CONTENT_LENGTH, 0.into());
    response.headers_mut().insert(LOCATION, location);
    response
}

fn location(
    head: &request::Parts,
    port: u16,
    is_served: impl Fn(&Host) -> bool,
) -> Result<HeaderValue, Refusal> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(Refusal::Malformed("the request does not name one host"));
    };
    if head.uri.authority().is_some() || head.method == Method::CONNECT {
        return Err(Refusal::Malformed("the request target is not a path"));
    }
    let host = host.to_str().map_err(|_| Refusal::Malformed("the Host header is not ASCII"))?;
    let authority = Authority::parse(host)?;
    if !is_served(&authority.host) {
        return Err(Refusal::Misdirected);
    }
    let port = (port != 443).then_some(port);
    let authority = Authority { host: authority.host, port };
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let request = CanonicalRequest::parse(head.method.as_str().into(), authority, target)?;
    HeaderValue::try_from(format!("https://{}{}", request.authority, request.target()))
        .map_err(|_| Refusal::Malformed("the request target can't be a redirect's"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(target: &str, hosts: &[&str], port: u16) -> (u16, Option<String>) {
        let mut request = http::Request::builder().uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        match location(&head, port, |host| host.as_str() == "app.example") {
            Ok(location) => (308, Some(location.to_str().unwrap().to_owned())),
            Err(refusal) => (refusal.status().as_u16(), None),
        }
    }

    #[test]
    fn it_leads_to_the_same_target_under_https() {
        for (target, host, port, expected) in [
            ("/", "app.example", 443, "https://app.example/"),
            ("/a/%7eb?c=d", "APP.example.:80", 443, "https://app.example/a/~b?c=d"),
            ("/", "app.example:8080", 8443, "https://app.example:8443/"),
        ] {
            assert_eq!(ask(target, &[host], port), (308, Some(expected.to_owned())));
        }
    }

    #[test]
    fn it_leads_nowhere_else() {
        for (target, hosts, status) in [
            ("/", &["evil.example"][..], 421),
            ("/", &["app.example", "evil.example"], 400),
            ("/", &[], 400),
            ("/", &["app.example@evil.example"], 400),
            ("/", &["app.example/evil"], 400),
            ("http://evil.example/", &["app.example"], 400),
            ("//evil.example/", &["app.example"], 400),
            ("/a/../b", &["app.example"], 400),
        ] {
            assert_eq!(ask(target, hosts, 443), (status, None), "{target} {hosts:?}");
        }
    }
}
