//! The credential that the gate itself shows to a legacy upstream.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};

use crate::config::model::UpstreamCredential;

/// Makes the header, once. The value is marked as sensitive, so that it is never printed and
/// never enters an HPACK table.
///
/// # Errors
/// A text that says which part can't be a header.
pub(super) fn header(
    credential: &UpstreamCredential,
) -> Result<(HeaderName, HeaderValue), &'static str> {
    let (name, value) = match credential {
        UpstreamCredential::Basic { username, password } => {
            if username.contains(':') {
                // RFC 7617, section 2: the first colon ends the user name.
                return Err("the user name of a basic credential may not contain a colon");
            }
            let pair = STANDARD.encode(format!("{username}:{}", password.expose()));
            (AUTHORIZATION, HeaderValue::try_from(format!("Basic {pair}")))
        }
        UpstreamCredential::Header { name, value } => (
            HeaderName::try_from(name).map_err(|_| "the credential's header name is not valid")?,
            HeaderValue::try_from(value.expose()),
        ),
    };
    let mut value =
        value.map_err(|_| "the credential holds a character that no header may have")?;
    value.set_sensitive(true);
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::secret::Secret;

    #[test]
    fn a_basic_credential_is_encoded_and_never_printed() {
        let credential = UpstreamCredential::Basic {
            username: "Aladdin".into(),
            password: Secret::new("open sesame"),
        };
        let (name, value) = header(&credential).unwrap();
        assert_eq!(name, AUTHORIZATION);
        // The example of RFC 7617, section 2.
        assert_eq!(value, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(value.is_sensitive());
        assert!(!format!("{value:?}").contains("QWxh"));
    }

    #[test]
    fn a_credential_that_would_break_the_header_is_refused() {
        let fixed = |value: &str| {
            header(&UpstreamCredential::Header { name: "x-key".into(), value: Secret::new(value) })
        };
        assert!(fixed("abc").is_ok());
        assert!(fixed("a\r\nx-admin: 1").is_err());
        let colon =
            UpstreamCredential::Basic { username: "a:b".into(), password: Secret::new("c") };
        assert!(header(&colon).is_err());
    }
}
