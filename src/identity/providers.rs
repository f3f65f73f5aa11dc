//! All identity providers of a configuration, in its order.
//!
//! INVARIANT: a callback goes to the provider that the sealed login names, never to one that the
//! request names: a provider can't answer in another's place (RFC 9700, section 4.4). That provider
//! then holds the response's `iss` against its own issuer (RFC 9207), or has an address of its own
//! that its answers come to.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::HeaderMap;
use url::form_urlencoded;

use super::login::{LoginStates, Part, StateError};
use super::oidc::{Login, LoginError, Provider};
use super::vouched::VouchedBy;
use crate::config::model::Route;
use crate::domain::canonical::Authority;

/// The request to `/.wicketgate/callback`.
#[derive(Debug)]
pub struct Callback<'a> {
    pub host: &'a Authority,
    /// The provider that the address is of, where it is one's own.
    pub of: Option<&'a str>,
    /// Without the `?`.
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    /// The client's.
    pub source: IpAddr,
}

/// The parameters of an authorization response (RFC 6749, sections 4.1.2 and 4.1.2.1; RFC 9207).
#[derive(Default)]
pub(super) struct Answer {
    pub state: Option<String>,
    pub code: Option<String>,
    pub iss: Option<String>,
    pub error: Option<String>,
}

impl Answer {
    fn parse(query: &str) -> Result<Self, LoginError> {
        let mut answer = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let slot = match name.as_ref() {
                "state" => &mut answer.state,
                "code" => &mut answer.code,
                "iss" => &mut answer.iss,
                "error" => &mut answer.error,
                _ => continue,
            };
            // RFC 6749, section 3.1: parameters must not be included more than once.
            if slot.replace(value.into_owned()).is_some() {
                return Err(LoginError::invalid("the callback repeats a parameter"));
            }
        }
        Ok(answer)
    }
}

/// Who signs users in.
#[derive(Debug)]
pub struct Providers {
    list: Vec<Arc<Provider>>,
    logins: Arc<LoginStates>,
}

impl Providers {
    pub fn new(list: Vec<Arc<Provider>>, logins: Arc<LoginStates>) -> Self {
        Self { list, logins }
    }

    pub fn logins(&self) -> &LoginStates {
        &self.logins
    }

    /// In the order of the configuration. There are a few at most, so that looking through them
    /// costs less than a hash.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Provider>> {
        self.list.iter()
    }

    /// Whether one's answer could be passed off as another's.
    pub fn are_several(&self) -> bool {
        self.list.len() > 1
    }

    pub fn named(&self, name: &str) -> Option<&Arc<Provider>> {
        self.list.iter().find(|provider| **provider.name() == *name)
    }

    /// The one of this name, if it is what it was when it vouched for somebody.
    pub fn vouching(&self, name: &str, vouched_by: VouchedBy) -> Option<&Arc<Provider>> {
        self.named(name).filter(|provider| provider.vouched_by() == vouched_by)
    }

    /// Those whose users a route takes, in its own order; all of them for what belongs to no route.
    pub fn of(&self, route: Option<&Route>) -> Vec<&Arc<Provider>> {
        match route.and_then(|route| route.identity_providers.as_deref()) {
            Some(names) => names.iter().filter_map(|name| self.named(name)).collect(),
            None => self.list.iter().collect(),
        }
    }

    /// Ends a login: who it is. What of it was wrong is in the error.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn finish(&self, callback: &Callback<'_>) -> Result<Login, LoginError> {
        let answer = Answer::parse(callback.query.unwrap_or_default())?;
        let state = answer.state.as_deref().ok_or(StateError::Missing)?;
        let login = self.logins.open(state, callback.headers, callback.host)?;
        if login.part == Part::Protected {
            return Err(StateError::WrongPart.into());
        }
        let provider = self.named(&login.provider).ok_or(StateError::UnknownProvider)?;
        let own = provider.config().own_callback.then(|| &**provider.name());
        if callback.of != own {
            return Err(StateError::WrongCallback.into());
        }
        provider.finish(login, answer, callback).await
    }
}
