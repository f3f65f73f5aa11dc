//! The dashboard of a pumping station: live values over a WebSocket, and a set-point.
//!
//! It does not know who may move the set-point: it accepts both a POST and a WebSocket message
//! from whoever reaches it. That vendors may look and not touch is the gate's doing alone.

mod process;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{
    CONNECTION, CONTENT_SECURITY_POLICY, HeaderValue, LOCATION, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, UPGRADE,
};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;

use self::process::{Process, Reading};
use super::serve::{self, Handler, Reply};

const STEP: Duration = Duration::from_millis(200);

/// How many readings a new viewer gets at once: the last 60 seconds.
const HISTORY: usize = 300;

#[derive(Debug, Default)]
struct Plant {
    process: Process,
    history: VecDeque<Reading>,
}

impl Plant {
    fn step(&mut self) -> Reading {
        self.process.step(STEP.as_secs_f64());
        if self.history.len() >= HISTORY {
            self.history.pop_front();
        }
        let reading = self.process.reading();
        self.history.push_back(reading);
        reading
    }
}

/// The dashboard, with the plant behind it.
#[derive(Clone, Debug)]
pub struct Ics {
    plant: Arc<Mutex<Plant>>,
    readings: watch::Sender<Reading>,
    stop: CancellationToken,
}

impl Ics {
    pub fn new(stop: CancellationToken) -> Self {
        // The plant has been running for a while when the first visitor comes.
        let mut plant = Plant::default();
        for _ in 0..HISTORY {
            plant.step();
        }
        let (readings, _) = watch::channel(plant.process.reading());
        Self { plant: Arc::new(Mutex::new(plant)), readings, stop }
    }

    /// Runs the plant until the demo stops.
    pub async fn simulate(self) {
        let mut ticks = tokio::time::interval(STEP);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = ticks.tick() => {
                    let reading = self.plant.lock().step();
                    self.readings.send_replace(reading);
                }
            }
        }
    }

    fn page(&self) -> Reply {
        let page = include_str!("../../../templates/demo/ics.html");
        let mut reply = serve::html(StatusCode::OK, page.to_owned());
        let policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
        reply.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
        reply
    }

    /// `{"setpoint": 55}`.
    fn set(&self, message: &[u8]) -> bool {
        let wanted = serde_json::from_slice::<serde_json::Value>(message)
            .ok()
            .and_then(|message| message.get("setpoint")?.as_f64());
        let Some(wanted) = wanted else { return false };
        let reading = {
            let mut plant = self.plant.lock();
            if !plant.process.set(wanted) {
                return false;
            }
            plant.process.reading()
        };
        self.readings.send_replace(reading);
        true
    }

    /// `pump=off` or `pump=on`, as the form on the page sends it.
    fn switch(&self, form: &[u8]) -> Reply {
        let wanted = url::form_urlencoded::parse(form).find(|(name, _)| name == "pump");
        let on = match wanted.as_ref().map(|(_, value)| &**value) {
            Some("on") => true,
            Some("off") => false,
            _ => {
                let error = json!({"error": "send pump=on or pump=off"});
                return serve::json(StatusCode::UNPROCESSABLE_ENTITY, &error);
            }
        };
        let reading = {
            let mut plant = self.plant.lock();
            plant.process.switch(on);
            plant.process.reading()
        };
        self.readings.send_replace(reading);
        let mut reply = serve::html(StatusCode::SEE_OTHER, String::new());
        reply.headers_mut().insert(LOCATION, HeaderValue::from_static("/"));
        reply
    }

    fn websocket(self, mut request: Request<Incoming>) -> Reply {
        let key = request.headers().get(SEC_WEBSOCKET_KEY).map(|key| key.as_bytes().to_vec());
        let upgrade = request.extensions_mut().remove::<OnUpgrade>();
        let (Some(key), Some(upgrade)) = (key, upgrade) else {
            return serve::json(
                StatusCode::UPGRADE_REQUIRED,
                &json!({"error": "open a WebSocket"}),
            );
        };
        let mut reply = serve::html(StatusCode::SWITCHING_PROTOCOLS, String::new());
        let headers = reply.headers_mut();
        headers.clear();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::try_from(derive_accept_key(&key)) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                self.converse(upgraded).await;
            }
        });
        reply
    }

    async fn converse(self, upgraded: Upgraded) {
        let mut socket =
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        let mut readings = self.readings.subscribe();
        let history = serde_json::to_string(&self.plant.lock().history).unwrap_or_default();
        if socket.send(Message::text(history)).await.is_err() {
            return;
        }
        loop {
            let sent = tokio::select! {
                () = self.stop.cancelled() => {
                    let _ = socket.close(None).await;
                    return;
                }
                changed = readings.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let text = serde_json::to_string(&*readings.borrow_and_update());
                    socket.send(Message::text(text.unwrap_or_default())).await
                }
                message = socket.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        self.set(text.as_bytes());
                        Ok(())
                    }
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    Some(Ok(_)) => Ok(()),
                },
            };
            if sent.is_err() {
                return;
            }
        }
    }
}

impl Handler for Ics {
    async fn handle(self, request: Request<Incoming>) -> Reply {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/") => self.page(),
            (&Method::GET, "/dashboard.css") => serve::reply(
                StatusCode::OK,
                "text/css; charset=utf-8",
                include_str!("../../../templates/demo/ics.css"),
            ),
            (&Method::GET, "/dashboard.js") => serve::reply(
                StatusCode::OK,
                "text/javascript; charset=utf-8",
                include_str!("../../../templates/demo/ics.js"),
            ),
            (&Method::GET, "/live") => self.websocket(request),
            (&Method::GET, "/api/reading") => {
                let reading = *self.readings.borrow();
                serve::json(StatusCode::OK, &json!(reading))
            }
            (&Method::POST, "/api/setpoint") => {
                let body = serve::body(request.into_body()).await.unwrap_or_default();
                if self.set(&body) {
                    let reading = *self.readings.borrow();
                    serve::json(StatusCode::OK, &json!(reading))
                } else {
                    let error = "send {\"setpoint\": N} with N from 10 to 90";
                    serve::json(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "error": error }))
                }
            }
            (&Method::POST, "/pump") => {
                let body = serve::body(request.into_body()).await.unwrap_or_default();
                self.switch(&body)
            }
            _ => serve::json(StatusCode::NOT_FOUND, &json!({"error": "there is nothing here"})),
        }
    }
}
