//! Everything that the gate reads, written into the demo's folder: configuration, policies,
//! device registry and secrets.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::DemoError;
use super::authority::{Authority, DEVICE, write_private};
use super::legacy;
use super::provider::SECOND_FACTOR;
use crate::domain::clock::Timestamp;

/// The policies that are shipped, as they are.
const POLICIES: [(&str, &str); 5] = [
    ("wicketgate.cedarschema", include_str!("../../policies/wicketgate.cedarschema")),
    ("customer-portal.cedar", include_str!("../../policies/customer-portal.cedar")),
    ("ot-engineers.cedar", include_str!("../../policies/ot-engineers.cedar")),
    ("security-team.cedar", include_str!("../../policies/security-team.cedar")),
    ("vendor-access.cedar", include_str!("../../policies/vendor-access.cedar")),
];

/// The gate as a client of the provider.
pub const CLIENT_ID: &str = "wicketgate";

/// Where everything in the demo is reached.
#[derive(Clone, Debug)]
pub struct Addresses {
    pub gate: SocketAddr,
    pub admin: SocketAddr,
    pub issuer: String,
    pub portal: SocketAddr,
    pub ics: SocketAddr,
    pub legacy: SocketAddr,
    pub gate_host: SocketAddr,
}

/// What must not be seen.
#[derive(Clone)]
pub struct Secrets {
    pub client: String,
    pub legacy: String,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets { .. }")
    }
}

/// Writes it all below `folder`; returns the configuration file.
pub fn write(
    folder: &Path,
    authority: &Authority,
    at: &Addresses,
    secrets: &Secrets,
    now: Timestamp,
) -> Result<PathBuf, DemoError> {
    let policies = folder.join("policies");
    std::fs::create_dir(&policies)
        .map_err(|source| DemoError::Write { path: policies.clone(), source })?;
    for (name, text) in POLICIES {
        write_private(&policies.join(name), text.as_bytes())?;
    }
    write_private(&folder.join("client-secret"), secrets.client.as_bytes())?;
    write_private(&folder.join("legacy-password"), secrets.legacy.as_bytes())?;
    let registry = format!(
        "devices:
  - id: {DEVICE}
    certificate:
      common_name: {DEVICE}
    posture:
      observed_at: {now}
      managed: true
      disk_encrypted: true
      firewall: true
      endpoint_protection: true
      screen_lock: true
      os: linux
      patch_age_days: 3
"
    );
    write_private(&folder.join("devices.yaml"), registry.as_bytes())?;
    let path = folder.join("wicketgate.yaml");
    write_private(&path, yaml(authority, at).as_bytes())?;
    Ok(path)
}

fn yaml(authority: &Authority, at: &Addresses) -> String {
    // Files are named relative to the configuration file.
    let name = |path: &Path| path.file_name().unwrap_or_default().display().to_string();
    let mut text = format!(
        "# Written by `wicketgate demo`. The names and keys are those of a real site.
listeners:
  - name: demo
    address: {gate}
    tls:
      certificates:
        - certificate: {certificate}
          key: {key}
      client_ca: {device_ca}

admin:
  address: {admin}

identity_providers:
  - name: demo
    display_name: Demo Identity
    issuer: {issuer}
    client_id: {CLIENT_ID}
    client_secret: file:client-secret
    ca: {ca}
    scopes: [openid, profile, email, groups, tenant]
    step_up:
      - acr: {SECOND_FACTOR}
        amr: [mfa]

devices:
  registry: devices.yaml

session:
  idle_timeout: 30m
  absolute_lifetime: 10h

policies:
  directory: policies

applications:
  - name: customer-portal
    display_name: Customer portal
    zone: enterprise
  - name: ics-dashboard
    display_name: Pumping station
    zone: control
  - name: legacy
    display_name: Maintenance archive
    zone: enterprise
  - name: gate
    display_name: The gate itself
    zone: dmz

routes:
",
        gate = at.gate,
        admin = at.admin,
        issuer = at.issuer,
        certificate = name(&authority.certificate_file),
        key = name(&authority.key_file),
        device_ca = name(&authority.device_ca_file),
        ca = name(&authority.ca_file),
    );
    let mut route =
        |name: &str, host: &str, application: &str, upstream: SocketAddr, more: &str| {
            text.push_str(&format!(
                "  - name: {name}
    host: {host}.localhost
    application: {application}
    upstreams: [http://{upstream}]
{more}"
            ));
        };
    route("portal", "portal", "customer-portal", at.portal, "");
    for tenant in ["acme", "globex"] {
        let own = format!("    path: /{tenant}\n    tenant: {tenant}\n");
        route(&format!("portal-{tenant}"), "portal", "customer-portal", at.portal, &own);
    }
    route("ics", "ics", "ics-dashboard", at.ics, "");
    route("ics-pump", "ics", "ics-dashboard", at.ics, "    path: /pump\n");
    let credential = format!(
        "    credential:
      basic:
        username: {}
        password: file:legacy-password
",
        legacy::USERNAME
    );
    route("legacy", "legacy", "legacy", at.legacy, &credential);
    route("gate", "gate", "gate", at.gate_host, "");
    text.push_str(
        "
audit:
  directory: audit

store:
  path: store.redb
",
    );
    text
}
