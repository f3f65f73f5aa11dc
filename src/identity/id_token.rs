//! The checks of an ID token (OpenID Connect Core 1.0, section 3.1.3.7).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::constant_time;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use openidconnect::core::{
    CoreIdTokenVerifier, CoreJsonWebKeySet, CoreJwsSigningAlgorithm, CoreTokenResponse,
};
use openidconnect::{
    AccessTokenHash, ClaimsVerificationError, ClientId, IssuerUrl, Nonce, OAuth2TokenResponse,
    SignatureVerificationError, TokenResponse,
};
use serde_json::Value;

use super::claims::Claims;
use crate::domain::clock::Timestamp;

/// How far the provider's clock may be off.
pub(super) const LEEWAY: Duration = Duration::from_secs(60);

/// Asymmetric only: never `none`, and no `HS*`, whose key would be the client's secret.
pub(super) const ALGORITHMS: [CoreJwsSigningAlgorithm; 9] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha384,
    CoreJwsSigningAlgorithm::RsaSsaPssSha512,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    CoreJwsSigningAlgorithm::EdDsa,
];

/// What is wrong with a token. Nothing of the token is in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdTokenError {
    #[error("the token response holds no id token")]
    Missing,
    #[error("no key of the identity provider fits the id token")]
    UnknownKey,
    #[error("the id token's signature is wrong, missing, ambiguous or of a refused algorithm")]
    Signature,
    #[error("the id token was issued by another issuer")]
    Issuer,
    #[error("the id token is meant for another client")]
    Audience,
    #[error("the id token has expired, or was issued in the future")]
    Time,
    #[error("the id token's nonce is not the login's")]
    Nonce,
    #[error("the id token's at_hash is not the access token's")]
    AccessTokenHash,
    #[error("the id token can't be used")]
    Other,
}

/// What a token is held against.
#[derive(Debug)]
pub struct Expected<'a> {
    pub client_id: &'a str,
    pub issuer: &'a IssuerUrl,
    pub nonce: SaidNonce<'a>,
    pub now: Timestamp,
}

/// Which nonce the token has.
#[derive(Clone, Copy, Debug)]
pub enum SaidNonce<'a> {
    /// This one.
    Required(&'a str),
    /// None, or this one (OpenID Connect Core 1.0, section 12.2).
    Optional(Option<&'a str>),
}

impl SaidNonce<'_> {
    fn fits(self, said: Option<&Nonce>) -> bool {
        let is = |wanted: &str| {
            said.is_some_and(|said| {
                let (said, wanted) = (said.secret().as_bytes(), wanted.as_bytes());
                constant_time::verify_slices_are_equal(said, wanted).is_ok()
            })
        };
        match self {
            Self::Required(wanted) => is(wanted),
            Self::Optional(wanted) => said.is_none() || wanted.is_some_and(is),
        }
    }
}

/// A token that passed.
pub struct Verified {
    pub claims: Claims,
    pub raw: String,
}

impl std::fmt::Debug for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verified").finish_non_exhaustive()
    }
}

/// Checks the ID token of a token response.
pub fn verify(
    tokens: &CoreTokenResponse,
    keys: &CoreJsonWebKeySet,
    expected: &Expected<'_>,
) -> Result<Verified, IdTokenError> {
    let token = tokens.id_token().ok_or(IdTokenError::Missing)?;
    let now = expected.now;
    // The library has no leeway of its own: the clock it sees is set back by ours.
    let seen = system_time(now.minus(LEEWAY));
    let latest = now.plus(LEEWAY).as_millis();
    let verifier = CoreIdTokenVerifier::new_public_client(
        ClientId::new(expected.client_id.to_owned()),
        expected.issuer.clone(),
        keys.clone(),
    )
    .set_allowed_algs(ALGORITHMS)
    .set_time_fn(move || seen.into())
    .set_issue_time_verifier_fn(move |issued| {
        if issued.timestamp_millis() <= latest { Ok(()) } else { Err("in the future".into()) }
    })
    // Further audiences are looked at below, together with `azp`.
    .set_other_audience_verifier_fn(|_| true);
    let fits = |said: Option<&Nonce>| {
        if expected.nonce.fits(said) { Ok(()) } else { Err("not the login's".to_owned()) }
    };
    let checked = token.claims(&verifier, fits).map_err(|error| classified(&error))?;
    if let Some(said) = checked.access_token_hash() {
        let algorithm = token.signing_alg().map_err(|_| IdTokenError::Signature)?;
        let key = token.signing_key(&verifier).map_err(|_| IdTokenError::Signature)?;
        let actual = AccessTokenHash::from_token(tokens.access_token(), algorithm, key)
            .map_err(|_| IdTokenError::AccessTokenHash)?;
        if actual != *said {
            return Err(IdTokenError::AccessTokenHash);
        }
    }
    let raw = token.to_string();
    let claims = payload(&raw).ok_or(IdTokenError::Other)?;
    let others = checked.audiences().len() > 1;
    match claims.get("azp") {
        None | Some(Value::Null) if others => return Err(IdTokenError::Audience),
        None | Some(Value::Null) => {}
        Some(Value::String(party)) if party == expected.client_id => {}
        Some(_) => return Err(IdTokenError::Audience),
    }
    if let Some(not_before) = claims.get("nbf") {
        let seconds = not_before.as_i64().ok_or(IdTokenError::Time)?;
        if Timestamp::from_seconds(seconds) > now.plus(LEEWAY) {
            return Err(IdTokenError::Time);
        }
    }
    Ok(Verified { claims, raw })
}

/// The claims as they were signed; the signature over these very bytes was checked before.
pub fn payload(raw: &str) -> Option<Claims> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(raw.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The nonce of a token that was checked.
pub fn nonce(raw: &str) -> Option<String> {
    Some(payload(raw)?.get("nonce")?.as_str()?.to_owned())
}

fn system_time(at: Timestamp) -> SystemTime {
    let since = Duration::from_millis(u64::try_from(at.as_millis()).unwrap_or(0));
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

fn classified(error: &ClaimsVerificationError) -> IdTokenError {
    match error {
        ClaimsVerificationError::Expired(_) => IdTokenError::Time,
        ClaimsVerificationError::InvalidAudience(_) => IdTokenError::Audience,
        ClaimsVerificationError::InvalidIssuer(_) => IdTokenError::Issuer,
        ClaimsVerificationError::InvalidNonce(_) => IdTokenError::Nonce,
        ClaimsVerificationError::SignatureVerification(
            SignatureVerificationError::NoMatchingKey,
        ) => IdTokenError::UnknownKey,
        ClaimsVerificationError::SignatureVerification(_) => IdTokenError::Signature,
        _ => IdTokenError::Other,
    }
}
