//! A WebSocket through the gate.

use std::borrow::BorrowMut;

use futures_util::StreamExt;
use http::Response;
use http::header::{AUTHORIZATION, COOKIE, HOST, HeaderName, ORIGIN};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::client::{Browser, Wire, authority};
use super::servers::{Echo, Heard};
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

/// One that the echo at `/ws` has heard of.
pub async fn opened(browser: &Browser, echo: &mut Echo) -> Socket {
    let (socket, _) = open(browser, "/ws").await.unwrap();
    assert_eq!(echo.next().await, Heard::Opened);
    socket
}

/// Waits until the gate has closed it: the words of its close frame, if it has any.
pub async fn closed(mut socket: impl BorrowMut<Socket>) -> String {
    within("the end of the WebSocket", async {
        while let Some(Ok(message)) = socket.borrow_mut().next().await {
            if let Message::Close(frame) = message {
                return frame.map(|frame| frame.reason.to_string()).unwrap_or_default();
            }
        }
        String::new()
    })
    .await
}
