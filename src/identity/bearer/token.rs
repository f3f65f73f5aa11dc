//! What a token has to be and to say (RFC 9068, sections 2 and 4).

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use openidconnect::core::{CoreJsonWebKey, CoreJsonWebKeySet, CoreJwsSigningAlgorithm};
use openidconnect::{JsonWebKey, JsonWebKeyUse, JwsSigningAlgorithm};
use serde_json::Value;

use super::{BearerError, LEEWAY};
use crate::config::model::IdentityProvider;
use crate::domain::clock::Timestamp;
use crate::domain::principal::{Authentication, Principal};
use crate::identity::claims::{self, ClaimError, Claims};
use crate::identity::strict;

/// Longest token that is read, in bytes.
pub(super) const MAX_TOKEN: usize = 16 * 1024;

/// Asymmetric only: never `none`, and no `HS*`, whose key would be what is published
/// (RFC 8725, section 2.1).
const ALGORITHMS: [(&str, CoreJwsSigningAlgorithm); 9] = [
    ("RS256", CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256),
    ("RS384", CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384),
    ("RS512", CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512),
    ("PS256", CoreJwsSigningAlgorithm::RsaSsaPssSha256),
    ("PS384", CoreJwsSigningAlgorithm::RsaSsaPssSha384),
    ("PS512", CoreJwsSigningAlgorithm::RsaSsaPssSha512),
    ("ES256", CoreJwsSigningAlgorithm::EcdsaP256Sha256),
    ("ES384", CoreJwsSigningAlgorithm::EcdsaP384Sha384),
    ("EdDSA", CoreJwsSigningAlgorithm::EdDsa),
];

/// Header parameters that would have the token say what it is verified with, or that a reader who
/// doesn't know them must not ignore (RFC 7515, sections 4.1.2, 4.1.3, 4.1.5, 4.1.6 and 4.1.11).
/// Refused and not just ignored: no honest issuer's access token has them.
const NEVER: [&str; 5] = ["jku", "jwk", "x5u", "x5c", "crit"];

/// A token taken apart.
pub(super) struct Unverified<'a> {
    algorithm: CoreJwsSigningAlgorithm,
    key_id: Option<String>,
    claims: Claims,
    signed: &'a str,
    signature: Vec<u8>,
}

/// What a token says that is true once its signature is.
pub(super) struct Facts {
    pub(super) principal: Principal,
    pub(super) authentication: Authentication,
    pub(super) audiences: Box<[Arc<str>]>,
    pub(super) expires: Timestamp,
    pub(super) bound_to: Option<[u8; 32]>,
}

impl<'a> Unverified<'a> {
    pub(super) fn read(token: &'a str) -> Result<Self, BearerError> {
        if token.len() > MAX_TOKEN {
            return Err(BearerError::TooLarge);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(BearerError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(BearerError::Malformed)?;
        // A further dot is no base64.
        let decoded =
            |part| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| BearerError::Malformed);
        let object = |part| strict::object(&decoded(part)?).ok_or(BearerError::Malformed);
        let header = object(header)?;
        let text = |name: &str| match header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(BearerError::Malformed),
        };
        let wanted = text("alg")?;
        let algorithm = ALGORITHMS.iter().find(|(name, _)| wanted == Some(name));
        let (_, algorithm) = algorithm.ok_or(BearerError::Algorithm)?;
        if NEVER.iter().any(|name| header.contains_key(*name)) {
            return Err(BearerError::Header);
        }
        // Section 4: what was issued for another purpose is none, however good it is.
        let kind = text("typ")?.unwrap_or_default();
        if !["at+jwt", "application/at+jwt"].iter().any(|at| kind.eq_ignore_ascii_case(at)) {
            return Err(BearerError::Type);
        }
        Ok(Self {
            algorithm: algorithm.clone(),
            key_id: text("kid")?.map(str::to_owned),
            claims: object(payload)?,
            signed,
            signature: decoded(signature)?,
        })
    }

    pub(super) fn is_from(&self, issuer: &str) -> bool {
        self.claims.get("iss").and_then(Value::as_str) == Some(issuer)
    }

