//! An OpenID provider for the demo and for tests: small, but it checks what a provider has to.
//!
//! Authorization code flow with PKCE (S256 only), `state` required, one-time codes, ES256, single
//! sign-on by cookie, a second factor and a fresh sign-in for who asks for them (`acr_values`,
//! `max_age`), RP-initiated logout. It listens on the loopback address, takes a click for a password
//! and another for a one-time code, and exists only where the feature `demo` is compiled in;
//! `wicketgate run` never starts it.

mod grants;
mod keys;
mod pages;
mod request;
mod token;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::header::{HeaderValue, LOCATION, SET_COOKIE};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::grants::{Grant, Grants, SignedIn};
use self::keys::SigningKey;
use self::request::{AuthorizeRequest, Refusal, parameters};
use super::DemoError;
use super::serve::{self, Handler, Reply};
use super::users;
use crate::domain::clock::Clock;

const COOKIE: &str = "__Host-demo-login";

/// The authentication context class (`acr`) of a sign-in with a second factor.
pub const SECOND_FACTOR: &str = "urn:wicketgate:demo:mfa";
/// That of one with a password alone.
const PASSWORD: &str = "urn:wicketgate:demo:password";

/// The one client: the gate.
#[derive(Clone, Debug)]
pub struct Client {
    pub id: String,
    pub secret: String,
    pub redirect_uris: Vec<String>,
    pub post_logout_redirect_uris: Vec<String>,
}

/// The provider, ready to answer.
#[derive(Clone, Debug)]
pub struct Provider(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    issuer: String,
    client: Client,
    key: SigningKey,
    grants: Grants,
    clock: Clock,
}

impl Provider {
    /// `issuer` is the address that it is reached at, without a slash at the end.
    pub fn new(issuer: String, client: Client, clock: Clock) -> Result<Self, DemoError> {
        let key = SigningKey::generate()?;
        Ok(Self(Arc::new(Inner { issuer, client, key, grants: Grants::default(), clock })))
    }

    /// Serves until `stop`.
    pub async fn run(
        self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        stop: CancellationToken,
    ) {
        serve::tls(listener, stop, tls, self).await;
    }
}

impl Handler for Provider {
    async fn handle(self, request: Request<Incoming>) -> Reply {
        let provider = &self.0;
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        match (&method, path.as_str()) {
            (&Method::GET, "/.well-known/openid-configuration") => provider.discovery(),
            (&Method::GET, "/jwks") => serve::json(StatusCode::OK, &provider.key.jwks()),
            (&Method::GET, "/authorize") => provider.authorize(&request),
            (&Method::POST, "/authorize") => provider.chosen(request).await,
            (&Method::POST, "/token") => provider.token(request).await,
            (&Method::GET | &Method::POST, "/userinfo") => provider.userinfo(&request),
            (&Method::GET, "/end-session") => {
                let query = request.uri().query().unwrap_or_default().as_bytes().to_vec();
                provider.end_session(&request, &query)
            }
            (&Method::POST, "/end-session") => {
                let (head, body) = request.into_parts();
                match serve::body(body).await {
                    Some(form) => provider.end_session(&Request::from_parts(head, ()), &form),
                    None => pages::problem(StatusCode::BAD_REQUEST, "the form is too large"),
                }
            }
            (&Method::GET, "/") => pages::front(),
            _ => pages::problem(StatusCode::NOT_FOUND, "there is nothing here"),
        }
    }
}

impl Inner {
    /// OpenID Connect Discovery 1.0, section 3.
    fn discovery(&self) -> Reply {
        let at = |path: &str| format!("{}{path}", self.issuer);
        serve::json(
            StatusCode::OK,
            &json!({
                "issuer": self.issuer,
                "authorization_endpoint": at("/authorize"),
                "token_endpoint": at("/token"),
                "userinfo_endpoint": at("/userinfo"),
                "jwks_uri": at("/jwks"),
                "end_session_endpoint": at("/end-session"),
                "response_types_supported": ["code"],
                "response_modes_supported": ["query"],
                "grant_types_supported": ["authorization_code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic"],
                "code_challenge_methods_supported": ["S256"],
                "scopes_supported": ["openid", "profile", "email", "groups", "tenant"],
                "claims_supported": [
                    "sub", "name", "email", "email_verified", "groups", "tenant",
                    "acr", "amr", "auth_time", "sid",
                ],
                "acr_values_supported": [PASSWORD, SECOND_FACTOR],
                "authorization_response_iss_parameter_supported": true,
            }),
        )
    }

    fn authorize(&self, request: &Request<Incoming>) -> Reply {
        let query = request.uri().query().unwrap_or_default();
        let asked = match AuthorizeRequest::parse(query, &self.client) {
            Ok(asked) => asked,
            Err(refusal) => return self.refuse(refusal),
        };
        let prompt = asked.prompt.as_deref();
        let signed_in = cookie(request).and_then(|value| self.grants.browser(value));
        let known = signed_in.as_ref().map(|signed_in| signed_in.user);
        let age = |signed_in: &SignedIn| self.clock.now().since(signed_in.at).as_secs();
        let enough = |signed_in: &SignedIn| {
            (signed_in.second_factor || !asked.second_factor)
                && asked.max_age.is_none_or(|most| age(signed_in) <= most)
                && !matches!(prompt, Some("login" | "select_account"))
        };
        match signed_in {
            Some(signed_in) if enough(&signed_in) => self.answer(&asked, signed_in, None),
            _ if prompt == Some("none") => self.refuse(Refusal::Redirected {
                redirect_uri: asked.redirect_uri,
                state: Some(asked.state),
                error: "login_required",
                why: "nobody is signed in, or not as was asked for",
            }),
            _ => pages::choose(query, &asked, known.filter(|_| prompt != Some("select_account"))),
        }
    }

