//! From verified claims to a principal.
//!
//! INVARIANT: claims are taken whole or not at all. A list of groups is never cut short, because a
//! policy may forbid by group; an address counts only when the provider verified it; and what can't
//! be shown in a log or a header is refused.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::config::model::ClaimNames;
use crate::domain::clock::Timestamp;
use crate::domain::principal::{Authentication, Principal, PrincipalKind};

const MAX_GROUPS: usize = 200;
const MAX_LENGTH: usize = 256;

pub type Claims = Map<String, Value>;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    #[error("the claim `{0}` is missing")]
    Missing(String),
    #[error("the claim `{0}` is not of the expected type")]
    Type(String),
    #[error(
        "the claim `{0}` is empty, longer than {MAX_LENGTH} bytes, or holds control characters"
    )]
    Text(String),
    #[error("the claim `{0}` lists more than {MAX_GROUPS} values")]
    TooMany(String),
    #[error("the claim `{0}` names the user, but holds no verified address")]
    Unverified(String),
}

/// The principal and the circumstances of the login. `userinfo` fills in what the ID token lacks.
pub fn principal(
    provider: &str,
    names: &ClaimNames,
    id_token: &Claims,
    userinfo: Option<&Claims>,
) -> Result<(Principal, Authentication), ClaimError> {
    let sources: Vec<&Claims> = std::iter::once(id_token).chain(userinfo).collect();
    let email = sources.iter().find_map(|claims| verified_email(names, claims));
    let user = if names.user == names.email {
        // Whoever can set an address without proving it must not become its owner.
        email.clone().ok_or_else(|| ClaimError::Unverified(names.user.clone()))?
    } else {
        text(&sources, &names.user)?.ok_or_else(|| ClaimError::Missing(names.user.clone()))?
    };
    let principal = Principal {
        kind: PrincipalKind::User,
        id: format!("{provider}/{user}").into(),
        email,
        name: text(&sources, &names.name)?,
        groups: texts(&sources, &names.groups)?,
        tenant: text(&sources, &names.tenant)?,
    };
    // How the user signed in is said by the ID token alone.
    let token = [id_token];
    let authentication = Authentication {
        acr: text(&token, "acr")?,
        amr: texts(&token, "amr")?,
        auth_time: match id_token.get("auth_time") {
            None | Some(Value::Null) => None,
            Some(value) => Some(Timestamp::from_seconds(
                value.as_i64().ok_or_else(|| ClaimError::Type("auth_time".to_owned()))?,
            )),
        },
        ..Authentication::default()
    };
    Ok((principal, authentication))
}

/// Whether every claim that is configured stands in the ID token, so that userinfo adds nothing.
pub fn complete(names: &ClaimNames, id_token: &Claims) -> bool {
    [&names.user, &names.email, &names.name, &names.groups, &names.tenant]
        .into_iter()
        .all(|name| id_token.contains_key(name.as_str()))
}

/// One text claim, from the first source that has it.
pub fn text(sources: &[&Claims], name: &str) -> Result<Option<Arc<str>>, ClaimError> {
    match first(sources, name) {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(checked(name, text)?)),
        Some(_) => Err(ClaimError::Type(name.to_owned())),
    }
}

pub fn texts(sources: &[&Claims], name: &str) -> Result<BTreeSet<Arc<str>>, ClaimError> {
    match first(sources, name) {
        None => Ok(BTreeSet::new()),
        Some(Value::String(text)) if text.is_empty() => Ok(BTreeSet::new()),
        Some(Value::String(text)) => Ok(BTreeSet::from([checked(name, text)?])),
        Some(Value::Array(values)) if values.len() > MAX_GROUPS => {
            Err(ClaimError::TooMany(name.to_owned()))
        }
        Some(Value::Array(values)) => values
            .iter()
            .map(|value| {
                let text = value.as_str().ok_or_else(|| ClaimError::Type(name.to_owned()))?;
                checked(name, text)
            })
            .collect(),
        Some(_) => Err(ClaimError::Type(name.to_owned())),
    }
}

fn first<'a>(sources: &[&'a Claims], name: &str) -> Option<&'a Value> {
    sources.iter().find_map(|claims| claims.get(name).filter(|value| !value.is_null()))
}

fn checked(name: &str, text: &str) -> Result<Arc<str>, ClaimError> {
    if text.is_empty() || text.len() > MAX_LENGTH || text.chars().any(char::is_control) {
        return Err(ClaimError::Text(name.to_owned()));
    }
    Ok(text.into())
}

