//! Which claims of a provider carry what.

use std::fmt;
use std::sync::Arc;

/// Where a claim stands: its name, after the names of the objects that it stands in.
///
/// As text, names are separated by dots, `realm_access.roles`; a dot that belongs to a name is
/// written `\.`. A name with a `:` or `/` is one name, dots and all, because that is how providers
/// keep names of their own apart: `https://example.com/roles`.
#[derive(Clone, PartialEq, Eq)]
pub struct ClaimPath(Arc<[String]>);

impl ClaimPath {
    /// None where a name is empty.
    pub fn parse(text: &str) -> Option<Self> {
        let mut names = vec![String::new()];
        if text.contains([':', '/']) {
            names = vec![text.to_owned()];
        } else {
            let mut letters = text.chars().peekable();
            while let Some(letter) = letters.next() {
                match letter {
                    '.' => names.push(String::new()),
                    _ => {
                        let escaped = letter == '\\' && letters.peek() == Some(&'.');
                        let letter = if escaped { letters.next() } else { Some(letter) };
                        if let Some(name) = names.last_mut() {
                            name.extend(letter);
                        }
                    }
                }
            }
        }
        names.iter().all(|name| !name.is_empty()).then(|| Self(names.into()))
    }

    pub fn names(&self) -> &[String] {
        &self.0
    }
}

/// For a name that is known to be one.
impl From<&'static str> for ClaimPath {
    fn from(name: &'static str) -> Self {
        Self([name.to_owned()].into())
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

impl fmt::Debug for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

/// Which claims carry what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimNames {
    /// Default `sub`.
    pub user: ClaimPath,
    /// Default `email`; used only when `email_verified` beside it is true.
    pub email: ClaimPath,
    /// Default `name`.
    pub name: ClaimPath,
    /// Default `groups`: a list of strings, or one string.
    pub groups: ClaimPath,
    /// Each becomes the group `role:NAME`. None by default.
    pub roles: Option<ClaimPath>,
    /// Stands before each group's name, roles included, so that groups of two providers are told
    /// apart. None by default.
    pub group_prefix: Option<Arc<str>>,
    /// What groups and roles that are one string are separated by. Not separated by default.
    pub separator: Option<Arc<str>>,
    /// Default `tenant`.
    pub tenant: ClaimPath,
    /// The tenant of all users, whatever claims say.
    pub fixed_tenant: Option<Arc<str>>,
}

impl Default for ClaimNames {
    fn default() -> Self {
        Self {
            user: "sub".into(),
            email: "email".into(),
            name: "name".into(),
            groups: "groups".into(),
            roles: None,
            group_prefix: None,
            separator: None,
            tenant: "tenant".into(),
            fixed_tenant: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_lead_into_objects_but_not_within_addresses() {
        for (text, names) in [
            ("groups", &["groups"][..]),
            ("realm_access.roles", &["realm_access", "roles"]),
            (r"resource_access.my\.app.roles", &["resource_access", "my.app", "roles"]),
            ("https://example.com/roles", &["https://example.com/roles"]),
            ("cognito:groups", &["cognito:groups"]),
            (r"a\b", &[r"a\b"]),
        ] {
            assert_eq!(ClaimPath::parse(text).unwrap().names(), names, "{text}");
        }
        for text in ["", ".", "a.", ".a", "a..b"] {
            assert_eq!(ClaimPath::parse(text), None, "{text}");
        }
    }
}
