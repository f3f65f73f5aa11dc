//! Tokens are given back to the provider.

use super::*;
use crate::identity::revocation::{Revocation, RevocationError, TokenKind};

type Change = fn(&mut IdentityProvider);

fn secret(config: &mut IdentityProvider, method: SecretMethod) {
    let secret = Secret::new("s3cret");
    config.client = ClientAuthentication::Secret { secret, method: Some(method) };
}

fn key(config: &mut IdentityProvider) {
    let pem = Secret::new(rcgen::KeyPair::generate().unwrap().serialize_pem());
    let audience = crate::config::model::AssertionAudience::Issuer;
    config.client = ClientAuthentication::Key { pem, id: None, audience };
}

impl World {
    /// Of a provider that revokes tokens.
    async fn revoking(change: impl FnOnce(&mut IdentityProvider)) -> Self {
        let world = Self::with(change).await;
        let endpoint = format!("{}/revoke", world.script.lock().issuer);
        world.script.lock().metadata = Some(Box::new(move |metadata| {
            metadata["revocation_endpoint"] = endpoint.clone().into();
        }));
        world
    }

    async fn revoke(&self) -> Result<Revocation, RevocationError> {
        self.provider.revoke(TokenKind::Refresh, &Secret::new("r/0")).await
    }
}

#[tokio::test]
async fn a_token_is_given_back_by_a_client_that_proves_itself_as_it_does_for_tokens() {
    let ways: [(Change, &[&str], &[&str]); 4] = [
        (|_| {}, &["&client_id=gate"], &["client_secret", "authorization", "assertion"]),
        (
            |c| secret(c, SecretMethod::Basic),
            &["authorization: basic "],
            &["client_secret", "s3cret"],
        ),
        (|c| secret(c, SecretMethod::Post), &["&client_secret=s3cret"], &["authorization"]),
        (
            key,
            &["&client_id=gate", "&client_assertion_type=urn", "&client_assertion=eyJ"],
            &["authorization"],
        ),
    ];
    for (change, holds, lacks) in ways {
        let world = World::revoking(change).await;
        assert_eq!(world.revoke().await.unwrap(), Revocation::Revoked);
        let asked =
            world.script.lock().asked.replace("Authorization: Basic", "authorization: basic");
        let asked = asked.replace("authorization: Basic", "authorization: basic");
        assert!(asked.starts_with("POST /revoke "), "{asked}");
        assert!(asked.contains("\r\n\r\ntoken=r%2F0&token_type_hint=refresh_token"), "{asked}");
        assert!(holds.iter().all(|text| asked.contains(text)), "{holds:?}: {asked}");
        assert!(lacks.iter().all(|text| !asked.contains(text)), "{lacks:?}: {asked}");
        let access = world.provider.revoke(TokenKind::Access, &Secret::new("a")).await;
        assert_eq!(access.unwrap(), Revocation::Revoked);
        let asked = world.script.lock().asked.clone();
        assert!(asked.contains("token=a&token_type_hint=access_token"), "{asked}");
    }
}

#[tokio::test]
async fn nothing_is_sent_where_the_provider_offers_no_revocation_or_none_is_wanted() {
    let world = World::new().await;
    assert_eq!(world.revoke().await.unwrap(), Revocation::NotOffered);
    assert_eq!(world.script.lock().asked, "");
    let world = World::revoking(|config| config.revokes_tokens = false).await;
    assert_eq!(world.revoke().await.unwrap(), Revocation::NotOffered);
    assert_eq!(world.script.lock().asked, "", "or where it is not to be asked");
}

#[tokio::test]
async fn an_address_for_revocation_without_tls_is_not_taken() {
    let world = World::new().await;
    world.script.lock().metadata = Some(Box::new(|metadata| {
        metadata["revocation_endpoint"] = "http://id.example/revoke".into();
    }));
    let error = world.revoke().await.unwrap_err();
    assert!(error.to_string().contains("not https"), "{error}");
}

#[tokio::test]
async fn whatever_is_not_a_yes_leaves_the_token_as_it_may_be() {
    for (status, body, said) in [
        (400, json!({"error": "unsupported_token_type"}), "status 400, `unsupported_token_type`"),
        (401, json!({"error": "invalid\nclient"}), "status 401, `invalidclient`"),
        (302, json!("r/0"), "status 302, `none`"),
        (503, json!({}), "status 503"),
    ] {
        let world = World::revoking(|_| {}).await;
        world.script.lock().revoked = (status, body);
        let error = world.revoke().await.unwrap_err().to_string();
        assert!(error.contains(said) && !error.contains("r/0"), "{error}");
    }
}