    /// A click on one of the users. The request itself comes along in the form, and is checked as
    /// if it were new.
    async fn chosen(&self, request: Request<Incoming>) -> Reply {
        // A form on another site must not be able to sign anybody in (login CSRF).
        let before = cookie(&request).map(str::to_owned);
        if serve::header(&request, "sec-fetch-site").is_some_and(|site| site != "same-origin")
            || serve::header(&request, "origin").is_some_and(|origin| origin != self.issuer)
        {
            return pages::problem(StatusCode::FORBIDDEN, "this form comes from another site");
        }
        let form = serve::body(request.into_body()).await;
        let form = form.as_deref().and_then(parameters).unwrap_or_default();
        let (Some(query), Some(user)) =
            (form.get("request"), form.get("user").and_then(|name| users::find(name)))
        else {
            return pages::problem(StatusCode::BAD_REQUEST, "choose one of the users");
        };
        let asked = match AuthorizeRequest::parse(query, &self.client) {
            Ok(asked) => asked,
            Err(refusal) => return self.refuse(refusal),
        };
        let (Some(cookie), Some(sid)) = (serve::random_token(), serve::random_token()) else {
            return pages::problem(StatusCode::INTERNAL_SERVER_ERROR, "no random numbers");
        };
        // Who shows more of who they are goes on with the sign-in that they have.
        let before = before.and_then(|cookie| self.grants.sign_out(&cookie));
        let before = before.filter(|before| before.user == user);
        let signed_in = SignedIn {
            user,
            at: self.clock.now(),
            second_factor: asked.second_factor,
            sid: before.map_or(sid, |before| before.sid),
        };
        self.grants.sign_in(cookie.clone(), signed_in.clone());
        self.answer(&asked, signed_in, Some(&cookie))
    }

    fn answer(
        &self,
        asked: &AuthorizeRequest,
        signed_in: SignedIn,
        new_cookie: Option<&str>,
    ) -> Reply {
        let Some(code) = serve::random_token() else {
            return pages::problem(StatusCode::INTERNAL_SERVER_ERROR, "no random numbers");
        };
        let grant = Grant {
            signed_in,
            redirect_uri: asked.redirect_uri.clone(),
            nonce: asked.nonce.clone(),
            challenge: asked.challenge.clone(),
            issued: self.clock.now(),
        };
        self.grants.issue(code.clone(), grant);
        let mut reply = redirect(
            &asked.redirect_uri,
            // RFC 9207: who answers, against mix-up.
            &[("code", &code), ("state", &asked.state), ("iss", &self.issuer)],
        );
        if let Some(cookie) = new_cookie {
            set_cookie(&mut reply, &format!("{cookie}; Path=/; Secure; HttpOnly; SameSite=Lax"));
        }
        reply
    }

    fn refuse(&self, refusal: Refusal) -> Reply {
        match refusal {
            Refusal::Shown(why) => pages::problem(StatusCode::BAD_REQUEST, why),
            Refusal::Redirected { redirect_uri, state, error, why } => {
                let mut pairs =
                    vec![("error", error), ("error_description", why), ("iss", &self.issuer)];
                if let Some(state) = state.as_deref() {
                    pairs.push(("state", state));
                }
                redirect(&redirect_uri, &pairs)
            }
        }
    }

    /// OpenID Connect RP-Initiated Logout 1.0.
    fn end_session<B>(&self, request: &Request<B>, encoded: &[u8]) -> Reply {
        let given = parameters(encoded).unwrap_or_default();
        let hint = given
            .get("id_token_hint")
            .and_then(|token| self.key.claims_of_hint(token, &self.issuer));
        if let Some(sid) = hint.as_ref().and_then(|claims| claims.get("sid")?.as_str()) {
            self.grants.sign_out_sid(sid);
        }
        if let Some(cookie) = cookie(request) {
            self.grants.sign_out(cookie);
        }
        // Without a hint anybody could have made the link: say so here, redirect nowhere.
        let target = given
            .get("post_logout_redirect_uri")
            .filter(|uri| hint.is_some() && self.client.post_logout_redirect_uris.contains(uri));
        let mut reply = match (target, given.get("state")) {
            (Some(target), Some(state)) => redirect(target, &[("state", state)]),
            (Some(target), None) => redirect(target, &[]),
            (None, _) => pages::signed_out(),
        };
        set_cookie(&mut reply, "; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0");
        reply
    }
}

/// The value of the provider's own cookie.
fn cookie<B>(request: &Request<B>) -> Option<&str> {
    serve::header(request, "cookie")?
        .split(';')
        .find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

fn set_cookie(reply: &mut Reply, value: &str) {
    if let Ok(value) = HeaderValue::try_from(format!("{COOKIE}={value}")) {
        reply.headers_mut().insert(SET_COOKIE, value);
    }
}

/// A redirect to a registered address with these parameters added.
fn redirect(to: &str, pairs: &[(&str, &str)]) -> Reply {
    let location = url::Url::parse(to).ok().and_then(|mut url| {
        if !pairs.is_empty() {
            url.query_pairs_mut().extend_pairs(pairs);
        }
        HeaderValue::try_from(url.as_str()).ok()
    });
    let Some(location) = location else {
        return pages::problem(StatusCode::BAD_REQUEST, "the address to return to is not valid");
    };
    let mut reply = serve::html(StatusCode::SEE_OTHER, String::new());
    reply.headers_mut().insert(LOCATION, location);
    reply
}
