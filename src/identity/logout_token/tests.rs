//! Logout tokens, good and bad in one way each.

use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::json;

use super::*;

const NOW: i64 = 1_800_000_000;

const EXPECTED: Expected<'static> = Expected {
    issuer: "https://idp.example",
    client_id: "gate",
    now: Timestamp::from_seconds(NOW),
};

struct Signer {
    key: EncodingKey,
    jwk: Value,
}

impl Signer {
    fn new(kid: Option<&str>) -> Self {
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let key = EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref());
        let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        kid.iter().for_each(|kid| jwk["kid"] = (*kid).into());
        Self { key, jwk }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let encoded = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encoded(header), encoded(claims));
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, Algorithm::ES256).unwrap();
        format!("{message}.{signature}")
    }
}

fn keys(of: &[&Signer]) -> CoreJsonWebKeySet {
    let keys: Vec<&Value> = of.iter().map(|signer| &signer.jwk).collect();
    serde_json::from_value(json!({ "keys": keys })).unwrap()
}

fn header() -> Value {
    json!({"alg": "ES256", "kid": "k1", "typ": "logout+jwt"})
}

fn claims() -> Value {
    json!({
        "iss": "https://idp.example", "aud": "gate", "sub": "ada", "sid": "s1", "jti": "j1",
        "iat": NOW, "exp": NOW + 120, "events": {EVENT: {}},
    })
}

/// The outcome of all checks.
fn judged(
    header: &Value,
    claims: &Value,
    signer: &Signer,
    keys: &CoreJsonWebKeySet,
) -> Result<Signed, LogoutTokenError> {
    let text = signer.sign(header, claims);
    let token = LogoutToken::read(&text)?;
    let signed = token.check(&EXPECTED)?;
    token.verify(keys)?;
    Ok(signed)
}

fn with(mut object: Value, name: &str, value: &Value) -> Value {
    object[name] = value.clone();
    object
}

fn without(mut object: Value, name: &str) -> Value {
    object.as_object_mut().unwrap().remove(name);
    object
}

#[test]
fn a_good_token_says_whose_sessions_end() {
    let signer = Signer::new(Some("k1"));
    let keys = keys(&[&signer, &Signer::new(Some("k2"))]);
    let signed = judged(&header(), &claims(), &signer, &keys).unwrap();
    assert_eq!((signed.sid.as_deref(), signed.subject.as_deref()), (Some("s1"), Some("ada")));
    for good in [
        without(claims(), "sid"),
        without(claims(), "sub"),
        with(claims(), "aud", &json!(["gate"])),
        with(with(claims(), "aud", &json!(["gate", "other"])), "azp", &json!("gate")),
        with(claims(), "iat", &json!(NOW + 60)),
        with(claims(), "exp", &json!(NOW - 59)),
        with(with(claims(), "iat", &json!(NOW - 359)), "exp", &json!(NOW + 9_000_000)),
    ] {
        judged(&header(), &good, &signer, &keys).unwrap();
    }
    for kind in [json!("JWT"), json!("application/LOGOUT+jwt")] {
        judged(&with(header(), "typ", &kind), &claims(), &signer, &keys).unwrap();
    }
    judged(&without(header(), "typ"), &claims(), &signer, &keys).unwrap();
}

#[test]
fn a_token_that_is_wrong_in_one_way_is_refused_for_it() {
    use LogoutTokenError::{Audience, Events, Id, Issuer, Nobody, Nonce, Time};
    let signer = Signer::new(Some("k1"));
    let keys = keys(&[&signer]);
    let other_event = json!({"http://schemas.openid.net/event/other": {}});
    for (name, value, error) in [
        ("iss", json!("https://evil.example"), Issuer),
        ("iss", json!("https://idp.example/"), Issuer),
        ("iss", json!(null), Issuer),
        ("aud", json!("other"), Audience),
        ("aud", json!([]), Audience),
        ("aud", json!(["gate", "other"]), Audience),
        ("aud", json!({"gate": 1}), Audience),
        ("azp", json!("other"), Audience),
        ("azp", json!(null), Audience),
        ("iat", json!(NOW + 61), Time),
        ("iat", json!(NOW - 360), Time),
        ("iat", json!("1800000000"), Time),
        ("iat", json!(i64::MAX), Time),
        ("iat", json!(i64::MIN), Time),
        ("exp", json!(NOW - 60), Time),
        ("exp", json!(null), Time),
        ("events", json!({}), Events),
        ("events", json!([EVENT]), Events),
        ("events", json!(EVENT), Events),
        ("events", other_event, Events),
        ("events", json!({EVENT: {}, "http://schemas.openid.net/event/other": {}}), Events),
        ("events", json!({EVENT: "x"}), Events),
        ("events", json!({EVENT: null}), Events),
        ("nonce", json!("n"), Nonce),
        ("nonce", json!(null), Nonce),
        ("jti", json!(""), Id),
        ("jti", json!(7), Id),
        ("sid", json!(""), Nobody),
        ("sid", json!(7), Nobody),
        ("sub", json!(["ada"]), Nobody),
    ] {
        let bad = with(claims(), name, &value);
        assert_eq!(judged(&header(), &bad, &signer, &keys), Err(error), "{name}: {value}");
    }
    for (name, error) in [
        ("iss", Issuer),
        ("aud", Audience),
        ("iat", Time),
        ("exp", Time),
        ("events", Events),
        ("jti", Id),
    ] {
        let bad = without(claims(), name);
        assert_eq!(judged(&header(), &bad, &signer, &keys), Err(error), "without {name}");
    }
    let nobody = without(without(claims(), "sub"), "sid");
    assert_eq!(judged(&header(), &nobody, &signer, &keys), Err(Nobody));
}

