//! What the gate proves with at a provider that it is the client: `private_key_jwt` (RFC 7523,
//! section 2.2; OpenID Connect Core 1.0, section 9).
//!
//! INVARIANT: an assertion names one audience, works for [`LIFETIME`] and has an id of its own. Its
//! audience is the issuer of the configuration unless that says otherwise: a provider that names
//! another's token endpoint as its own must not get what works there.

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use openidconnect::core::CoreJwsSigningAlgorithm;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;

use super::login::random_token;
use crate::config::secret::Secret;
use crate::domain::clock::Timestamp;

/// How long an assertion may be used for.
pub const LIFETIME: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientKeyError {
    #[error("the client key is not a private key in PEM")]
    NotPem,
    #[error(
        "the client key is of no kind that is signed with: RSA from 2048 bits, EC P-256 or P-384, or Ed25519"
    )]
    Kind,
    #[error("the client assertion could not be signed")]
    Sign,
}

enum Pair {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// A private key that the provider knows the public half of. Never printed.
pub struct ClientKey {
    pair: Pair,
    id: Option<String>,
}

impl std::fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl ClientKey {
    /// Reads PKCS #8, PKCS #1 or SEC 1 in PEM. `id` is what the provider calls the key (`kid`).
    pub fn parse(pem: &Secret, id: Option<&str>) -> Result<Self, ClientKeyError> {
        let der = PrivateKeyDer::from_pem_slice(pem.expose().as_bytes())
            .map_err(|_| ClientKeyError::NotPem)?;
        let der = der.secret_der();
        let ec = |curve| EcdsaKeyPair::from_private_key_der(curve, der);
        let pair = if let Ok(pair) = ec(&ECDSA_P256_SHA256_FIXED_SIGNING) {
            Pair::P256(pair)
        } else if let Ok(pair) = ec(&ECDSA_P384_SHA384_FIXED_SIGNING) {
            Pair::P384(pair)
        } else if let Ok(pair) = RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der))
        {
            Pair::Rsa(pair)
        } else if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            Pair::Ed25519(pair)
        } else {
            return Err(ClientKeyError::Kind);
        };
        Ok(Self { pair, id: id.map(str::to_owned) })
    }

    /// Of the algorithms that fit the key the first that the provider takes; the usual one when it
    /// doesn't say.
    fn algorithm(&self, taken: Option<&[CoreJwsSigningAlgorithm]>) -> &'static str {
        match &self.pair {
            Pair::P256(_) => "ES256",
            Pair::P384(_) => "ES384",
            Pair::Ed25519(_) => "EdDSA",
            Pair::Rsa(_) => {
                let takes = |one| taken.is_some_and(|taken| taken.contains(&one));
                let pss = !takes(CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256)
                    && takes(CoreJwsSigningAlgorithm::RsaSsaPssSha256);
                if pss { "PS256" } else { "RS256" }
            }
        }
    }

    /// Says that the gate is `client_id`, to `audience` only.
    pub fn assertion(
        &self,
        client_id: &str,
        audience: &str,
        taken: Option<&[CoreJwsSigningAlgorithm]>,
        now: Timestamp,
    ) -> Result<String, ClientKeyError> {
        let algorithm = self.algorithm(taken);
        let mut header = json!({ "alg": algorithm, "typ": "JWT" });
        if let (Some(id), Some(header)) = (&self.id, header.as_object_mut()) {
            header.insert("kid".to_owned(), id.as_str().into());
        }
        let claims = json!({
            "iss": client_id,
            "sub": client_id,
            "aud": audience,
            "jti": random_token().map_err(|_| ClientKeyError::Sign)?,
            "iat": now.as_seconds(),
            "exp": now.plus(LIFETIME).as_seconds(),
        });
        let part = |value: &serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let mut token = format!("{}.{}", part(&header), part(&claims));
        let signature = self.sign(token.as_bytes(), algorithm)?;
        token.push('.');
        token.push_str(&BASE64_URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }

    fn sign(&self, bytes: &[u8], algorithm: &str) -> Result<Vec<u8>, ClientKeyError> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::P256(pair) | Pair::P384(pair) => {
                let signature = pair.sign(&random, bytes).map_err(|_| ClientKeyError::Sign)?;
                Ok(signature.as_ref().to_vec())
            }
            Pair::Ed25519(pair) => Ok(pair.sign(bytes).as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let padding: &dyn aws_lc_rs::signature::RsaEncoding =
                    if algorithm == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                pair.sign(padding, &random, bytes, &mut signature)
                    .map_err(|_| ClientKeyError::Sign)?;
                Ok(signature)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation};
    use serde_json::Value;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn pem(label: &str, der: &[u8]) -> Secret {
        use base64::prelude::BASE64_STANDARD;
        let text = BASE64_STANDARD.encode(der);
        Secret::new(format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n"))
    }

    /// Whoever has the public half only.
    fn read(token: &str, algorithm: Algorithm, key: &DecodingKey, audience: &str) -> Option<Value> {
        let mut validation = Validation::new(algorithm);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "iss", "sub", "aud", "jti"]);
        validation.validate_exp = false;
        jsonwebtoken::decode(token, key, &validation).ok().map(|token| token.claims)
    }

    #[test]
    fn an_assertion_is_signed_by_each_kind_of_key_and_says_who_and_to_whom() {
        use aws_lc_rs::encoding::AsDer;
        use aws_lc_rs::rsa::KeySize;
        use aws_lc_rs::signature::KeyPair;
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let rsa_der = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&rsa).unwrap();
        let rsa_public = DecodingKey::from_rsa_der(rsa.public_key().as_ref());
        let ec = |curve| EcdsaKeyPair::generate(curve).unwrap();
        let p256 = ec(&ECDSA_P256_SHA256_FIXED_SIGNING);
        let p384 = ec(&ECDSA_P384_SHA384_FIXED_SIGNING);
        let ed = Ed25519KeyPair::generate().unwrap();
        let public = |pair: &EcdsaKeyPair| DecodingKey::from_ec_der(pair.public_key().as_ref());
        let pss = [CoreJwsSigningAlgorithm::RsaSsaPssSha256];
        for (der, taken, algorithm, key) in [
            (p256.to_pkcs8v1().unwrap().as_ref(), None, Algorithm::ES256, public(&p256)),
            (p384.to_pkcs8v1().unwrap().as_ref(), None, Algorithm::ES384, public(&p384)),
            (rsa_der.as_ref(), None, Algorithm::RS256, rsa_public.clone()),
            (rsa_der.as_ref(), Some(&pss[..]), Algorithm::PS256, rsa_public),
            (
                ed.to_pkcs8v1().unwrap().as_ref(),
                None,
                Algorithm::EdDSA,
                DecodingKey::from_ed_der(ed.public_key().as_ref()),
            ),
        ] {
            let own = ClientKey::parse(&pem("PRIVATE KEY", der), Some("k1")).unwrap();
            let token = own.assertion("gate", "https://id.example", taken, NOW).unwrap();
            let header = jsonwebtoken::decode_header(&token).unwrap();
            assert_eq!((header.alg, header.kid.as_deref()), (algorithm, Some("k1")));
            let claims = read(&token, algorithm, &key, "https://id.example").unwrap();
            assert_eq!((&claims["iss"], &claims["sub"]), (&json!("gate"), &json!("gate")));
            assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 60);
            assert!(read(&token, algorithm, &key, "https://other.example").is_none());
            let again = own.assertion("gate", "https://id.example", taken, NOW).unwrap();
            let again = read(&again, algorithm, &key, "https://id.example").unwrap();
            assert_ne!(again["jti"], claims["jti"], "no two are the same");
            assert!(!format!("{own:?}").contains("BEGIN"));
        }
    }

    #[test]
    fn what_is_no_key_to_sign_with_is_refused() {
        for (text, error) in [
            (Secret::new("hunter2"), ClientKeyError::NotPem),
            (pem("CERTIFICATE", b"x"), ClientKeyError::NotPem),
            (pem("PRIVATE KEY", b"x"), ClientKeyError::Kind),
        ] {
            assert_eq!(ClientKey::parse(&text, None).unwrap_err(), error);
        }
    }
}
