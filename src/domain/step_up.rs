//! What a sign-in is asked for where the one that there is isn't enough.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;
use super::principal::Authentication;

/// Kinds of sign-in that a provider can be asked for, at most: each is tried against the policies.
pub const MAX_LEVELS: usize = 8;

/// How far an identity provider's clock may run ahead of ours.
const LEEWAY: Duration = Duration::from_secs(300);

/// A kind of sign-in that an identity provider can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignInLevel {
    /// The authentication context class (OpenID Connect Core 1.0, section 2) to ask for.
    pub acr: Arc<str>,
    /// The methods (RFC 8176) that a sign-in of this kind proves, as far as policies read them.
    pub amr: BTreeSet<Arc<str>>,
}

/// What the next sign-in has to bring (RFC 9470).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepUp {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acr: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub amr: BTreeSet<Arc<str>>,
    /// How many seconds ago the user may have proved who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
}

/// What the provider did not bring. The texts are for the user and the audit log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepUpError {
    #[error(
        "a sign-in of the kind `{wanted}` was asked for, and the identity provider did not say what kind this one was"
    )]
    NoAcr { wanted: Arc<str> },
    #[error(
        "a sign-in of the kind `{wanted}` was asked for, and the identity provider answered with `{got}`"
    )]
    OtherAcr { wanted: Arc<str>, got: Arc<str> },
    #[error("the sign-in lacks the method `{0}`, which its kind stands for")]
    NoMethod(Arc<str>),
    #[error(
        "a fresh sign-in was asked for, and the identity provider did not say when this one was"
    )]
    NoTime,
    #[error(
        "a sign-in within the last {wanted} seconds was asked for, and the identity provider answered with one of {got} seconds ago"
    )]
    TooOld { wanted: u64, got: u64 },
    #[error("the identity provider says that the sign-in lies in the future")]
    Future,
}

impl StepUp {
    /// Whether a sign-in brings all that was asked for. What its ID token says counts, and nothing
    /// else: a provider may ignore what it is asked for (RFC 9470, section 5).
    ///
    /// # Errors
    /// The first thing that is missing.
    pub fn check(&self, said: &Authentication, now: Timestamp) -> Result<(), StepUpError> {
        if let Some(wanted) = &self.acr {
            let wanted = Arc::clone(wanted);
            match &said.acr {
                None => return Err(StepUpError::NoAcr { wanted }),
                Some(got) if *got == wanted => {}
                Some(got) => return Err(StepUpError::OtherAcr { wanted, got: Arc::clone(got) }),
            }
        }
        if let Some(missing) = self.amr.difference(&said.amr).next() {
            return Err(StepUpError::NoMethod(Arc::clone(missing)));
        }
        let Some(wanted) = self.max_age else { return Ok(()) };
        let at = said.auth_time.ok_or(StepUpError::NoTime)?;
        if at > now.plus(LEEWAY) {
            return Err(StepUpError::Future);
        }
        let got = now.since(at).as_secs();
        if got > wanted { Err(StepUpError::TooOld { wanted, got }) } else { Ok(()) }
    }

    /// The challenge for clients that get tokens themselves (RFC 9470, section 3).
    pub fn challenge(&self) -> String {
        let mut text = "Bearer error=\"insufficient_user_authentication\", \
             error_description=\"a stronger or more recent sign-in is required\""
            .to_owned();
        if let Some(acr) = self.acr.as_deref().filter(|acr| is_acr(acr)) {
            text.push_str(&format!(", acr_values=\"{acr}\""));
        }
        if let Some(seconds) = self.max_age {
            text.push_str(&format!(", max_age=\"{seconds}\""));
        }
        text
    }
}

/// Whether a text can be asked for as one of `acr_values`, which are separated by blanks, and can
/// stand in a quoted string of a header field as it is.
pub fn is_acr(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    !text.is_empty() && text.len() <= 255 && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn said(acr: Option<&str>, amr: &[&str], age: Option<i64>) -> Authentication {
        Authentication {
            acr: acr.map(Arc::from),
            amr: amr.iter().map(|method| Arc::from(*method)).collect(),
            auth_time: age.map(|age| Timestamp::from_seconds(NOW.as_seconds() - age)),
            session_started: None,
            ..Authentication::default()
        }
    }

    fn asked(acr: Option<&str>, amr: &[&str], max_age: Option<u64>) -> StepUp {
        let said = said(acr, amr, None);
        StepUp { acr: said.acr, amr: said.amr, max_age }
    }

    #[test]
    fn a_sign_in_that_brings_what_was_asked_for_is_taken() {
        for (asked, said) in [
            (asked(None, &[], None), said(None, &[], None)),
            (asked(Some("mfa"), &[], None), said(Some("mfa"), &["otp"], None)),
            (asked(Some("mfa"), &["otp"], None), said(Some("mfa"), &["otp", "pwd"], None)),
            (asked(None, &[], Some(60)), said(None, &[], Some(60))),
            (asked(None, &[], Some(60)), said(None, &[], Some(-5))),
        ] {
            assert_eq!(asked.check(&said, NOW), Ok(()), "{asked:?} {said:?}");
        }
    }

    #[test]
    fn a_sign_in_that_lacks_something_is_not() {
        let mfa = || Arc::from("mfa");
        for (asked, said, error) in [
            (
                asked(Some("mfa"), &[], None),
                said(None, &[], None),
                StepUpError::NoAcr { wanted: mfa() },
            ),
            (
                asked(Some("mfa"), &[], None),
                said(Some("MFA"), &[], None),
                StepUpError::OtherAcr { wanted: mfa(), got: "MFA".into() },
            ),
            (
                asked(Some("mfa"), &["hwk"], None),
                said(Some("mfa"), &["otp"], None),
                StepUpError::NoMethod("hwk".into()),
            ),
            (asked(None, &[], Some(60)), said(None, &[], None), StepUpError::NoTime),
            (
                asked(None, &[], Some(60)),
                said(None, &[], Some(61)),
                StepUpError::TooOld { wanted: 60, got: 61 },
            ),
            (asked(None, &[], Some(60)), said(None, &[], Some(-301)), StepUpError::Future),
        ] {
            assert_eq!(asked.check(&said, NOW), Err(error), "{asked:?} {said:?}");
        }
    }

    #[test]
    fn the_challenge_says_what_to_ask_the_provider_for() {
        assert_eq!(
            asked(Some("urn:x:mfa"), &["otp"], Some(300)).challenge(),
            "Bearer error=\"insufficient_user_authentication\", error_description=\"a stronger or \
             more recent sign-in is required\", acr_values=\"urn:x:mfa\", max_age=\"300\""
        );
        assert!(!asked(Some("a\"b"), &[], None).challenge().contains("acr_values"));
    }

    #[test]
    fn an_acr_is_one_word_that_needs_no_escape() {
        for good in ["mfa", "urn:mace:incommon:iap:silver", "https://refeds.org/profile/mfa", "2"] {
            assert!(is_acr(good), "{good}");
        }
        for bad in ["", "a b", "a\"b", "a\\b", "ä", "a\n"] {
            assert!(!is_acr(bad), "{bad:?}");
        }
    }
}
