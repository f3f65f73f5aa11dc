//! What the provider remembers: who is signed in, and what it has handed out for it.
//!
//! INVARIANT: a code is looked at once. A second use is refused and takes back what the first one
//! was exchanged for (RFC 9700, section 4.5).

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::demo::users::User;
use crate::domain::clock::Timestamp;

const CODE_LIFETIME: Duration = Duration::from_secs(60);
const TOKEN_LIFETIME: Duration = Duration::from_secs(600);

/// How many entries of a kind are kept; more than any demo needs, less than memory.
const MOST: usize = 10_000;

/// A browser that is signed in at the provider.
#[derive(Clone, Debug)]
pub struct SignedIn {
    pub user: &'static User,
    pub at: Timestamp,
    pub second_factor: bool,
    /// The `sid` claim: the same for every host that this browser signs in to.
    pub sid: String,
}

/// What a code stands for.
#[derive(Clone, Debug)]
pub struct Grant {
    pub signed_in: SignedIn,
    pub redirect_uri: String,
    pub nonce: Option<String>,
    /// PKCE, S256 (RFC 7636).
    pub challenge: String,
    pub issued: Timestamp,
}

#[derive(Debug)]
enum Code {
    Fresh(Box<Grant>),
    /// The access token that it was exchanged for.
    Used(String),
}

#[derive(Debug, Default)]
pub struct Grants {
    browsers: Mutex<HashMap<String, SignedIn>>,
    codes: Mutex<HashMap<String, Code>>,
    tokens: Mutex<HashMap<String, (&'static User, Timestamp)>>,
}

impl Grants {
    pub fn sign_in(&self, cookie: String, signed_in: SignedIn) {
        let mut browsers = self.browsers.lock();
        if browsers.len() < MOST {
            browsers.insert(cookie, signed_in);
        }
    }

    pub fn browser(&self, cookie: &str) -> Option<SignedIn> {
        self.browsers.lock().get(cookie).cloned()
    }

    pub fn sign_out(&self, cookie: &str) -> Option<SignedIn> {
        self.browsers.lock().remove(cookie)
    }

    pub fn sign_out_sid(&self, sid: &str) {
        self.browsers.lock().retain(|_, signed_in| signed_in.sid != sid);
    }

    pub fn issue(&self, code: String, grant: Grant) {
        let mut codes = self.codes.lock();
        if codes.len() < MOST {
            codes.insert(code, Code::Fresh(Box::new(grant)));
        }
    }

    /// Takes what `code` stands for; `token` is the access token that it is exchanged for.
    pub fn redeem(&self, code: &str, token: &str, now: Timestamp) -> Option<Grant> {
        let mut codes = self.codes.lock();
        let known = codes.get_mut(code)?;
        match std::mem::replace(known, Code::Used(token.to_owned())) {
            Code::Fresh(grant) => (now.since(grant.issued) <= CODE_LIFETIME).then_some(*grant),
            Code::Used(earlier) => {
                self.tokens.lock().remove(&earlier);
                None
            }
        }
    }

    pub fn remember_token(&self, token: String, user: &'static User, now: Timestamp) {
        let mut tokens = self.tokens.lock();
        tokens.retain(|_, (_, issued)| now.since(*issued) <= TOKEN_LIFETIME);
        if tokens.len() < MOST {
            tokens.insert(token, (user, now));
        }
    }

    pub fn user_of_token(&self, token: &str, now: Timestamp) -> Option<&'static User> {
        let tokens = self.tokens.lock();
        let (user, issued) = tokens.get(token)?;
        (now.since(*issued) <= TOKEN_LIFETIME).then_some(*user)
    }
}