    /// Everything but the signature.
    pub(super) fn check(
        &self,
        issuer: &IdentityProvider,
        now: Timestamp,
    ) -> Result<Facts, BearerError> {
        let accepted = issuer.access_tokens.as_ref().ok_or(BearerError::Issuer)?;
        let said = audiences(&self.claims)?;
        let ours = accepted.audiences.iter().filter(|audience| said.contains(&***audience));
        let audiences: Box<[Arc<str>]> = ours.cloned().collect();
        if audiences.is_empty() {
            return Err(BearerError::Audience);
        }
        let expires = self.time("exp")?.ok_or_else(|| missing("exp"))?;
        if now >= expires {
            return Err(BearerError::Expired);
        }
        let issued = self.time("iat")?.ok_or_else(|| missing("iat"))?;
        let not_before = self.time("nbf")?.unwrap_or(issued);
        if issued.max(not_before) > now.plus(LEEWAY) {
            return Err(BearerError::Early);
        }
        let (principal, authentication) = who(issuer, &self.claims)?;
        let bound_to = bound_to(&self.claims)?;
        Ok(Facts { principal, authentication, audiences, expires, bound_to })
    }

    fn time(&self, name: &str) -> Result<Option<Timestamp>, ClaimError> {
        match self.claims.get(name) {
            None => Ok(None),
            Some(value) => match value.as_i64() {
                Some(seconds) => Ok(Some(Timestamp::from_seconds(seconds))),
                None => Err(ClaimError::Type(name.to_owned())),
            },
        }
    }

    /// By the one key that it can be.
    pub(super) fn verify(&self, keys: &CoreJsonWebKeySet) -> Result<(), BearerError> {
        let fits = |key: &&CoreJsonWebKey| {
            Some(key.key_type()) == self.algorithm.key_type().as_ref()
                && key.key_use().is_none_or(JsonWebKeyUse::allows_signature)
                && self.key_id.as_ref().is_none_or(|id| key.key_id().is_some_and(|k| **k == *id))
        };
        let mut fitting = keys.keys().iter().filter(fits);
        let key = fitting.next().ok_or(BearerError::UnknownKey)?;
        if fitting.next().is_some() {
            return Err(BearerError::Signature);
        }
        key.verify_signature(&self.algorithm, self.signed.as_bytes(), &self.signature)
            .map_err(|_| BearerError::Signature)
    }
}

fn missing(name: &str) -> ClaimError {
    ClaimError::Missing(name.to_owned())
}

/// One text, or a list of them (RFC 7519, section 4.1.3).
fn audiences(claims: &Claims) -> Result<BTreeSet<&str>, ClaimError> {
    let wrong = || ClaimError::Type("aud".to_owned());
    match claims.get("aud") {
        None => Err(missing("aud")),
        Some(Value::String(one)) => Ok(BTreeSet::from([one.as_str()])),
        Some(Value::Array(several)) => {
            several.iter().map(|one| one.as_str().ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

/// A token is a client's own when its subject is the client (RFC 9068, section 2.2), and else a
/// user's, who is the same user as the one who signs in.
fn who(
    issuer: &IdentityProvider,
    claims: &Claims,
) -> Result<(Principal, Authentication), ClaimError> {
    let (name, sources) = (&issuer.name, [claims]);
    let required = |name: &'static str| claims::text(&sources, name)?.ok_or_else(|| missing(name));
    let (subject, client) = (required("sub")?, required("client_id")?);
    let (principal, authentication) = if subject == client {
        let principal = claims::service(name, &client, &issuer.claims, claims)?;
        (principal, Authentication::default())
    } else {
        claims::principal(name, &issuer.claims, claims, None)?
    };
    let scopes = scopes(claims)?;
    Ok((principal, Authentication { scopes, client: Some(client), ..authentication }))
}

/// RFC 8693, section 4.2.
fn scopes(claims: &Claims) -> Result<BTreeSet<Arc<str>>, ClaimError> {
    match claims.get("scope") {
        None => Ok(BTreeSet::new()),
        Some(Value::String(scopes)) => {
            let list = scopes.split(' ').filter(|scope| !scope.is_empty()).map(Value::from);
            let list = Claims::from_iter([("scope".to_owned(), Value::Array(list.collect()))]);
            claims::texts(&[&list], "scope")
        }
        Some(_) => Err(ClaimError::Type("scope".to_owned())),
    }
}

/// RFC 8705, section 3.1. A token that is bound to its holder in another way (RFC 9449) is not one
/// that whoever bears it may use.
fn bound_to(claims: &Claims) -> Result<Option<[u8; 32]>, BearerError> {
    let confirmation = match claims.get("cnf") {
        None => return Ok(None),
        Some(Value::Object(confirmation)) => confirmation,
        Some(_) => return Err(BearerError::Confirmation),
    };
    let thumbprint = match confirmation.get("x5t#S256") {
        Some(Value::String(thumbprint)) if confirmation.len() == 1 => thumbprint,
        _ => return Err(BearerError::Confirmation),
    };
    let decoded =
        BASE64_URL_SAFE_NO_PAD.decode(thumbprint).map_err(|_| BearerError::Confirmation)?;
    decoded.try_into().map(Some).map_err(|_| BearerError::Confirmation)
}
