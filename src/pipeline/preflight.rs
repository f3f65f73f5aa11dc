//! What a browser asks before it lets another site's page send a request (Fetch, section 4.8).
//!
//! It asks without any credentials, so it can be answered by nobody behind the gate. For the origins
//! that a route lists the gate answers itself; for all others it is a request without a session.
//!
//! INVARIANT: the answer gives access to nothing. The request that follows it is authenticated,
//! authorised and recorded like any other, and whether the page may read what comes back is for the
//! application's own CORS fields to say.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, CONTENT_TYPE, VARY,
};
use http::{HeaderValue, Method, Response, StatusCode};

use super::guard;
use super::receive::Arrival;
use super::reply;
use super::route::RouteEntry;

/// How long the browser may remember it, in seconds: a route that no longer lists an origin refuses
/// its requests at once all the same.
const REMEMBERED: HeaderValue = HeaderValue::from_static("600");

/// Longest list of field names that is allowed back, in bytes.
const MAX_FIELDS: usize = 1024;

/// The answer to a preflight of a listed origin.
pub fn answer(arrival: &Arrival, route: &RouteEntry) -> Option<Response<Bytes>> {
    if route.config.cross_site_origins.is_empty() || arrival.head.method != Method::OPTIONS {
        return None;
    }
    let headers = &arrival.head.headers;
    let method = headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
    let origin = guard::foreign_origin(headers, route)?;
    let mut response =
        reply::answer(StatusCode::NO_CONTENT, arrival.id, "text/plain", Bytes::new());
    let answered = response.headers_mut();
    answered.remove(CONTENT_TYPE);
    answered.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    answered.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    answered.insert(ACCESS_CONTROL_ALLOW_METHODS, method.clone());
    if let Some(fields) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS)
        && fields.len() <= MAX_FIELDS
    {
        answered.insert(ACCESS_CONTROL_ALLOW_HEADERS, fields.clone());
    }
    answered.insert(ACCESS_CONTROL_MAX_AGE, REMEMBERED);
    let vary = "origin, access-control-request-method, access-control-request-headers";
    answered.insert(VARY, HeaderValue::from_static(vary));
    Some(response)
}
