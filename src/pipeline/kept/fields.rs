//! The names of a form's fields, to show its sender what it is: never their values.

/// Names that are shown at most, and the letters of each.
const MAX_NAMES: usize = 40;
const MAX_LETTERS: usize = 80;

/// The kinds of form that a browser sends by itself, but for `text/plain`, which nothing reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    UrlEncoded,
    Multipart { boundary: &'a str },
}

impl<'a> Kind<'a> {
    /// Of a `Content-Type` field.
    pub fn of(content_type: &'a str) -> Option<Self> {
        let (kind, parameters) = match content_type.split_once(';') {
            Some((kind, parameters)) => (kind.trim(), parameters),
            None => (content_type.trim(), ""),
        };
        if kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Some(Self::UrlEncoded);
        }
        if !kind.eq_ignore_ascii_case("multipart/form-data") {
            return None;
        }
        parameters.split(';').find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            let boundary = value.trim().trim_matches('"');
            let is_one = name.trim().eq_ignore_ascii_case("boundary")
                && !boundary.is_empty()
                && boundary.len() <= 70;
            is_one.then_some(Self::Multipart { boundary })
        })
    }
}

/// Each name once, in order, shortened.
pub fn names(kind: Kind<'_>, body: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut add = |name: &str| {
        let name: String =
            name.chars().filter(|letter| !letter.is_control()).take(MAX_LETTERS).collect();
        if !name.is_empty() && names.len() < MAX_NAMES && !names.contains(&name) {
            names.push(name);
        }
    };
    match kind {
        Kind::UrlEncoded => {
            url::form_urlencoded::parse(body).take(10 * MAX_NAMES).for_each(|(name, _)| add(&name));
        }
        Kind::Multipart { boundary } => {
            let delimiter = format!("--{boundary}");
            memchr::memmem::find_iter(body, delimiter.as_bytes())
                .take(10 * MAX_NAMES)
                .filter_map(|at| body.get(at + delimiter.len()..))
                .filter_map(part_name)
                .for_each(|name| add(&name));
        }
    }
    names
}

/// The name of a part, of what follows its delimiter (RFC 7578, section 4.2).
fn part_name(part: &[u8]) -> Option<String> {
    let end = memchr::memmem::find(part, b"\r\n\r\n")?;
    let header = String::from_utf8_lossy(part.get(..end)?);
    let line = header.lines().find(|line| {
        line.get(..20).is_some_and(|name| name.eq_ignore_ascii_case("content-disposition:"))
    })?;
    let (_, rest) = line.split_once("; name=\"")?;
    rest.split('"').next().map(|name| name.replace("%22", "\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_and_values_are_not() {
        let body = b"item=N-3001&n=2&password=hunter2&n=3&=x&caf%C3%A9=1";
        assert_eq!(names(Kind::UrlEncoded, body), ["item", "n", "password", "café"]);
        let body = b"--XyZ\r\ncontent-disposition: form-data; name=\"who\"\r\n\r\nada\r\n--XyZ\r\n\
            Content-Type: text/plain\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n\
            name=\"not\"\r\n--XyZ--\r\n";
        assert_eq!(names(Kind::Multipart { boundary: "XyZ" }, body), ["who", "file"]);
    }

    #[test]
    fn a_form_of_any_size_has_a_list_of_a_bounded_one() {
        let body: String =
            (0..5000).map(|number| format!("{}{number}=&", "é".repeat(200))).collect();
        let names = names(Kind::UrlEncoded, body.as_bytes());
        assert!(names.len() <= MAX_NAMES);
        assert!(names.iter().all(|name| name.chars().count() <= MAX_LETTERS));
    }

    #[test]
    fn only_what_browsers_send_of_themselves_is_a_form() {
        for (text, kind) in [
            ("application/x-www-form-urlencoded", Some(Kind::UrlEncoded)),
            ("Application/X-WWW-Form-Urlencoded; charset=UTF-8", Some(Kind::UrlEncoded)),
            ("multipart/form-data; boundary=a-b", Some(Kind::Multipart { boundary: "a-b" })),
            ("multipart/form-data; boundary=\"a b\"", Some(Kind::Multipart { boundary: "a b" })),
            ("multipart/form-data", None),
            ("multipart/form-data; boundary=", None),
            ("text/plain", None),
            ("application/json", None),
            ("", None),
        ] {
            assert_eq!(Kind::of(text), kind, "{text}");
        }
    }

    #[test]
    fn what_is_no_form_has_no_names() {
        for body in [&b""[..], b"\xff\xfe", b"--b\r\n\r\n", b"--b", b"--b\r\nx: y\r\n\r\n--b--"] {
            assert_eq!(names(Kind::Multipart { boundary: "b" }, body), Vec::<String>::new());
        }
    }
}