#[test]
fn an_unsigned_a_symmetric_and_a_strange_algorithm_are_refused_unread() {
    let signer = Signer::new(Some("k1"));
    for algorithm in
        [json!("none"), json!("NONE"), json!("HS256"), json!("HS512"), json!("ES256K"), json!(7)]
    {
        let text = signer.sign(&with(header(), "alg", &algorithm), &claims());
        let refused = LogoutToken::read(&text).unwrap_err();
        assert_eq!(refused, LogoutTokenError::Algorithm, "{algorithm}");
    }
    let text = signer.sign(&header(), &claims());
    let unsigned = format!("{}.", text.rsplit_once('.').unwrap().0);
    assert_eq!(LogoutToken::read(&unsigned).unwrap_err(), LogoutTokenError::Algorithm);
}

#[test]
fn another_kind_of_token_and_what_is_critical_and_unknown_are_refused() {
    let signer = Signer::new(Some("k1"));
    for (name, value) in [
        ("typ", json!("at+jwt")),
        ("typ", json!("secevent+jwt")),
        ("typ", json!(null)),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
    ] {
        let text = signer.sign(&with(header(), name, &value), &claims());
        let refused = LogoutToken::read(&text).unwrap_err();
        assert_eq!(refused, LogoutTokenError::Type, "{name}: {value}");
    }
}

#[test]
fn what_is_no_compact_jws_is_refused() {
    let good = Signer::new(None).sign(&header(), &claims());
    let deep = BASE64_URL_SAFE_NO_PAD.encode(format!("{{\"a\":{}1", "[".repeat(5000)));
    for text in [
        "",
        ".",
        "..",
        "a.b.c",
        "e30.e30",
        &format!("{good}."),
        &format!("{good}.e30.e30"),
        &format!("{good}="),
        &format!(" {good}"),
        &good.replacen('.', "..", 1),
        &format!("e30.{deep}.AA"),
        &format!("{deep}.e30.AA"),
        &format!("{}.{}.AA", BASE64_URL_SAFE_NO_PAD.encode("[]"), "e30"),
    ] {
        assert_eq!(LogoutToken::read(text).unwrap_err(), LogoutTokenError::Shape, "{text}");
    }
}

#[test]
fn a_key_counts_when_it_is_the_only_one_that_fits() {
    use LogoutTokenError::{Signature, UnknownKey};
    let (signer, other) = (Signer::new(Some("k1")), Signer::new(Some("k2")));
    let nameless = without(header(), "kid");
    let judge =
        |header: &Value, of: &[&Signer]| judged(header, &claims(), &signer, &keys(of)).map(drop);
    assert_eq!(judge(&nameless, &[&signer]), Ok(()));
    assert_eq!(judge(&nameless, &[&signer, &other]), Err(Signature));
    assert_eq!(judge(&header(), &[&other]), Err(UnknownKey));
    assert_eq!(judge(&header(), &[]), Err(UnknownKey));
    assert_eq!(judge(&with(header(), "kid", &json!("k2")), &[&signer, &other]), Err(Signature));
    assert_eq!(judge(&header(), &[&signer, &Signer::new(Some("k1"))]), Err(Signature));
    assert_eq!(judge(&header(), &[&Signer::new(Some("k1"))]), Err(Signature), "forged");
    for (name, value) in [("use", "enc"), ("alg", "ES384")] {
        let mut unfit = Signer::new(Some("k1"));
        unfit.jwk = signer.jwk.clone();
        unfit.jwk[name] = value.into();
        assert_eq!(judge(&header(), &[&unfit]), Err(UnknownKey), "{name}");
    }
}

#[test]
fn a_token_brings_no_key_of_its_own() {
    let (signer, forger) = (Signer::new(Some("k1")), Signer::new(Some("k1")));
    let brought = with(header(), "jwk", &forger.jwk);
    let judged = judged(&brought, &claims(), &forger, &keys(&[&signer]));
    assert_eq!(judged, Err(LogoutTokenError::Signature));
}

#[test]
fn a_changed_token_is_forged() {
    let signer = Signer::new(Some("k1"));
    let text = signer.sign(&header(), &claims());
    let mut parts: Vec<&str> = text.split('.').collect();
    let changed = BASE64_URL_SAFE_NO_PAD.encode(with(claims(), "sid", &json!("s2")).to_string());
    parts[1] = &changed;
    let changed = parts.join(".");
    let token = LogoutToken::read(&changed).unwrap();
    token.check(&EXPECTED).unwrap();
    assert_eq!(token.verify(&keys(&[&signer])), Err(LogoutTokenError::Signature));
}
