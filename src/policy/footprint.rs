//! What a policy can read of a request's context, found once when the policy is loaded.
//!
//! INVARIANT: conservative. An expression that is not understood, or that uses the context (or a
//! record in it) as a whole, has all of it in its footprint. Too large costs time; too small would
//! show a policy less than there is.

use cedar_policy::pst::{Clause, Expr, Literal, Template, Var};

/// One leaf of the context, or the presence of one of its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Field {
    Host,
    Path,
    Method,
    Source,
    Time,
    Acr,
    Amr,
    AuthAge,
    SessionAge,
    Scopes,
    Client,
    Device,
    Segments,
    SegmentCount,
    Segment1,
    Segment2,
    Segment3,
    Segment4,
    Segment5,
    Segment6,
    Segment7,
    Segment8,
    Posture,
    PostureAge,
    Managed,
    DiskEncrypted,
    Firewall,
    EndpointProtection,
    ScreenLock,
    Os,
    OsVersion,
    PatchAgeDays,
}

impl Field {
    /// Every field, and where it stands in the context. A record comes before what is in it.
    pub(super) const ALL: [(Self, &'static [&'static str]); 32] = [
        (Self::Host, &["host"]),
        (Self::Path, &["path"]),
        (Self::Method, &["method"]),
        (Self::Source, &["source"]),
        (Self::Time, &["time"]),
        (Self::Acr, &["acr"]),
        (Self::Amr, &["amr"]),
        (Self::AuthAge, &["auth_age"]),
        (Self::SessionAge, &["session_age"]),
        (Self::Scopes, &["scopes"]),
        (Self::Client, &["client"]),
        (Self::Device, &["device"]),
        (Self::Segments, &["segments"]),
        (Self::SegmentCount, &["segments", "count"]),
        (Self::Segment1, &["segments", "1"]),
        (Self::Segment2, &["segments", "2"]),
        (Self::Segment3, &["segments", "3"]),
        (Self::Segment4, &["segments", "4"]),
        (Self::Segment5, &["segments", "5"]),
        (Self::Segment6, &["segments", "6"]),
        (Self::Segment7, &["segments", "7"]),
        (Self::Segment8, &["segments", "8"]),
        (Self::Posture, &["posture"]),
        (Self::PostureAge, &["posture", "age"]),
        (Self::Managed, &["posture", "managed"]),
        (Self::DiskEncrypted, &["posture", "disk_encrypted"]),
        (Self::Firewall, &["posture", "firewall"]),
        (Self::EndpointProtection, &["posture", "endpoint_protection"]),
        (Self::ScreenLock, &["posture", "screen_lock"]),
        (Self::Os, &["posture", "os"]),
        (Self::OsVersion, &["posture", "os_version"]),
        (Self::PatchAgeDays, &["posture", "patch_age_days"]),
    ];

    const fn bit(self) -> u64 {
        1 << (self as u64)
    }

    /// Records carry nothing of their own but that they are there.
    const fn is_record(self) -> bool {
        matches!(self, Self::Segments | Self::Posture)
    }
}

/// A set of fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Footprint(u64);

impl Footprint {
    pub(super) const ALL: Self = Self((1 << Field::ALL.len()) - 1);

    pub(super) fn contains(self, field: Field) -> bool {
        self.0 & field.bit() != 0
    }

    /// How many fields it has.
    pub(super) fn len(self) -> usize {
        usize::try_from(self.0.count_ones()).unwrap_or_default()
    }

    #[must_use]
    pub(super) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What the conditions of a policy can read. Its scope never reads the context.
    pub(super) fn of_policy(policy: &Template) -> Self {
        let mut footprint = Self::default();
        for clause in policy.clauses() {
            let (Clause::When(expression) | Clause::Unless(expression)) = clause;
            footprint.read(expression);
        }
        footprint
    }

    fn insert(&mut self, field: Field) {
        self.0 |= field.bit();
    }

    fn insert_all(&mut self) {
        *self = Self::ALL;
    }

    /// Adds what it takes to get the value at `path`: the records on the way, and all below it.
    fn insert_value(&mut self, path: &[&str]) {
        let mut found = false;
        for (field, place) in Field::ALL {
            if place.starts_with(path) {
                found = true;
                self.insert(field);
            } else if path.starts_with(place) {
                // Past a leaf, an entity's own attributes go on: `context.device.owner`.
                found |= !field.is_record();
                self.insert(field);
            }
        }
        if !found {
            self.insert_all();
        }
    }

    /// Adds what it takes to know whether there is something at `path`.
    fn insert_presence(&mut self, path: &[&str]) {
        let mut found = false;
        for (field, place) in Field::ALL {
            if path.starts_with(place) {
                found |= !field.is_record() || path == place;
                self.insert(field);
            }
        }
        if !found {
            self.insert_all();
        }
    }

