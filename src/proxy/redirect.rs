//! The plain listener: it answers where the same thing is under https, and nothing else.
//!
//! INVARIANT: it names only hosts that are served here, so that it can't be made to redirect
//! elsewhere, and it never looks at a session: what came in clear is not trusted.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, LOCATION};
use http::{HeaderValue, Method, Response, StatusCode, request};
use http_body_util::Empty;

use crate::domain::canonical::{Authority, CanonicalRequest, Host};

/// 308 (RFC 9110, section 15.4.9) to the same target, 400 where it is ambiguous, 421 where the
/// host is none of ours. `port` is the public one of the TLS listener.
pub fn answer(
    head: &request::Parts,
    port: u16,
    is_served: impl Fn(&Host) -> bool,
) -> Response<Empty<bytes::Bytes>> {
    let (status, location) = match location(head, port, is_served) {
        Ok(location) => (StatusCode::PERMANENT_REDIRECT, Some(location)),
        Err(status) => (status, None),
    };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, 0.into());
    // One answer a connection: nothing else is to be had here.
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if let Some(location) = location {
        headers.insert(LOCATION, location);
    }
    response
}

fn location(
    head: &request::Parts,
    port: u16,
    is_served: impl Fn(&Host) -> bool,
) -> Result<HeaderValue, StatusCode> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(StatusCode::BAD_REQUEST);
    };
    if head.uri.authority().is_some() || head.method == Method::CONNECT {
        return Err(StatusCode::BAD_REQUEST);
    }
    let authority = host
        .to_str()
        .ok()
        .and_then(|host| Authority::parse(host).ok())
        .ok_or(StatusCode::BAD_REQUEST)?;
    if !is_served(&authority.host) {
        return Err(StatusCode::MISDIRECTED_REQUEST);
    }
    let port = (port != 443).then_some(port);
    let authority = Authority { host: authority.host, port };
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let request = CanonicalRequest::parse(head.method.as_str().into(), authority, target)
        .map_err(|_| StatusCode::BAD_REQUEST)?;
    HeaderValue::try_from(format!("https://{}{}", request.authority, request.target()))
        .map_err(|_| StatusCode::BAD_REQUEST)
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
        let response = answer(&head, port, |host| host.as_str() == "app.example");
        let location = response.headers().get(LOCATION).map(|to| to.to_str().unwrap().to_owned());
        (response.status().as_u16(), location)
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
