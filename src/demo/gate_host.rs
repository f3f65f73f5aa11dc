//! `gate.localhost`: an application that shows what the gate told it, as any application could.

use askama::Template;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Request, StatusCode};
use hyper::body::Incoming;

use super::serve::{self, Handler, Reply};

#[derive(Clone, Copy, Debug)]
pub struct GateHost;

#[derive(Template)]
#[template(path = "demo/gate.html")]
struct Page {
    headers: Vec<(String, String)>,
    /// Decoded parts of the assertion; empty when there was none.
    assertion: Vec<String>,
}

impl Handler for GateHost {
    async fn handle(self, request: Request<Incoming>) -> Reply {
        let headers = request
            .headers()
            .iter()
            .filter(|(name, _)| {
                let name = name.as_str();
                name.starts_with("x-wicketgate-")
                    || name.starts_with("x-forwarded-")
                    || name == "forwarded"
            })
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes());
                let shown: String = value.chars().take(60).collect();
                let cut = if value.chars().count() > 60 { "…" } else { "" };
                (name.as_str().to_owned(), format!("{shown}{cut}"))
            })
            .collect();
        let assertion = serve::header(&request, "x-wicketgate-assertion").map(decode);
        let page = Page { headers, assertion: assertion.unwrap_or_default() };
        serve::html(StatusCode::OK, page.render().unwrap_or_default())
    }
}

/// Header and claims of a JWT, indented. Only for reading: an application that relies on the
/// assertion verifies it with `/.wicketgate/jwks.json`.
fn decode(token: &str) -> Vec<String> {
    token
        .split('.')
        .take(2)
        .filter_map(|part| {
            let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
            let value: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
            serde_json::to_string_pretty(&value).ok()
        })
        .collect()
}
