//! The provider's signing key: one ES256 key, made at every start.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Value, json};

use crate::demo::DemoError;

pub struct SigningKey {
    id: String,
    sign: EncodingKey,
    verify: DecodingKey,
    x: String,
    y: String,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SigningKey {
    pub fn generate() -> Result<Self, DemoError> {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        // An uncompressed point: 4, then x and y (SEC 1, section 2.3.3).
        let point = pair.der_bytes();
        let x = URL_SAFE_NO_PAD.encode(point.get(1..33).unwrap_or_default());
        let y = URL_SAFE_NO_PAD.encode(point.get(33..65).unwrap_or_default());
        Ok(Self {
            id: x.chars().take(12).collect(),
            sign: EncodingKey::from_ec_der(pair.serialized_der()),
            verify: DecodingKey::from_ec_components(&x, &y)?,
            x,
            y,
        })
    }

    /// RFC 7517.
    pub fn jwks(&self) -> Value {
        json!({"keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig",
            "kid": self.id, "x": self.x, "y": self.y,
        }]})
    }

    pub fn sign(&self, claims: &Value) -> Result<String, DemoError> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.id.clone());
        Ok(jsonwebtoken::encode(&header, claims, &self.sign)?)
    }

    /// The claims of a token that this provider issued, however old (OpenID Connect RP-Initiated
    /// Logout 1.0, section 2: an expired hint is still a hint).
    pub fn claims_of_hint(&self, token: &str, issuer: &str) -> Option<Value> {
        let mut rules = Validation::new(Algorithm::ES256);
        rules.validate_exp = false;
        rules.validate_aud = false;
        rules.set_issuer(&[issuer]);
        rules.set_required_spec_claims(&["iss"]);
        jsonwebtoken::decode(token, &self.verify, &rules).ok().map(|token| token.claims)
    }
}
