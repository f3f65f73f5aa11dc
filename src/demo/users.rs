//! The people of the demo.

/// Someone who can sign in with one click.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// Subject at the provider, and the name used everywhere in the demo.
    pub subject: &'static str,
    pub name: &'static str,
    pub email: &'static str,
    pub groups: &'static [&'static str],
    pub tenant: Option<&'static str>,
    /// For people to read: who this is.
    pub role: &'static str,
}

pub const USERS: [User; 5] = [
    User {
        subject: "ada",
        name: "Ada Okafor",
        email: "ada@acme.example",
        groups: &["customers"],
        tenant: Some("acme"),
        role: "Customer, Acme",
    },
    User {
        subject: "grace",
        name: "Grace Lindqvist",
        email: "grace@globex.example",
        groups: &["customers"],
        tenant: Some("globex"),
        role: "Customer, Globex",
    },
    User {
        subject: "vera",
        name: "Vera Marchetti",
        email: "vera@pumpworks.example",
        groups: &["vendors"],
        tenant: None,
        role: "Vendor who looks after the pumps",
    },
    User {
        subject: "otto",
        name: "Otto Brandt",
        email: "otto@plant.example",
        groups: &["ot-engineers"],
        tenant: None,
        role: "OT engineer of the plant",
    },
    User {
        subject: "sam",
        name: "Sam Rivera",
        email: "sam@plant.example",
        groups: &["security-team"],
        tenant: None,
        role: "Security administrator",
    },
];

pub fn find(subject: &str) -> Option<&'static User> {
    USERS.iter().find(|user| user.subject == subject)
}

impl User {
    /// The first letter of the name.
    pub fn initial(&self) -> char {
        self.name.chars().next().unwrap_or('?')
    }
}
