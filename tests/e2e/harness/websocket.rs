//! A WebSocket through the gate.

use http::Response;
use http::header::{AUTHORIZATION, COOKIE, HOST, HeaderName, ORIGIN};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::client::{Browser, Wire, authority};
use super::within;

pub type Socket = WebSocketStream<Box<dyn Wire>>;

/// Opens one as the browser's page would, or tells the status of the refusal.
pub async fn open(
    browser: &Browser,
    path: &str,
) -> Result<(Socket, Response<Option<Vec<u8>>>), u16> {
    let url = browser.url(path);
    let (wire, h2) = browser.connect(&url).await;
    assert!(!h2, "WebSockets go over HTTP/1.1");
    let mut request = url.as_str().replacen("https", "wss", 1).into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert(HOST, authority(&url).parse().unwrap());
    headers.insert(ORIGIN, url.origin().ascii_serialization().parse().unwrap());
    for (name, value) in browser.headers() {
        let name: HeaderName = name.parse().unwrap();
        if name == ORIGIN || name == AUTHORIZATION {
            headers.insert(name, value.parse().unwrap());
        }
    }
    let cookies = browser.cookies_for(&url);
    if !cookies.is_empty() {
        headers.insert(COOKIE, cookies.parse().unwrap());
    }
    match within("the WebSocket", tokio_tungstenite::client_async(request, wire)).await {
        Ok(opened) => Ok(opened),
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("neither a WebSocket nor an answer: {error}"),
    }
}
