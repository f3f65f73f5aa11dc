//! The token and user-info endpoints.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::{HeaderValue, WWW_AUTHENTICATE};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::request::parameters;
use super::{Grant, Inner, PASSWORD, SECOND_FACTOR};
use crate::demo::serve::{self, Reply};
use crate::demo::users::User;

/// Seconds that an ID token is valid.
const ID_TOKEN_LIFETIME: i64 = 300;

impl Inner {
    /// OpenID Connect Core 1.0, section 3.1.3.
    pub(super) async fn token(&self, request: Request<Incoming>) -> Reply {
        if !self.is_client(&request) {
            let mut reply = error(StatusCode::UNAUTHORIZED, "invalid_client");
            reply
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"token\""));
            return reply;
        }
        let form = serve::body(request.into_body()).await;
        let Some(form) = form.as_deref().and_then(parameters) else {
            return error(StatusCode::BAD_REQUEST, "invalid_request");
        };
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        if field("grant_type") != "authorization_code" {
            return error(StatusCode::BAD_REQUEST, "unsupported_grant_type");
        }
        let Some(access_token) = serve::random_token() else {
            return error(StatusCode::INTERNAL_SERVER_ERROR, "server_error");
        };
        let now = self.clock.now();
        let grant = self.grants.redeem(field("code"), &access_token, now);
        let Some(grant) = grant.filter(|grant| {
            grant.redirect_uri == field("redirect_uri")
                && proves(field("code_verifier"), &grant.challenge)
        }) else {
            return error(StatusCode::BAD_REQUEST, "invalid_grant");
        };
        let Ok(id_token) = self.key.sign(&self.id_claims(&grant)) else {
            return error(StatusCode::INTERNAL_SERVER_ERROR, "server_error");
        };
        self.grants.remember_token(access_token.clone(), grant.signed_in.user, now);
        serve::json(
            StatusCode::OK,
            &json!({
                "access_token": access_token,
                "token_type": "Bearer",
                "expires_in": 600,
                "id_token": id_token,
                "scope": "openid profile email groups tenant",
            }),
        )
    }

    pub(super) fn userinfo(&self, request: &Request<Incoming>) -> Reply {
        let user = serve::header(request, "authorization")
            .and_then(|value| value.strip_prefix("Bearer "))
            .and_then(|token| self.grants.user_of_token(token, self.clock.now()));
        match user {
            Some(user) => serve::json(StatusCode::OK, &Value::Object(claims(user))),
            None => {
                let mut reply = error(StatusCode::UNAUTHORIZED, "invalid_token");
                reply.headers_mut().insert(
                    WWW_AUTHENTICATE,
                    HeaderValue::from_static("Bearer error=\"invalid_token\""),
                );
                reply
            }
        }
    }

    fn id_claims(&self, grant: &Grant) -> Value {
        let now = self.clock.now().as_seconds();
        let mut claims = claims(grant.signed_in.user);
        claims.extend([
            ("iss".to_owned(), json!(self.issuer)),
            ("aud".to_owned(), json!(self.client.id)),
            ("iat".to_owned(), json!(now)),
            ("exp".to_owned(), json!(now + ID_TOKEN_LIFETIME)),
            ("auth_time".to_owned(), json!(grant.signed_in.at.as_seconds())),
            ("sid".to_owned(), json!(grant.signed_in.sid)),
        ]);
        // The demo takes a click for a password, and another for a one-time code (RFC 8176).
        let (acr, amr) = if grant.signed_in.second_factor {
            (SECOND_FACTOR, json!(["pwd", "otp", "mfa"]))
        } else {
            (PASSWORD, json!(["pwd"]))
        };
        claims.extend([("acr".to_owned(), json!(acr)), ("amr".to_owned(), amr)]);
        if let Some(nonce) = &grant.nonce {
            claims.insert("nonce".to_owned(), json!(nonce));
        }
        Value::Object(claims)
    }

    /// `client_secret_basic` (RFC 6749, section 2.3.1: both parts are form-encoded first).
    fn is_client(&self, request: &Request<Incoming>) -> bool {
        let decoded = serve::header(request, "authorization")
            .and_then(|value| value.strip_prefix("Basic "))
            .and_then(|encoded| STANDARD.decode(encoded).ok())
            .and_then(|bytes| String::from_utf8(bytes).ok());
        let Some((id, secret)) = decoded.as_deref().and_then(|pair| pair.split_once(':')) else {
            return false;
        };
        let plain = |text: &str| {
            percent_encoding::percent_decode_str(&text.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned()
        };
        let right = aws_lc_rs::constant_time::verify_slices_are_equal(
            plain(secret).as_bytes(),
            self.client.secret.as_bytes(),
        );
        plain(id) == self.client.id && right.is_ok()
    }
}

/// RFC 7636, section 4.6.
fn proves(verifier: &str, challenge: &str) -> bool {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes());
    (43..=128).contains(&verifier.len()) && URL_SAFE_NO_PAD.encode(digest) == challenge
}

fn claims(user: &User) -> serde_json::Map<String, Value> {
    let mut claims = serde_json::Map::new();
    claims.insert("sub".to_owned(), json!(user.subject));
    claims.insert("name".to_owned(), json!(user.name));
    claims.insert("email".to_owned(), json!(user.email));
    claims.insert("email_verified".to_owned(), json!(true));
    claims.insert("groups".to_owned(), json!(user.groups));
    if let Some(tenant) = user.tenant {
        claims.insert("tenant".to_owned(), json!(tenant));
    }
    claims
}

fn error(status: StatusCode, error: &str) -> Reply {
    serve::json(status, &json!({ "error": error }))
}