/// The address, when the same source says that it is verified (OpenID Connect Core 1.0, section
/// 5.1) and it can be read in one way only (the causes behind CVE-2026-40574).
fn verified_email(names: &ClaimNames, claims: &Claims) -> Option<Arc<str>> {
    let email = claims.get(names.email.as_str())?.as_str()?;
    let verified = claims.get("email_verified") == Some(&Value::Bool(true));
    let (local, domain) = email.split_once('@')?;
    let plain = email.len() <= MAX_LENGTH
        && email.bytes().all(|byte| byte.is_ascii_graphic())
        && !local.is_empty()
        && !domain.is_empty()
        && !domain.contains('@');
    (verified && plain).then(|| email.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names() -> ClaimNames {
        ClaimNames {
            user: "sub".into(),
            email: "email".into(),
            name: "name".into(),
            groups: "groups".into(),
            tenant: "tenant".into(),
        }
    }

    fn claims(value: Value) -> Claims {
        value.as_object().unwrap().clone()
    }

    fn of(value: Value) -> Result<Principal, ClaimError> {
        principal("idp", &names(), &claims(value), None).map(|(principal, _)| principal)
    }

    #[test]
    fn claims_become_a_principal() {
        let (principal, authentication) = principal(
            "idp",
            &names(),
            &claims(json!({"sub": "1", "email": "a@b.example", "email_verified": true,
                "groups": ["x", "y"], "tenant": "acme", "acr": "mfa", "amr": ["otp"],
                "auth_time": 7})),
            Some(&claims(json!({"sub": "1", "name": "Ada", "groups": ["z"]}))),
        )
        .unwrap();
        assert_eq!(principal.id.as_ref(), "idp/1");
        assert_eq!(principal.email.as_deref(), Some("a@b.example"));
        assert_eq!(principal.name.as_deref(), Some("Ada"));
        assert_eq!(principal.groups, BTreeSet::from(["x".into(), "y".into()]));
        assert_eq!(authentication.acr.as_deref(), Some("mfa"));
        assert_eq!(authentication.auth_time, Some(Timestamp::from_seconds(7)));
    }

    #[test]
    fn an_address_counts_only_when_verified_and_plain() {
        for (email, verified) in [
            ("a@b.example", json!(false)),
            ("a@b.example", json!("true")),
            ("a@b.example", json!(null)),
            ("a@b@c.example", json!(true)),
            ("a b@c.example", json!(true)),
            ("a\n@c.example", json!(true)),
            ("ä@c.example", json!(true)),
            ("@c.example", json!(true)),
            ("a@", json!(true)),
            ("a", json!(true)),
        ] {
            let found = of(json!({"sub": "1", "email": email, "email_verified": verified}));
            assert_eq!(found.unwrap().email, None, "{email} {verified}");
        }
    }

    #[test]
    fn one_source_can_not_vouch_for_the_address_of_another() {
        let token = claims(json!({"sub": "1", "email": "victim@b.example"}));
        let userinfo = claims(json!({"sub": "1", "email_verified": true}));
        let (found, _) = principal("idp", &names(), &token, Some(&userinfo)).unwrap();
        assert_eq!(found.email, None);
    }

    #[test]
    fn an_unverified_address_never_names_the_user() {
        let names = ClaimNames { user: "email".into(), ..names() };
        let token = claims(json!({"sub": "1", "email": "a@b.example", "email_verified": false}));
        assert_eq!(
            principal("idp", &names, &token, None).map(|_| ()),
            Err(ClaimError::Unverified("email".into()))
        );
    }

    #[test]
    fn groups_are_taken_whole_or_the_login_is_refused() {
        assert_eq!(of(json!({"sub": "1", "groups": "x"})).unwrap().groups.len(), 1);
        let many: Vec<String> = (0..201).map(|index| format!("g{index}")).collect();
        for (groups, error) in [
            (json!(["x", 1]), ClaimError::Type("groups".into())),
            (json!({"x": true}), ClaimError::Type("groups".into())),
            (json!(many), ClaimError::TooMany("groups".into())),
            (json!(["x".repeat(257)]), ClaimError::Text("groups".into())),
            (json!(["a\r\nb"]), ClaimError::Text("groups".into())),
        ] {
            assert_eq!(of(json!({"sub": "1", "groups": groups})), Err(error));
        }
    }

    #[test]
    fn a_login_without_a_subject_is_refused() {
        for token in [json!({}), json!({"sub": ""}), json!({"sub": null})] {
            assert_eq!(of(token), Err(ClaimError::Missing("sub".into())));
        }
        assert_eq!(of(json!({"sub": 1})), Err(ClaimError::Type("sub".into())));
    }
}