    fn read(&mut self, expression: &Expr) {
        if let Some(path) = context_path(expression) {
            self.insert_value(&path);
            return;
        }
        match expression {
            Expr::HasAttr { expr, attrs } => match context_path(expr) {
                Some(mut path) => {
                    path.extend(attrs.iter().map(|name| name.as_str()));
                    self.insert_presence(&path);
                }
                None => self.read(expr),
            },
            // The device is the one entity that is there or not depending on the context.
            Expr::Literal(Literal::EntityUID(uid)) => {
                if uid.ty.0.id.as_str() == "Device" {
                    self.insert(Field::Device);
                }
            }
            Expr::Literal(_) | Expr::Var(Var::Principal | Var::Action | Var::Resource) => {}
            Expr::UnaryOp { expr, .. } | Expr::GetAttr { expr, .. } | Expr::Like { expr, .. } => {
                self.read(expr);
            }
            Expr::BinaryOp { left, right, .. } => {
                self.read(left);
                self.read(right);
            }
            Expr::Is { expr, in_expr, .. } => {
                self.read(expr);
                if let Some(ancestor) = in_expr {
                    self.read(ancestor);
                }
            }
            Expr::IfThenElse { cond, then_expr, else_expr } => {
                for part in [cond, then_expr, else_expr] {
                    self.read(part);
                }
            }
            Expr::Set(elements) => elements.iter().for_each(|element| self.read(element)),
            Expr::Record(fields) => fields.values().for_each(|value| self.read(value)),
            _ => self.insert_all(),
        }
    }
}

/// `["posture", "age"]` for `context.posture.age`; nothing for what is no path into the context.
fn context_path(expression: &Expr) -> Option<Vec<&str>> {
    match expression {
        Expr::Var(Var::Context) => Some(Vec::new()),
        Expr::GetAttr { expr, attr } => {
            let mut path = context_path(expr)?;
            path.push(attr);
            Some(path)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footprint(condition: &str) -> Vec<Field> {
        let text = format!("permit(principal, action, resource) when {{ {condition} }};");
        let policy = cedar_policy::Policy::parse(None, text).unwrap().to_pst().unwrap();
        let footprint = Footprint::of_policy(policy.body());
        Field::ALL
            .iter()
            .map(|(field, _)| *field)
            .filter(|field| footprint.contains(*field))
            .collect()
    }

    fn everything() -> Vec<Field> {
        Field::ALL.iter().map(|(field, _)| *field).collect()
    }

    #[test]
    fn a_policy_about_principal_and_resource_reads_nothing_of_the_context() {
        assert_eq!(footprint("principal has tenant && principal.tenant == resource.tenant"), []);
    }

    #[test]
    fn a_test_for_presence_reads_the_presence_alone() {
        assert_eq!(footprint("context has posture"), [Field::Posture]);
        assert_eq!(footprint("context has posture.age"), [Field::Posture, Field::PostureAge]);
        assert_eq!(footprint("context.segments has \"2\""), [Field::Segments, Field::Segment2]);
    }

    #[test]
    fn a_leaf_brings_the_record_that_it_is_in() {
        assert_eq!(footprint("context.posture.age < 5"), [Field::Posture, Field::PostureAge]);
        assert_eq!(
            footprint("context[\"segments\"][\"1\"] == \"a\" && context.method like \"G*\""),
            [Field::Method, Field::Segments, Field::Segment1]
        );
        assert_eq!(footprint("context.source.isInRange(ip(\"10.0.0.0/8\"))"), [Field::Source]);
        assert_eq!(footprint("context.device.owner == \"x\""), [Field::Device]);
    }

    #[test]
    fn the_context_or_a_record_as_a_whole_is_all_that_is_in_it() {
        assert_eq!(footprint("context == {}"), everything());
        assert_eq!(
            footprint("(if true then context else {\"host\": \"x\"}).host == \"x\""),
            everything()
        );
        assert_eq!(footprint("[context.posture].isEmpty()").len(), 10);
        assert_eq!(footprint("{\"a\": context.segments}.a.count == 1").len(), 10);
    }

    #[test]
    fn an_attribute_that_is_not_known_is_everything() {
        assert_eq!(footprint("context.risk > 5"), everything());
        assert_eq!(footprint("context has risk"), everything());
        assert_eq!(footprint("context.posture has colour"), everything());
    }

    #[test]
    fn a_device_named_in_a_policy_reads_the_device() {
        assert_eq!(
            footprint("Wicketgate::Device::\"laptop\" has owner || principal has name"),
            [Field::Device]
        );
    }
}
