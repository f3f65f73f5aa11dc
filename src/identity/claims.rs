//! From verified claims to a principal.
//!
//! INVARIANT: claims are taken whole or not at all. A list of groups is never cut short, because a
//! policy may forbid by group; an address counts only when the provider verified it; and what can't
//! be shown in a log or a header is refused.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::config::model::{ClaimNames, ClaimPath};
use crate::domain::clock::Timestamp;
use crate::domain::principal::{Authentication, Principal, PrincipalKind};

const MAX_GROUPS: usize = 200;
const MAX_LENGTH: usize = 256;

/// What the groups are called that roles become.
const ROLE: &str = "role:";

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
    #[error("the claim `{0}` holds a group that would be taken for a role")]
    LikeRole(String),
}

/// The principal and the circumstances of the login. `userinfo` fills in what the ID token lacks.
pub fn principal(
    provider: &str,
    names: &ClaimNames,
    id_token: &Claims,
    userinfo: Option<&Claims>,
) -> Result<(Principal, Authentication), ClaimError> {
    let sources: Vec<&Claims> = std::iter::once(id_token).chain(userinfo).collect();
    let mut email = None;
    for claims in &sources {
        if email.is_none() {
            email = verified_email(names, claims)?;
        }
    }
    let user = if names.user == names.email {
        // Whoever can set an address without proving it must not become its owner.
        email.clone().ok_or_else(|| ClaimError::Unverified(names.user.to_string()))?
    } else {
        text_at(&sources, &names.user)?
            .ok_or_else(|| ClaimError::Missing(names.user.to_string()))?
    };
    let principal = Principal { email, ..described(provider, &user, names, &sources)? };
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

/// A client of the provider's that speaks for itself, from a token of its own.
pub fn service(
    provider: &str,
    client: &str,
    names: &ClaimNames,
    token: &Claims,
) -> Result<Principal, ClaimError> {
    let principal = described(provider, client, names, &[token])?;
    Ok(Principal { kind: PrincipalKind::Service, ..principal })
}

/// What the claims say of a user or service of that name.
fn described(
    provider: &str,
    subject: &str,
    names: &ClaimNames,
    sources: &[&Claims],
) -> Result<Principal, ClaimError> {
    Ok(Principal {
        kind: PrincipalKind::User,
        id: format!("{provider}/{subject}").into(),
        email: None,
        name: text_at(sources, &names.name)?,
        groups: groups(sources, names)?,
        tenant: match &names.fixed_tenant {
            Some(tenant) => Some(Arc::clone(tenant)),
            None => text_at(sources, &names.tenant)?,
        },
    })
}

/// Whether every claim that is configured stands in the ID token, so that userinfo adds nothing.
pub fn complete(names: &ClaimNames, id_token: &Claims) -> bool {
    let tenant = names.fixed_tenant.is_none().then_some(&names.tenant);
    [&names.user, &names.email, &names.name, &names.groups]
        .into_iter()
        .chain(tenant)
        .chain(&names.roles)
        .all(|path| matches!(find(id_token, path), Ok(Some(_))))
}

/// One text claim, from the first source that has it.
pub fn text(sources: &[&Claims], name: &'static str) -> Result<Option<Arc<str>>, ClaimError> {
    text_at(sources, &name.into())
}

fn text_at(sources: &[&Claims], path: &ClaimPath) -> Result<Option<Arc<str>>, ClaimError> {
    match first(sources, path)? {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(checked(path, text)?)),
        Some(_) => Err(ClaimError::Type(path.to_string())),
    }
}

/// A claim that is a list of texts, or one text.
pub fn texts(sources: &[&Claims], name: &'static str) -> Result<BTreeSet<Arc<str>>, ClaimError> {
    texts_at(sources, &name.into(), None)
}

fn texts_at(
    sources: &[&Claims],
    path: &ClaimPath,
    separator: Option<&str>,
) -> Result<BTreeSet<Arc<str>>, ClaimError> {
    let texts: Vec<&str> = match first(sources, path)? {
        None => Vec::new(),
        Some(Value::String(text)) => match separator {
            Some(separator) => text.split(separator).map(str::trim).collect(),
            None => vec![text],
        },
        Some(Value::Array(values)) => {
            let texts: Option<_> = values.iter().map(Value::as_str).collect();
            let texts: Vec<_> = texts.ok_or_else(|| ClaimError::Type(path.to_string()))?;
            if texts.iter().any(|text| text.is_empty()) {
                return Err(ClaimError::Text(path.to_string()));
            }
            texts
        }
        Some(_) => return Err(ClaimError::Type(path.to_string())),
    };
    if texts.len() > MAX_GROUPS {
        return Err(ClaimError::TooMany(path.to_string()));
    }
    texts.into_iter().filter(|text| !text.is_empty()).map(|text| checked(path, text)).collect()
}

/// Groups, and roles as groups of their own kind.
fn groups(sources: &[&Claims], names: &ClaimNames) -> Result<BTreeSet<Arc<str>>, ClaimError> {
    let separator = names.separator.as_deref();
    let mut all = texts_at(sources, &names.groups, separator)?;
    if let Some(path) = &names.roles {
        if all.iter().any(|group| group.starts_with(ROLE)) {
            return Err(ClaimError::LikeRole(names.groups.to_string()));
        }
        let roles = texts_at(sources, path, separator)?;
        all.extend(roles.iter().map(|role| Arc::from(format!("{ROLE}{role}"))));
    }
    Ok(match &names.group_prefix {
        Some(prefix) => all.iter().map(|group| Arc::from(format!("{prefix}{group}"))).collect(),
        None => all,
    })
}

