//! Leaving: the provider's page where its own session ends too.

use url::Url;

use crate::config::secret::Secret;
use crate::domain::canonical::Authority;

/// Past this an ID token makes an address too long for servers and is left out of it.
const MAX_HINT: usize = 4096;

/// Where the provider sends the user back to. To be registered with it for every host.
pub fn signed_out_uri(host: &Authority) -> String {
    format!("https://{host}/.wicketgate/signed-out")
}

/// OpenID Connect RP-Initiated Logout 1.0, section 2.
pub fn end_session_url(
    endpoint: &Url,
    client_id: &str,
    id_token: Option<&Secret>,
    host: &Authority,
    state: &str,
) -> String {
    let mut url = endpoint.clone();
    {
        let mut query = url.query_pairs_mut();
        if let Some(token) = id_token.filter(|token| token.expose().len() <= MAX_HINT) {
            query.append_pair("id_token_hint", token.expose());
        }
        query
            .append_pair("client_id", client_id)
            .append_pair("post_logout_redirect_uri", &signed_out_uri(host))
            .append_pair("state", state);
    }
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logout_address_names_the_client_and_the_way_back() {
        let endpoint = Url::parse("https://idp.example/end?tenant=1").unwrap();
        let host = Authority::parse("portal.example:8443").unwrap();
        let url = end_session_url(&endpoint, "gate", Some(&Secret::new("a.b.c")), &host, "xyz");
        assert_eq!(
            url,
            "https://idp.example/end?tenant=1&id_token_hint=a.b.c&client_id=gate\
             &post_logout_redirect_uri=https%3A%2F%2Fportal.example%3A8443%2F.wicketgate%2F\
             signed-out&state=xyz"
        );
    }
}
