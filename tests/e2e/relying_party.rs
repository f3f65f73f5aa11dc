//! A provider that misbehaves, after the names of the OpenID Foundation's tests of relying parties,
//! and the identity flaws that gateways had. Nobody is signed in, the record says why and holds no
//! token, and the next login succeeds in the same process.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::harness::caller::call_with;
use crate::harness::client::Answer;
use crate::harness::gate::HOST;
use crate::harness::rogue::{
    ACCESS_TOKEN, Bend, CODE, Key, Rogue, client_secret, encoded, now, parameter,
};
use crate::harness::{Browser, Gate, Recorder, eventually};

type Case = (&'static str, fn(&mut Bend), u16, &'static str);
type Allowed = (&'static str, fn(&mut Bend));
type BentCallback = (&'static str, fn(&str) -> String, u16, &'static str);

struct World {
    gate: Gate,
    rogue: Rogue,
    upstream: Recorder,
    process: u32,
    reloads: usize,
}

impl World {
    async fn start() -> Self {
        let rogue = Rogue::start().await;
        let upstream = Recorder::start().await;
        let gate = rogue.provides(Gate::with_upstream(&upstream)).start().await;
        let process = gate.process.id();
        Self { gate, rogue, upstream, process, reloads: 0 }
    }

    /// Has the gate forget what it knows of the provider.
    async fn forget_the_provider(&mut self) {
        self.reloads += 1;
        let (reloads, name) = (self.reloads, format!("Provider {}", self.reloads));
        self.gate.rewrite(|config| {
            config["identity_providers"][0]["display_name"] = name.into();
        });
        let loaded = |record: &Value| {
            record["event"] == "configuration-loaded" && record["generation"] == reloads + 1
        };
        self.gate.audited("the reload", loaded).await;
    }

    /// Nobody is signed in by this, and it is on record why.
    async fn refused(&self, name: &str, browser: &Browser, answer: &Answer, case: (u16, &str)) {
        let (status, reason) = case;
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        assert_eq!(browser.session_cookie(), None, "{name}");
        let decision = answer.header("x-wicketgate-decision").expect(name).to_owned();
        let record = self.gate.audited(name, |record| record["id"] == decision.as_str()).await;
        assert_eq!(record["event"], "login-failed", "{name}");
        let said = record["reason"].as_str().unwrap();
        assert!(said.contains(reason), "{name}: `{said}` instead of `{reason}`");
        assert_clean(name, &format!("{record}{}", answer.text()));
    }

    async fn good_login(&self, after: &str) -> Browser {
        let mut browser = self.gate.browser();
        let answer = self.rogue.login(&mut browser).await;
        assert_eq!(answer.status, 303, "a good login after {after}: {answer:?}");
        assert!(browser.session_cookie().is_some(), "{after}");
        browser
    }

    async fn try_all(&self, cases: &[Case]) {
        for (name, bend, status, reason) in cases {
            self.rogue.bend(bend);
            let mut browser = self.gate.browser();
            let answer = self.rogue.login(&mut browser).await;
            self.refused(name, &browser, &answer, (*status, reason)).await;
            self.rogue.behave();
            self.good_login(name).await;
        }
    }

    /// The process is the same, and has told nobody a secret.
    fn end(mut self) {
        assert_eq!(self.gate.process.id(), self.process);
        assert!(self.gate.process.exited().is_none());
        let log = self.gate.audit().iter().map(Value::to_string).collect::<String>();
        assert_clean("the audit log", &log);
        assert_clean("the gate's log", &self.gate.process.output().join("\n"));
        self.gate.assert_audit_verifies();
    }
}

#[track_caller]
fn assert_clean(name: &str, text: &str) {
    for secret in [ACCESS_TOKEN, CODE, "eyJ", crate::harness::provider::SECRET] {
        assert!(!text.contains(secret), "{name} shows `{secret}`: {text}");
    }
}

/// Status 400: what came back can't be trusted.
const ID_TOKENS: &[Case] = &[
    ("invalid-iss", |b| b.claim("iss", json!("https://evil.example")), 400, "another issuer"),
    ("missing-iss", |b| b.without_claims(&["iss"]), 400, ""),
    ("invalid-aud", |b| b.claim("aud", json!("other")), 400, "another client"),
    ("missing-aud", |b| b.without_claims(&["aud"]), 400, ""),
    (
        "several audiences without azp",
        |b| b.claim("aud", json!(["wicketgate", "x"])),
        400,
        "client",
    ),
    ("invalid-azp", |b| b.claim("azp", json!("other")), 400, "another client"),
    ("missing-sub", |b| b.without_claims(&["sub"]), 400, ""),
    ("empty sub", |b| b.claim("sub", json!("")), 400, "`sub`"),
    ("missing-iat", |b| b.without_claims(&["iat"]), 400, ""),
    ("iat in the future", |b| b.claim("iat", json!(now() + 600)), 400, "future"),
    ("missing-exp", |b| b.without_claims(&["exp"]), 400, ""),
    ("expired", |b| b.claim("exp", json!(now() - 600)), 400, "expired"),
    ("nbf in the future", |b| b.claim("nbf", json!(now() + 600)), 400, "future"),
    ("nonce-invalid", |b| b.claim("nonce", json!("other")), 400, "nonce"),
    ("nonce-unless-code-flow", |b| b.without_claims(&["nonce"]), 400, "nonce"),
    ("at_hash-invalid", |b| b.claim("at_hash", json!("AAAAAAAAAAAAAAAAAAAAAA")), 400, "at_hash"),
    ("invalid-sig-rs256", |b| b.forge = Some(Box::new(changed)), 400, "signature"),
    ("idtoken-sig-none", |b| b.forge = Some(Box::new(unsigned)), 400, "signature"),
    ("no signature", |b| b.forge = Some(Box::new(cut_off)), 400, "signature"),
    (
        "invalid-sig-hs256",
        |b| {
            b.forge = Some(Box::new(|_, _, claims| {
                let key = Key::hs256(b"not the secret of the client");
                key.sign(&key.header(), claims)
            }));
        },
        400,
        "signature",
    ),
    (
        "hs256 with the client's secret",
        |b| {
            b.forge = Some(Box::new(|_, _, claims| {
                let key = client_secret();
                key.sign(&key.header(), claims)
            }));
        },
        400,
        "signature",
    ),
    (
        "hs256 with the public key",
        |b| {
            b.forge = Some(Box::new(|key, _, claims| {
                let forged = Key::hs256(key.jwk()["n"].as_str().unwrap().as_bytes());
                forged.sign(&json!({"alg": "HS256", "kid": key.kid}), claims)
            }));
        },
        400,
        "signature",
    ),
    (
        "another key under the same kid",
        |b| {
            b.forge = Some(Box::new(|key, _, claims| {
                let forged = Key::es256(key.kid.as_deref().unwrap());
                forged.sign(&forged.header(), claims)
            }));
        },
        400,
        "",
    ),
    (
        "a key in the header",
        |b| {
            b.forge = Some(Box::new(|_, _, claims| {
                let forged = Key::es256("own");
                let header = json!({"alg": "ES256", "jwk": forged.jwk()});
                forged.sign(&header, claims)
            }));
        },
        400,
        "",
    ),
    ("no id token", |b| b.tokens.push(Box::new(without_id_token)), 400, "no id token"),
    ("an id token that is none", |b| b.forge = Some(Box::new(|_, _, _| "a.b.c".into())), 400, ""),
    ("groups of a wrong type", |b| b.claim("groups", json!(7)), 400, "`groups`"),
    ("a group with a line feed", |b| b.claim("groups", json!(["a\nb"])), 400, "`groups`"),
    ("too many groups", |b| b.claim("groups", json!(vec!["g"; 300])), 400, "`groups`"),
    ("email_verified as a text", |b| b.claim("email_verified", json!("true")), 400, ""),
    ("a list of addresses", |b| b.claim("email", json!(["vera@plant.example"])), 400, ""),
    ("auth_time of a wrong type", |b| b.claim("auth_time", json!("now")), 400, ""),
];

fn changed(key: &Key, header: &Value, claims: &Value) -> String {
    let token = key.sign(header, claims);
    let (message, signature) = token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    format!("{message}.{first}{}", &signature[1..])
}

fn unsigned(_: &Key, _: &Value, claims: &Value) -> String {
    format!("{}.{}.", encoded(&json!({"alg": "none"})), encoded(claims))
}

fn cut_off(_: &Key, header: &Value, claims: &Value) -> String {
    format!("{}.{}.", encoded(header), encoded(claims))
}

fn without_id_token(tokens: &mut Value) {
    tokens.as_object_mut().unwrap().remove("id_token");
}

fn deep() -> String {
    format!("{{\"a\":{}", "[".repeat(100_000))
}

fn huge() -> String {
    format!("{{\"a\":\"{}\"}}", "a".repeat(300_000))
}

/// What the token endpoint says: 400 when it is wrong, 503 when it is not there.
const TOKEN_ENDPOINT: &[Case] = &[
    (
        "a refused code",
        |b| b.answer("/token", 400, r#"{"error":"invalid_grant"}"#),
        400,
        "invalid_grant",
    ),
    ("an error with markup", |b| b.answer("/token", 400, r#"{"error":"<b>\r\nx"}"#), 400, "bx"),
    ("a page", |b| b.answer("/token", 200, "<!doctype html>"), 400, "can't be read"),
    ("nothing", |b| b.answer("/token", 200, ""), 400, ""),
    ("deep JSON", |b| b.answer("/token", 200, deep()), 400, "nested deeper"),
    ("huge JSON", |b| b.answer("/token", 200, huge()), 400, "larger than"),
    (
        "a redirect",
        |b| {
            let to = "location: http://127.0.0.1:1/stolen\r\n".to_owned();
            b.answers.insert("/token", (307, to, Vec::new()));
        },
        400,
        "",
    ),
    ("down", |b| b.answer("/token", 500, "{}"), 503, "status 500"),
    ("busy", |b| b.answer("/token", 429, "{}"), 503, "status 429"),
    ("slow", |b| b.hangs = Some("/token"), 503, "in time"),
];

fn asks_userinfo(bend: &mut Bend) {
    bend.without_claims(&["tenant"]);
}

const USERINFO: &[Case] = &[
    (
        "userinfo-bad-sub-claim",
        |b| {
            asks_userinfo(b);
            b.answer("/userinfo", 200, r#"{"sub":"otto","tenant":"globex"}"#);
        },
        400,
        "another subject",
    ),
    (
        "userinfo-invalid-sub",
        |b| {
            asks_userinfo(b);
            b.answer("/userinfo", 200, r#"{"sub":"VERA","tenant":"globex"}"#);
        },
        400,
        "another subject",
    ),
    (
        "userinfo-missing-sub",
        |b| {
            asks_userinfo(b);
            b.answer("/userinfo", 200, r#"{"tenant":"globex"}"#);
        },
        400,
        "another subject",
    ),
    (
        "userinfo says no",
        |b| {
            asks_userinfo(b);
            b.answer("/userinfo", 401, r#"{"error":"invalid_token"}"#);
        },
        400,
        "status 401",
    ),
    (
        "userinfo is no object",
        |b| {
            asks_userinfo(b);
            b.answer("/userinfo", 200, "[]");
        },
        400,
        "not a JSON object",
    ),
    (
        "userinfo is deep",
        |b| {
            asks_userinfo(b);
            b.answer("/userinfo", 200, deep());
        },
        400,
        "nested deeper",
    ),
    (
        "userinfo is huge",
        |b| {
            asks_userinfo(b);
            b.answer("/userinfo", 200, huge());
        },
        400,
        "larger than",
    ),
    (
        "userinfo is slow",
        |b| {
            asks_userinfo(b);
            b.hangs = Some("/userinfo");
        },
        503,
        "in time",
    ),
    (
        "userinfo leads elsewhere",
        |b| {
            asks_userinfo(b);
            let to = "location: http://127.0.0.1:1/stolen\r\n".to_owned();
            b.answers.insert("/userinfo", (302, to, Vec::new()));
        },
        400,
        "status 302",
    ),
];

#[tokio::test]
async fn every_id_token_that_is_wrong_signs_nobody_in() {
    let world = World::start().await;
    world.good_login("id-token-sig-rs256").await;
    world.try_all(ID_TOKENS).await;
    world.end();
}

#[tokio::test]
async fn what_a_provider_may_do_is_taken() {
    let world = World::start().await;
    let allowed: &[Allowed] = &[
        ("at_hash-missing", |b| b.without_claims(&["at_hash"])),
        ("kid-absent-single-jwks", |b| {
            b.header.push(Box::new(|header| drop(header.as_object_mut().unwrap().remove("kid"))));
        }),
        ("an audience of one in a list", |b| b.claim("aud", json!(["wicketgate"]))),
        ("several audiences with azp", |b| {
            b.claim("aud", json!(["wicketgate", "other"]));
            b.claim("azp", json!("wicketgate"));
        }),
        ("a clock half a minute ahead", |b| b.claim("iat", json!(now() + 30))),
        ("claims that nobody knows", |b| b.claim("more", json!({"a": [1, 2]}))),
    ];
    for (name, bend) in allowed {
        world.rogue.bend(bend);
        world.good_login(name).await;
        world.rogue.behave();
    }
    world.end();
}

#[tokio::test]
async fn every_token_response_and_userinfo_that_is_wrong_signs_nobody_in() {
    let world = World::start().await;
    world.try_all(TOKEN_ENDPOINT).await;
    world.try_all(USERINFO).await;
    world.end();
}

/// `userinfo-bearer-header`, `scope-userinfo-claims`, `client-secret-basic`, and PKCE (RFC 7636).
#[tokio::test]
async fn the_gate_asks_as_it_should() {
    let world = World::start().await;
    world.rogue.bend(|bend| {
        asks_userinfo(bend);
        bend.userinfo.push(Box::new(|claims| claims["tenant"] = "globex".into()));
    });
    let mut browser = world.gate.browser();
    let began = world.rogue.begin(&mut browser).await.unwrap();
    let scopes = parameter(&began, "scope");
    for scope in ["openid", "profile", "email"] {
        assert!(scopes.split(' ').any(|asked| asked == scope), "{scopes}");
    }
    browser.get(&world.rogue.callback(&began)).await.expect(303);
    browser.get("/").await.expect(200);
    assert_eq!(world.upstream.last().value("x-wicketgate-tenant"), Some("globex"));

    let (head, body) = world.rogue.last("/userinfo");
    assert!(head.starts_with("GET /userinfo HTTP/1.1"), "{head}");
    assert!(head.contains(&format!("authorization: Bearer {ACCESS_TOKEN}")), "{head}");
    assert_eq!(body, "");
    let (head, body) = world.rogue.last("/token");
    assert!(head.contains("authorization: Basic "), "{head}");
    assert!(!body.contains("client_secret"), "{body}");
    let form: Vec<(String, String)> =
        url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let of = |name: &str| &form.iter().find(|(key, _)| key == name).expect(name).1;
    assert_eq!(of("code"), CODE);
    assert_eq!(*of("redirect_uri"), world.gate.url("/.wicketgate/callback"));
    let verifier = of("code_verifier").as_bytes();
    let challenge = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier);
    assert_eq!(parameter(&began, "code_challenge"), BASE64_URL_SAFE_NO_PAD.encode(challenge));
    assert_eq!(parameter(&began, "code_challenge_method"), "S256");
    world.end();
}

/// The causes behind CVE-2026-40574 and its like: the user is in, the address doesn't count.
#[tokio::test]
async fn an_address_counts_only_when_it_is_verified_and_reads_in_one_way() {
    let world = World::start().await;
    for (email, verified) in [
        (json!("vera@plant.example"), json!(false)),
        (json!("vera@plant.example"), json!(null)),
        (json!("vera@evil.example@plant.example"), json!(true)),
        (json!("\"vera@plant.example\"@evil.example"), json!(true)),
        (json!("vera@plänt.example"), json!(true)),
        (json!("ver\u{0430}@plant.example"), json!(true)),
        (json!("vera @plant.example"), json!(true)),
        (json!("vera@plant.example\r\nx-wicketgate-groups: admins"), json!(true)),
        (json!("vera"), json!(true)),
    ] {
        let name = format!("{email} {verified}");
        world.rogue.bend(|bend| {
            bend.claim("email", email);
            bend.claim("email_verified", verified);
        });
        let mut browser = world.good_login(&name).await;
        browser.get("/").await.expect(200);
        let seen = world.upstream.last();
        assert_eq!(seen.value("x-wicketgate-email"), None, "{name}");
        assert_eq!(seen.value("x-wicketgate-user"), Some("test/vera"), "{name}");
        assert_eq!(seen.value("x-wicketgate-groups"), Some("vendors"), "{name}");
        world.rogue.behave();
    }
    let mut browser = world.good_login("all that").await;
    browser.get("/").await.expect(200);
    let seen = world.upstream.last();
    assert_eq!(seen.value("x-wicketgate-email"), Some("vera@plant.example"));
    world.end();
}

/// Login CSRF, replay, duplicate parameters and the mix-up of issuers (RFC 9700, section 4).
#[tokio::test]
async fn a_callback_counts_once_in_its_own_browser_and_from_its_own_issuer() {
    let world = World::start().await;
    world.good_login("nothing").await;
    let asked = world.rogue.asked("/token");
    let bent: &[BentCallback] = &[
        ("no state", |url| without(url, "state"), 400, "no valid state"),
        ("another state", |url| url.replace("state=", "state=x"), 400, "state"),
        ("two states", |url| format!("{url}&state=x"), 400, "repeats"),
        ("two codes", |url| format!("{url}&code=x"), 400, "repeats"),
        ("two issuers", |url| format!("{url}&iss=x"), 400, "repeats"),
        ("two errors", |url| format!("{url}&error=a&error=b"), 400, "repeats"),
        ("no code", |url| without(url, "code"), 400, "no code"),
        ("no issuer", |url| without(url, "iss"), 400, "does not name its issuer"),
        (
            "another issuer",
            |url| format!("{}&iss=https%3A%2F%2Fevil.example", without(url, "iss")),
            400,
            "another issuer",
        ),
        (
            "the provider says no",
            |url| format!("{}&error=access_denied", without(url, "code")),
            403,
            "access_denied",
        ),
    ];
    for (name, bend, status, reason) in bent {
        let mut browser = world.gate.browser();
        let began = world.rogue.begin(&mut browser).await.unwrap();
        let callback = bend(&world.rogue.callback(&began));
        let answer = browser.get(&callback).await;
        world.refused(name, &browser, &answer, (*status, reason)).await;
    }
    let mut attacker = world.gate.browser();
    let began = world.rogue.begin(&mut attacker).await.unwrap();
    let callback = world.rogue.callback(&began);
    let mut victim = world.gate.browser();
    let answer = victim.get(&callback).await;
    world.refused("login CSRF", &victim, &answer, (400, "no login under way")).await;
    // With a login of its own under way, too.
    world.rogue.begin(&mut victim).await.unwrap();
    let answer = victim.get(&callback).await;
    world.refused("login CSRF", &victim, &answer, (400, "no login under way")).await;
    assert_eq!(world.rogue.asked("/token"), asked, "no code was redeemed");

    let mut browser = world.gate.browser();
    let began = world.rogue.begin(&mut browser).await.unwrap();
    let callback = world.rogue.callback(&began);
    let mut copy = browser.clone();
    browser.get(&callback).await.expect(303);
    let answer = copy.get(&callback).await;
    world.refused("a replay", &copy, &answer, (400, "used before")).await;
    assert_eq!(world.rogue.asked("/token"), asked + 1);
    world.good_login("all that").await;
    world.end();
}

fn without(url: &str, name: &str) -> String {
    let (path, query) = url.split_once('?').unwrap();
    let kept: Vec<&str> =
        query.split('&').filter(|pair| !pair.starts_with(&format!("{name}="))).collect();
    format!("{path}?{}", kept.join("&"))
}

#[tokio::test]
async fn a_provider_that_is_not_itself_or_not_there_is_unavailable_until_it_is() {
    let mut world = World::start().await;
    let documents: &[Case] = &[
        (
            "discovery-issuer-mismatch",
            |b| b.metadata.push(Box::new(|m| m["issuer"] = "https://evil.example".into())),
            503,
            "another issuer",
        ),
        (
            "an endpoint without TLS",
            |b| {
                let evil = "http://evil.example/token";
                b.metadata.push(Box::new(move |m| m["token_endpoint"] = evil.into()));
            },
            503,
            "not https",
        ),
        (
            "no token endpoint",
            |b| {
                b.metadata.push(Box::new(|m| {
                    drop(m.as_object_mut().unwrap().remove("token_endpoint"));
                }));
            },
            503,
            "no token endpoint",
        ),
        ("a page", |b| b.answer(CONFIGURATION, 200, "<!doctype html>"), 503, "can't be read"),
        ("deep JSON", |b| b.answer(CONFIGURATION, 200, deep()), 503, "nested deeper"),
        ("huge JSON", |b| b.answer(CONFIGURATION, 200, huge()), 503, ""),
        ("down", |b| b.answer(CONFIGURATION, 500, "{}"), 503, "status 500"),
        ("slow", |b| b.hangs = Some(CONFIGURATION), 503, "in time"),
        ("no keys at all", |b| b.answer("/jwks", 500, "{}"), 503, "status 500"),
        ("an empty key set", |b| b.answer("/jwks", 200, r#"{"keys":[]}"#), 503, "holds no key"),
        ("a huge key set", |b| b.answer("/jwks", 200, huge()), 503, ""),
        ("a deep key set", |b| b.answer("/jwks", 200, deep()), 503, "nested deeper"),
        ("slow keys", |b| b.hangs = Some("/jwks"), 503, "in time"),
    ];
    for (name, bend, status, reason) in documents {
        world.rogue.bend(bend);
        let mut browser = world.gate.browser();
        let answer = world.rogue.login(&mut browser).await;
        world.refused(name, &browser, &answer, (*status, reason)).await;
        world.rogue.behave();
        if *status == 503 {
            // It isn't asked again at once, and then it is.
            eventually(name, async || {
                let mut browser = world.gate.browser();
                let answer = world.rogue.login(&mut browser).await;
                let signed_in = answer.status == 303 && browser.session_cookie().is_some();
                if !signed_in {
                    // Each try is a record, of which strangers have a limited number.
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                signed_in.then_some(())
            })
            .await;
        }
        world.forget_the_provider().await;
    }
    world.good_login("discovery-openid-configuration").await;
    assert!(world.rogue.asked("/jwks") > 0, "jwks-uri-keys");
    world.end();
}

const CONFIGURATION: &str = "/.well-known/openid-configuration";

#[tokio::test]
async fn keys_may_change_and_unknown_ones_are_asked_for_seldom() {
    let mut world = World::start().await;
    world.good_login("nothing").await;
    assert_eq!(world.rogue.asked("/jwks"), 1);
    let old = world.rogue.world().key.clone();
    {
        let mut provider = world.rogue.world();
        let key = Key::es256("k2");
        (provider.published, provider.key) = (vec![key.clone()], key);
    }
    world.good_login("signing-key-rotation").await;
    assert_eq!(world.rogue.asked("/jwks"), 2);

    // The old key is no longer the provider's; what is unknown is not asked for again so soon.
    let forgeries = [old, Key::es256("k3"), Key::es256("k4")];
    for forged in forgeries.iter().cycle().take(20) {
        let forged = forged.clone();
        world.rogue.bend(|bend| {
            bend.forge = Some(Box::new(move |_, _, claims| forged.sign(&forged.header(), claims)));
        });
        let mut browser = world.gate.browser();
        let answer = world.rogue.login(&mut browser).await;
        world.refused("an unknown key", &browser, &answer, (400, "no key")).await;
        world.rogue.behave();
    }
    assert_eq!(
        world.rogue.asked("/jwks"),
        2,
        "a flood of unknown keys is no flood at the provider"
    );
    world.good_login("a flood of unknown keys").await;

    world.forget_the_provider().await;
    world.good_login("nothing").await;
    world.rogue.bend(|bend| {
        bend.at_token = Some(Box::new(|provider| {
            let key = Key::es256("k5");
            (provider.published, provider.key) = (vec![key.clone()], key);
        }));
    });
    world.good_login("signing-key-rotation-just-before-signing").await;

    world.forget_the_provider().await;
    let twins = vec![Key::es256("a"), Key::es256("b")];
    {
        let mut provider = world.rogue.world();
        (provider.key, provider.published) = (twins[0].clone(), twins);
    }
    world.rogue.bend(|bend| {
        bend.header.push(Box::new(|header| drop(header.as_object_mut().unwrap().remove("kid"))));
    });
    let mut browser = world.gate.browser();
    let answer = world.rogue.login(&mut browser).await;
    world.refused("kid-absent-multiple-jwks", &browser, &answer, (400, "ambiguous")).await;
    world.rogue.behave();
    world.good_login("kid-absent-multiple-jwks").await;
    world.end();
}

/// Anybody can come back with a code that he made up; where the provider hangs, it keeps its place.
#[tokio::test]
async fn one_address_does_not_keep_others_from_signing_in_while_the_provider_hangs() {
    let rogue = Rogue::start().await;
    let upstream = Recorder::start().await;
    let setup = rogue.provides(Gate::with_upstream(&upstream)).configure(|config| {
        // Longer than this test waits for anything.
        config["identity_providers"][0]["timeout"] = "60s".into();
    });
    let gate = setup.start().await;
    let asked = || rogue.asked("/token");
    rogue.bend(|bend| bend.hangs = Some("/token"));
    let mut stuck = Vec::new();
    for _ in 0..60 {
        let mut browser = gate.browser();
        let began = rogue.begin(&mut browser).await.unwrap();
        let (host, path) = (format!("{HOST}:{}", gate.port()), rogue.callback(&began));
        let cookies = browser.cookies_for(&browser.url(&path));
        let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\ncookie: {cookies}\r\n\r\n");
        let mut stranger = call_with(&gate, 2, b"").await.unwrap();
        stranger.send(head.as_bytes()).await;
        stuck.push(stranger);
    }
    eventually("the stranger's share", async || (asked() >= 10).then_some(())).await;
    rogue.behave();
    let mut browser = gate.browser();
    assert_eq!(rogue.login(&mut browser).await.status, 303);
    assert!(browser.session_cookie().is_some());
    assert_eq!(asked(), 11, "ten of one address, and this one");
}
