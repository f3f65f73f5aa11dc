//! `wicketgate demo --tour`: the story of the gate, played by a client that checks every step.

mod check;
mod transcript;

use std::sync::Arc;
use std::time::Duration;

use futures_util::SinkExt as _;
use http::{Method, StatusCode};
use tokio_tungstenite::tungstenite::Message;

use self::check::{
    Checked, denied, says, status, wait_for_end, wait_for_record, wait_for_setpoint,
};
use self::transcript::Transcript;
use super::DemoError;
use super::client::{Answer, Browser, ClientError};
use super::gate::Gate;
use super::provider::SECOND_FACTOR;
use super::terminal::Style;

/// How soon a logout has to end a live connection.
const CUT: Duration = Duration::from_secs(2);

/// Plays the tour. True when every step went as told.
pub async fn play(
    style: Style,
    gate: &Gate,
    tls: Arc<rustls::ClientConfig>,
    port: u16,
) -> Result<bool, DemoError> {
    let mut tour = Tour { gate, tls, port, transcript: Transcript::new(style) };
    tour.strangers().await?;
    tour.ada().await?;
    tour.vera().await?;
    tour.otto().await?;
    tour.sam().await?;
    tour.audit().await?;
    tour.transcript.end()
}

struct Tour<'a> {
    gate: &'a Gate,
    tls: Arc<rustls::ClientConfig>,
    port: u16,
    transcript: Transcript,
}

