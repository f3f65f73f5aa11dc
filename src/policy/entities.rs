//! Principals, resources and devices as Cedar entities.

use std::collections::{HashMap, HashSet};
use std::str::FromStr as _;
use std::sync::Arc;

use cedar_policy::{Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};

use crate::domain::principal::{Principal, PrincipalKind};
use crate::domain::query::{Action, Resource};

/// Why a query could not be put to the policies. It denies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TranslationError {
    #[error("the principal, route or device can't be made an entity: {0}")]
    Entity(Arc<str>),
    #[error("the context can't be made: {0}")]
    Context(Arc<str>),
}

impl TranslationError {
    pub(super) fn entity(error: &impl ToString) -> Self {
        Self::Entity(error.to_string().into())
    }

    pub(super) fn context(error: &impl ToString) -> Self {
        Self::Context(error.to_string().into())
    }
}

/// The type names of the schema's namespace, parsed once.
#[derive(Clone, Debug)]
pub(super) struct Names {
    user: EntityTypeName,
    service: EntityTypeName,
    group: EntityTypeName,
    tenant: EntityTypeName,
    device: EntityTypeName,
    route: EntityTypeName,
    application: EntityTypeName,
    zone: EntityTypeName,
    action: EntityTypeName,
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

impl Names {
    pub(super) fn new() -> Result<Self, TranslationError> {
        let name = |short: &str| {
            EntityTypeName::from_str(&format!("Wicketgate::{short}"))
                .map_err(|error| TranslationError::entity(&error))
        };
        Ok(Self {
            user: name("User")?,
            service: name("Service")?,
            group: name("Group")?,
            tenant: name("Tenant")?,
            device: name("Device")?,
            route: name("Route")?,
            application: name("Application")?,
            zone: name("Zone")?,
            action: name("Action")?,
        })
    }

    pub(super) fn principal(&self, principal: &Principal) -> EntityUid {
        let kind = match principal.kind {
            PrincipalKind::User => &self.user,
            PrincipalKind::Service => &self.service,
        };
        uid(kind, &principal.id)
    }

    pub(super) fn action(&self, action: Action) -> EntityUid {
        uid(&self.action, action.name())
    }

    pub(super) fn resource(&self, resource: &Resource) -> EntityUid {
        uid(&self.route, &resource.route)
    }

    pub(super) fn device(&self, id: &str) -> EntityUid {
        uid(&self.device, id)
    }

    /// The principal, its groups and its tenant.
    pub(super) fn principal_entities(
        &self,
        principal: &Principal,
    ) -> Result<Vec<Entity>, TranslationError> {
        let mut attributes = HashMap::new();
        let mut parents: HashSet<EntityUid> =
            principal.groups.iter().map(|group| uid(&self.group, group)).collect();
        let texts = [("email", &principal.email), ("name", &principal.name)];
        for (key, text) in texts {
            if let Some(text) = text {
                attributes.insert(key.to_owned(), string(text));
            }
        }
        if let Some(tenant) = &principal.tenant {
            let tenant = uid(&self.tenant, tenant);
            attributes
                .insert("tenant".to_owned(), RestrictedExpression::new_entity_uid(tenant.clone()));
            parents.insert(tenant);
        }
        let mut entities: Vec<Entity> = parents.iter().cloned().map(Entity::with_uid).collect();
        entities.push(entity(self.principal(principal), attributes, parents)?);
        Ok(entities)
    }

    /// The route, its application and zone, and the tenant that owns it.
    pub(super) fn resource_entities(
        &self,
        resource: &Resource,
    ) -> Result<Vec<Entity>, TranslationError> {
        let application = uid(&self.application, &resource.application);
        let mut entities = Vec::new();
        let mut attributes = HashMap::from([(
            "application".to_owned(),
            RestrictedExpression::new_entity_uid(application.clone()),
        )]);
        let zones: HashSet<EntityUid> =
            resource.zone.iter().map(|zone| uid(&self.zone, zone)).collect();
        entities.extend(zones.iter().cloned().map(Entity::with_uid));
        if let Some(tenant) = &resource.tenant {
            let tenant = uid(&self.tenant, tenant);
            entities.push(Entity::with_uid(tenant.clone()));
            attributes.insert("tenant".to_owned(), RestrictedExpression::new_entity_uid(tenant));
        }
        entities.push(Entity::new_no_attrs(application.clone(), zones));
        entities.push(entity(self.resource(resource), attributes, HashSet::from([application]))?);
        Ok(entities)
    }

    pub(super) fn device_entity(
        &self,
        id: &str,
        owner: Option<&str>,
    ) -> Result<Entity, TranslationError> {
        let mut attributes = HashMap::from([("id".to_owned(), string(id))]);
        if let Some(owner) = owner {
            attributes.insert("owner".to_owned(), string(owner));
        }
        entity(self.device(id), attributes, HashSet::new())
    }
}

fn entity(
    uid: EntityUid,
    attributes: HashMap<String, RestrictedExpression>,
    parents: HashSet<EntityUid>,
) -> Result<Entity, TranslationError> {
    Entity::new(uid, attributes, parents).map_err(|error| TranslationError::entity(&error))
}

fn string(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}
