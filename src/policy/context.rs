//! The part of a request that the policies are shown: key of the memory and context of the
//! evaluation in one value, so that neither can hold what the other lacks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cedar_policy::{Context, Entity, RestrictedExpression};

use super::entities::{Names, TranslationError};
use super::footprint::{Field, Footprint};
use crate::domain::canonical::path_segments;
use crate::domain::clock::Timestamp;
use crate::domain::query::AccessQuery;

/// The values of those fields of a footprint that the query has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Projection(Vec<(Field, Value)>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Value {
    Present,
    Text(Arc<str>),
    Texts(Box<[Arc<str>]>),
    Number(i64),
    Flag(bool),
    Address(IpAddr),
    Instant(Timestamp),
    Device { id: Arc<str>, owner: Option<Arc<str>> },
}

/// How far a clock elsewhere may run ahead of ours.
const LEEWAY: Duration = Duration::from_secs(300);

/// Whole seconds from `earlier` to `now`. What claims to be from further in the future than
/// clocks differ is as old as can be: it must not look fresh for as long as it lies ahead.
fn age(now: Timestamp, earlier: Timestamp) -> i64 {
    if earlier > now.plus(LEEWAY) {
        return i64::MAX;
    }
    i64::try_from(now.since(earlier).as_secs()).unwrap_or(i64::MAX)
}

impl Projection {
    pub(super) fn new(footprint: Footprint, query: &AccessQuery) -> Self {
        if footprint == Footprint::default() {
            return Self(Vec::new());
        }
        let fields = Field::ALL.iter().filter(|(field, _)| footprint.contains(*field));
        let mut values = Vec::with_capacity(footprint.len());
        values.extend(
            fields.filter_map(|(field, _)| value_of(*field, query).map(|value| (*field, value))),
        );
        Self(values)
    }

    /// How much text there is, in bytes.
    pub(super) fn text_len(&self) -> usize {
        let length = |value: &Value| match value {
            Value::Text(text) => text.len(),
            Value::Texts(texts) => texts.iter().map(|text| text.len()).sum(),
            Value::Device { id, owner } => id.len() + owner.as_ref().map_or(0, |id| id.len()),
            _ => 0,
        };
        self.0.iter().map(|(_, value)| length(value)).sum()
    }

    /// The device, where the policies may see it and there is one.
    pub(super) fn device_entity(&self, names: &Names) -> Result<Option<Entity>, TranslationError> {
        for (_, value) in &self.0 {
            if let Value::Device { id, owner } = value {
                return names.device_entity(id, owner.as_deref()).map(Some);
            }
        }
        Ok(None)
    }

    pub(super) fn context(&self, names: &Names) -> Result<Context, TranslationError> {
        let mut top = Vec::with_capacity(self.0.len());
        let mut records: HashMap<&str, Vec<(String, RestrictedExpression)>> = HashMap::new();
        for (field, value) in &self.0 {
            let place = Field::ALL.iter().find(|(one, _)| one == field).map(|(_, place)| *place);
            match (place, value.expression(names)) {
                (Some([record]), None) => {
                    records.entry(record).or_default();
                }
                (Some([name]), Some(expression)) => top.push(((*name).to_owned(), expression)),
                (Some([record, name]), Some(expression)) => {
                    records.entry(record).or_default().push(((*name).to_owned(), expression));
                }
                _ => return Err(TranslationError::context(&"a field has no place")),
            }
        }
        for (name, fields) in records {
            let record = RestrictedExpression::new_record(fields)
                .map_err(|error| TranslationError::context(&error))?;
            top.push((name.to_owned(), record));
        }
        Context::from_pairs(top).map_err(|error| TranslationError::context(&error))
    }
}

impl Value {
    /// None for a record's presence, which is shown by the record.
    fn expression(&self, names: &Names) -> Option<RestrictedExpression> {
        let text = |text: &Arc<str>| RestrictedExpression::new_string(text.as_ref().to_owned());
        Some(match self {
            Self::Present => return None,
            Self::Text(value) => text(value),
            Self::Texts(values) => RestrictedExpression::new_set(values.iter().map(text)),
            Self::Number(number) => RestrictedExpression::new_long(*number),
            Self::Flag(flag) => RestrictedExpression::new_bool(*flag),
            Self::Address(address) => RestrictedExpression::new_ip(address.to_string()),
            Self::Instant(instant) => RestrictedExpression::new_datetime(instant.to_string()),
            Self::Device { id, .. } => RestrictedExpression::new_entity_uid(names.device(id)),
        })
    }
}

fn value_of(field: Field, query: &AccessQuery) -> Option<Value> {
    let context = &query.context;
    let authentication = &query.authentication;
    let posture = context.device.as_ref().and_then(|device| device.posture.as_ref());
    let text = |text: &Option<Arc<str>>| text.clone().map(Value::Text);
    let flag = |flag: Option<bool>| flag.map(Value::Flag);
    let segment = |index: usize| {
        path_segments(&context.path).nth(index).map(|segment| Value::Text(segment.into()))
    };
    let since = |earlier: Option<Timestamp>| {
        earlier.map(|earlier| Value::Number(age(context.time, earlier)))
    };
    match field {
        Field::Host => Some(Value::Text(Arc::clone(&context.host))),
        Field::Path => Some(Value::Text(Arc::clone(&context.path))),
        Field::Method => Some(Value::Text(Arc::clone(&context.method))),
        // One address, one spelling: `::ffff:10.0.0.1` is in `10.0.0.0/8`.
        Field::Source => Some(Value::Address(context.source.to_canonical())),
        Field::Time => Some(Value::Instant(context.time)),
        Field::Acr => text(&authentication.acr),
        Field::Amr => (!authentication.amr.is_empty())
            .then(|| Value::Texts(authentication.amr.iter().cloned().collect())),
        Field::AuthAge => since(authentication.auth_time),
        Field::SessionAge => since(authentication.session_started),
        Field::Scopes => (!authentication.scopes.is_empty())
            .then(|| Value::Texts(authentication.scopes.iter().cloned().collect())),
        Field::Client => text(&authentication.client),
        Field::Device => context.device.as_ref().map(|device| Value::Device {
            id: Arc::clone(&device.id),
            owner: device.owner.clone(),
        }),
        Field::Segments => Some(Value::Present),
        Field::SegmentCount => {
            let count = path_segments(&context.path).count();
            Some(Value::Number(i64::try_from(count).unwrap_or(i64::MAX)))
        }
        Field::Segment1 => segment(0),
        Field::Segment2 => segment(1),
        Field::Segment3 => segment(2),
        Field::Segment4 => segment(3),
        Field::Segment5 => segment(4),
        Field::Segment6 => segment(5),
        Field::Segment7 => segment(6),
        Field::Segment8 => segment(7),
        Field::Posture => posture.map(|_| Value::Present),
        Field::PostureAge => {
            posture.map(|posture| Value::Number(age(context.time, posture.observed_at)))
        }
        Field::Managed => flag(posture?.managed),
        Field::DiskEncrypted => flag(posture?.disk_encrypted),
        Field::Firewall => flag(posture?.firewall),
        Field::EndpointProtection => flag(posture?.endpoint_protection),
        Field::ScreenLock => flag(posture?.screen_lock),
        Field::Os => text(&posture?.os),
        Field::OsVersion => text(&posture?.os_version),
        Field::PatchAgeDays => posture?.patch_age_days.map(Value::Number),
    }
}