impl Tour<'_> {
    fn browser(&self) -> Browser {
        Browser::new(Arc::clone(&self.tls))
    }

    fn at(&self, host: &str, path: &str) -> String {
        format!("https://{host}.localhost:{}{path}", self.port)
    }

    async fn strangers(&mut self) -> Result<(), DemoError> {
        self.transcript.chapter("Nobody is signed in")?;
        let orders = self.at("portal", "/acme/orders");
        let mut stranger = self.browser();
        let answer = stranger.fetch(Method::GET, &orders, &[], "").await;
        let result = answer.map_err(|error| error.to_string()).and_then(|answer| {
            status(&answer, StatusCode::UNAUTHORIZED)?;
            says(answer.header("content-type").unwrap_or_default(), "application/problem+json")?;
            let id = answer.decision().ok_or("the answer has no decision id")?;
            Ok(format!("401 application/problem+json, decision {id}"))
        });
        self.transcript.step("a script without a session gets a 401, no login page", result)?;
        let answer = stranger.open(&orders).await;
        let result = answer.map_err(|error| error.to_string()).and_then(|answer| {
            let host = answer.url.host_str().unwrap_or_default().to_owned();
            says(&host, "login.localhost")?;
            Ok(format!("asked to sign in at {host}"))
        });
        self.transcript.step("a browser is sent to the identity provider", result)
    }

    async fn ada(&mut self) -> Result<(), DemoError> {
        self.transcript.chapter("Ada, a customer of Acme")?;
        let mut ada = self.browser();
        let answer = ada.open_as(&self.at("portal", "/acme/orders"), "ada").await;
        let result = answer.map_err(|error| error.to_string()).and_then(|answer| {
            status(&answer, StatusCode::OK)?;
            says(&answer.body, "Acme Waterworks")?;
            says(&answer.body, "ada@acme.example")?;
            Ok("200, the portal greets ada@acme.example".to_owned())
        });
        self.transcript.step("signs in with one click and sees Acme's orders", result)?;

        let mut records = self.gate.records();
        let foreign = self.at("portal", "/globex/orders");
        let answer = ada.open(&foreign).await;
        let result = answer
            .map_err(|error| error.to_string())
            .and_then(|answer| denied(&answer, "Globex Chemicals"));
        let decision = result.as_ref().ok().cloned();
        if let Some(id) = &decision {
            wait_for_record(&mut records, id).await;
        }
        let told = result.map(|id| format!("403 with the reason, decision {id}"));
        self.transcript.step("is refused the orders of Globex", told)?;

        let explained = match decision {
            Some(id) => self.gate.explain(&id).map_err(|error| error.to_string()),
            None => Err("there was no decision to explain".to_owned()),
        };
        let checked = explained.and_then(|text| {
            says(&text, "tenant-isolation")?;
            Ok(text)
        });
        self.transcript.step("`policy explain` names the policy that decided", checked)?;

        let spoofed = [("x-wicketgate-user", "demo/grace"), ("x-wicketgate-tenant", "globex")];
        let answer = ada.fetch(Method::GET, &foreign, &spoofed, "").await;
        let result = answer
            .map_err(|error| error.to_string())
            .and_then(|answer| denied(&answer, "Globex Chemicals"))
            .map(|_| "still 403".to_owned());
        self.transcript.step("gains nothing by sending x-wicketgate-tenant herself", result)?;

        let own = self.at("portal", "/acme/orders");
        let answer =
            ada.fetch(Method::GET, &own, &[("x-wicketgate-email", "ceo@acme.example")], "").await;
        let result = answer.map_err(|error| error.to_string()).and_then(|answer| {
            status(&answer, StatusCode::OK)?;
            says(&answer.body, "ada@acme.example")?;
            if answer.body.contains("ceo@acme.example") {
                return Err("the portal believed a header of the client".to_owned());
            }
            Ok("the portal sees ada@acme.example".to_owned())
        });
        self.transcript.step("can't be somebody else by a header", result)?;

        let answer = ada.open(&self.at("ics", "/")).await;
        let result = answer
            .map_err(|error| error.to_string())
            .and_then(|answer| denied(&answer, "Pumping station 2"))
            .map(|_| "403; signed in there without another click".to_owned());
        self.transcript.step("has no business in the pumping station", result)
    }

    async fn vera(&mut self) -> Result<(), DemoError> {
        self.transcript.chapter("Vera, a vendor: may look, may not touch")?;
        let mut vera = self.browser();
        let answer = vera.open_as(&self.at("ics", "/"), "vera").await;
        let result = answer.map_err(|error| error.to_string()).and_then(|answer| {
            status(&answer, StatusCode::OK)?;
            says(&answer.body, "Pumping station 2")?;
            Ok("200".to_owned())
        });
        self.transcript.step("opens the dashboard", result)?;

        let mut socket = match vera.websocket(&self.at("ics", "/live")).await {
            Ok(socket) => socket,
            Err(error) => {
                return self.transcript.step("watches live values", Err(error.to_string()));
            }
        };
        let first = wait_for_setpoint(&mut socket, None).await;
        let told = first
            .clone()
            .map(|setpoint| format!("level and pump arrive by WebSocket, set-point {setpoint} %"));
        self.transcript.step("watches live values", told)?;
        let Ok(before) = first else { return Ok(()) };

        let setpoint = self.at("ics", "/api/setpoint");
        let answer = vera.fetch(Method::POST, &setpoint, &[], "{\"setpoint\": 81}").await;
        let result = answer
            .map_err(|error| error.to_string())
            .and_then(|answer| denied(&answer, "\"pump\""))
            .map(|id| format!("403 problem+json, decision {id}"));
        self.transcript.step("is refused when she moves the set-point by request", result)?;

        let sent = socket.send(Message::text("{\"setpoint\": 82}")).await;
        let result = match sent {
            Err(error) => Err(error.to_string()),
            Ok(()) => match wait_for_setpoint(&mut socket, Some(82.0)).await {
                Ok(_) => Err("the message reached the plant".to_owned()),
                Err(_) => self.setpoint_is(&mut vera, before).await,
            },
        };
        self.transcript.step("is ignored when she tries it over the open WebSocket", result)
    }

    /// Asks the dashboard for the set-point, by a way of its own.
    async fn setpoint_is(&self, browser: &mut Browser, expected: f64) -> Checked {
        let answer = browser
            .fetch(Method::GET, &self.at("ics", "/api/reading"), &[], "")
            .await
            .map_err(|error| error.to_string())?;
        status(&answer, StatusCode::OK)?;
        let reading: serde_json::Value =
            serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
        match reading.get("setpoint").and_then(serde_json::Value::as_f64) {
            Some(found) if (found - expected).abs() < 0.01 => {
                Ok(format!("the set-point is {expected} %"))
            }
            found => Err(format!("the set-point is {found:?}, not {expected}")),
        }
    }

    async fn otto(&mut self) -> Result<(), DemoError> {
        self.transcript.chapter("Otto, an OT engineer: operates the plant")?;
        let mut otto = self.browser();
        let setpoint = self.at("ics", "/api/setpoint");
        let opened = otto.open_as(&self.at("ics", "/"), "otto").await;
        let answer = match opened {
            Ok(_) => otto.fetch(Method::POST, &setpoint, &[], "{\"setpoint\": 70}").await,
            Err(error) => Err(error),
        };
        let result = answer.map_err(|error| error.to_string()).and_then(|answer| {
            status(&answer, StatusCode::OK)?;
            says(&answer.body, "\"setpoint\":70")?;
            Ok("200, the set-point is 70 %".to_owned())
        });
        self.transcript.step("moves the set-point by request", result)?;

        self.pump(&mut otto).await?;

        let answer = otto.open_as(&self.at("legacy", "/"), "otto").await;
        let result = answer.map_err(|error| error.to_string()).and_then(|answer| {
            status(&answer, StatusCode::OK)?;
            says(&answer.body, "SEAL REPLACED")?;
            Ok("200 from HTTP/1.0; the gate put the password in".to_owned())
        });
        self.transcript.step("reads the archive without knowing its password", result)?;

        let mut socket = match otto.websocket(&self.at("ics", "/live")).await {
            Ok(socket) => socket,
            Err(error) => {
                return self.transcript.step("moves it over the WebSocket", Err(error.to_string()));
            }
        };
        let result = match socket.send(Message::text("{\"setpoint\": 45}")).await {
            Ok(()) => wait_for_setpoint(&mut socket, Some(45.0)).await,
            Err(error) => Err(error.to_string()),
        };
        let told = result.map(|setpoint| format!("the set-point is {setpoint} %"));
        self.transcript.step("moves it over the WebSocket", told)?;

        // In another tab of the same browser, on another host: one sign-out ends all of it.
        let began = tokio::time::Instant::now();
        let left = otto.sign_out(&self.at("legacy", "")).await;
        let result = match left {
            Err(error) => Err(error.to_string()),
            Ok(_) => wait_for_end(&mut socket, CUT).await,
        };
        let told = result.map(|()| format!("cut after {} ms", began.elapsed().as_millis()));
        self.transcript.step("signs out, and his live view is cut within 2 seconds", told)?;

        let answer = otto.fetch(Method::POST, &setpoint, &[], "{\"setpoint\": 80}").await;
        let result = answer.map_err(|error| error.to_string()).and_then(|answer| {
            status(&answer, StatusCode::UNAUTHORIZED)?;
            Ok("401".to_owned())
        });
        self.transcript.step("can do nothing more with the old cookies", result)
    }

    /// What needs a stronger sign-in than the one that he came with.
    async fn pump(&mut self, otto: &mut Browser) -> Result<(), DemoError> {
        let pump = self.at("ics", "/pump");
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let answer = otto.fetch(Method::POST, &pump, &form, "pump=off").await;
        let result = answer.map_err(|error| error.to_string()).and_then(|answer| {
            status(&answer, StatusCode::UNAUTHORIZED)?;
            let challenge = answer.header("www-authenticate").unwrap_or_default().to_owned();
            says(&challenge, "error=\"insufficient_user_authentication\"")?;
            says(&challenge, &format!("acr_values=\"{SECOND_FACTOR}\""))?;
            Ok(format!("401, {}", challenge.replace(", ", ",\n")))
        });
        self.transcript.step("stops the pump by script: a password is not enough", result)?;

        let result = match self.second_factor(otto, &pump).await {
            Ok(answer) => match status(&answer, StatusCode::OK) {
                Ok(()) => self.pump_stands(otto).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error.to_string()),
        };
        let result = result.map(|()| "the form was kept, and sent by a click".to_owned());
        self.transcript.step("stops it by the form on the page, after a second factor", result)
    }

    async fn second_factor(&self, otto: &mut Browser, pump: &str) -> Result<Answer, ClientError> {
        let kept = otto.post(pump, "pump=off").await?;
        let asked = otto.go_on(&kept, "otto").await?;
        otto.send_kept(&asked).await
    }

    async fn pump_stands(&self, otto: &mut Browser) -> Result<(), String> {
        let reading = otto.fetch(Method::GET, &self.at("ics", "/api/reading"), &[], "").await;
        says(&reading.map_err(|error| error.to_string())?.body, "\"running\":false")
    }

    async fn sam(&mut self) -> Result<(), DemoError> {
        self.transcript.chapter("Sam, a security administrator")?;
        let mut sam = self.browser();
        let answer = sam.open_as(&self.at("gate", "/"), "sam").await;
        let result = answer.map_err(|error| error.to_string()).and_then(|answer| {
            status(&answer, StatusCode::OK)?;
            says(&answer.body, "What the gate says about you")?;
            says(&answer.body, "x-wicketgate-assertion")?;
            says(&answer.body, "security-team")?;
            Ok("200, with a signed assertion of who he is".to_owned())
        });
        self.transcript.step("sees what applications are told", result)
    }

    async fn audit(&mut self) -> Result<(), DemoError> {
        self.transcript.chapter("Afterwards")?;
        let verified = self.gate.verify().map_err(|error| error.to_string());
        let told = verified.and_then(|records| match records {
            0 => Err("the audit log is empty".to_owned()),
            records => Ok(format!("{records} records, every one chained to the one before")),
        });
        self.transcript.step("the audit log verifies", told)
    }
}