fn first<'a>(sources: &[&'a Claims], path: &ClaimPath) -> Result<Option<&'a Value>, ClaimError> {
    for claims in sources {
        if let Some(found) = find(claims, path)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// What stands at the path. Something else than an object on the way there is an error, not
/// nothing: a group that forbids must not get lost.
fn find<'a>(claims: &'a Claims, path: &ClaimPath) -> Result<Option<&'a Value>, ClaimError> {
    let Some((name, objects)) = path.names().split_last() else { return Ok(None) };
    match object(claims, objects, path)? {
        Some(inside) => Ok(inside.get(name).filter(|value| !value.is_null())),
        None => Ok(None),
    }
}

fn object<'a>(
    claims: &'a Claims,
    names: &[String],
    path: &ClaimPath,
) -> Result<Option<&'a Claims>, ClaimError> {
    let mut inside = claims;
    for name in names {
        inside = match inside.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Object(object)) => object,
            Some(_) => return Err(ClaimError::Type(path.to_string())),
        };
    }
    Ok(Some(inside))
}

fn checked(path: &ClaimPath, text: &str) -> Result<Arc<str>, ClaimError> {
    if text.is_empty() || text.len() > MAX_LENGTH || text.chars().any(char::is_control) {
        return Err(ClaimError::Text(path.to_string()));
    }
    Ok(text.into())
}

/// The address, when the same source says that it is verified (OpenID Connect Core 1.0, section
/// 5.1) and it can be read in one way only (the causes behind CVE-2026-40574).
fn verified_email(names: &ClaimNames, claims: &Claims) -> Result<Option<Arc<str>>, ClaimError> {
    let Some((name, objects)) = names.email.names().split_last() else { return Ok(None) };
    let Some(inside) = object(claims, objects, &names.email)? else { return Ok(None) };
    let Some(email) = inside.get(name).and_then(Value::as_str) else { return Ok(None) };
    // Beside the address, so that nothing else vouches for it.
    let verified = inside.get("email_verified") == Some(&Value::Bool(true));
    let Some((local, domain)) = email.split_once('@') else { return Ok(None) };
    let plain = email.len() <= MAX_LENGTH
        && email.bytes().all(|byte| byte.is_ascii_graphic())
        && !local.is_empty()
        && !domain.is_empty()
        && !domain.contains('@');
    Ok((verified && plain).then(|| email.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names() -> ClaimNames {
        ClaimNames::default()
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
    fn a_service_is_bound_to_its_providers_tenant_and_groups_like_a_user() {
        let names = ClaimNames {
            fixed_tenant: Some("acme".into()),
            group_prefix: Some("acme:".into()),
            ..names()
        };
        let token = claims(json!({"sub": "robot", "tenant": "globex", "groups": ["admins"]}));
        let found = service("idp", "robot", &names, &token).unwrap();
        assert_eq!((found.kind, found.id.as_ref()), (PrincipalKind::Service, "idp/robot"));
        assert_eq!(found.tenant.as_deref(), Some("acme"));
        assert_eq!(found.groups, BTreeSet::from(["acme:admins".into()]));
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
    fn groups_in_one_text_are_separated_and_nested_ones_found() {
        let path = |text| ClaimPath::parse(text).unwrap();
        let names = ClaimNames {
            groups: path("https://acme.example/groups"),
            roles: Some(path("realm_access.roles")),
            separator: Some(",".into()),
            group_prefix: Some("acme:".into()),
            fixed_tenant: Some("acme".into()),
            ..names()
        };
        let of = |value| principal("idp", &names, &claims(value), None).map(|(found, _)| found);
        let found = of(json!({"sub": "1", "https://acme.example/groups": "x, y,,",
            "realm_access": {"roles": ["admin"]}, "tenant": "globex"}))
        .unwrap();
        let groups: Vec<&str> = found.groups.iter().map(|group| &**group).collect();
        assert_eq!(groups, ["acme:role:admin", "acme:x", "acme:y"]);
        assert_eq!(found.tenant.as_deref(), Some("acme"), "what claims say does not count");
        for (value, error) in [
            (
                json!({"sub": "1", "realm_access": "x"}),
                ClaimError::Type("realm_access.roles".into()),
            ),
            (
                json!({"sub": "1", "realm_access": {"roles": {}}}),
                ClaimError::Type("realm_access.roles".into()),
            ),
            (
                json!({"sub": "1", "https://acme.example/groups": ["role:admin"]}),
                ClaimError::LikeRole("https://acme.example/groups".into()),
            ),
        ] {
            assert_eq!(of(value), Err(error));
        }
        assert_eq!(of(json!({"sub": "1", "realm_access": {}})).unwrap().groups, BTreeSet::new());
        // A list is taken as it is.
        let found = of(json!({"sub": "1", "realm_access": {"roles": ["a,b"]}})).unwrap();
        assert_eq!(found.groups, BTreeSet::from(["acme:role:a,b".into()]));
    }

    #[test]
    fn a_nested_address_is_vouched_for_beside_it_only() {
        let names = ClaimNames { email: ClaimPath::parse("contact.email").unwrap(), ..names() };
        for (beside, above, email) in [(true, false, Some("a@b.example")), (false, true, None)] {
            let token = json!({"sub": "1", "email_verified": above,
                "contact": {"email": "a@b.example", "email_verified": beside}});
            let (found, _) = principal("idp", &names, &claims(token), None).unwrap();
            assert_eq!(found.email.as_deref(), email);
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
