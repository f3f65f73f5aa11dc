//! The units and the configuration that the package installs. The package itself is tried by
//! `packaging/test`, which takes minutes and needs root.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::pki::{Authority, write_secret};
use crate::harness::{binary, not_checked};

/// Exposure of the service as `systemd-analyze security` counts it, in tenths: 15 is 1.5 of 10.
/// What is left is what the gate is for (the network, a port below 1024) or a site's own choice
/// (which addresses it may reach); 0.2 is that a thread may lower its priority, which a reload does.
const EXPOSURE: &str = "15";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_service_is_as_confined_as_a_network_service_gets() {
    let units = root().join("systemd");
    let analyze = |arguments: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        command.args(arguments).env("SYSTEMD_LOG_LEVEL", "warning").output()
    };
    let unit = units.join("wicketgate.service");
    let threshold = format!("--threshold={EXPOSURE}");
    let arguments = ["security", "--offline=true", "--no-pager", &threshold];
    let Ok(output) = analyze(&[&arguments[..], &[unit.to_str().unwrap()]].concat()) else {
        not_checked("the units: systemd-analyze is not installed (package systemd)");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));

    // Every line of the units is understood. The program must be there for that.
    let folder = tempfile::tempdir().unwrap();
    for name in ["wicketgate.service", "wicketgate.socket"] {
        let text = fs::read_to_string(units.join(name)).unwrap();
        let text = text.replace("/usr/bin/wicketgate", binary().to_str().unwrap());
        fs::write(folder.path().join(name), text).unwrap();
        let path = folder.path().join(name);
        let output = analyze(&["verify", "--man=no", path.to_str().unwrap()]).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains(name), "{name}: {said}");
    }
}

#[test]
fn the_packaged_configuration_is_good_once_its_secrets_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let etc = folder.path();
    let authority = Authority::new("Test CA");
    let (certificate, key) = authority.server(&["portal.example.com"]).write(etc, "portal");
    write_secret(&etc.join("secrets_oidc-client-secret"), "secret");
    fs::create_dir(etc.join("tls")).unwrap();
    fs::rename(certificate, etc.join("tls/portal.crt")).unwrap();
    fs::rename(key, etc.join("tls/portal.key")).unwrap();
    // As systemd gives it, and as the configuration says: readable, and for nobody else.
    for (name, mode) in [
        ("secrets_oidc-client-secret", 0o440),
        ("tls/portal.crt", 0o640),
        ("tls/portal.key", 0o640),
    ] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(etc.join(name), mode).unwrap();
    }
    fs::create_dir(etc.join("policies")).unwrap();
    for entry in fs::read_dir(root().join("policies")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, etc.join("policies").join(path.file_name().unwrap())).unwrap();
        }
    }
    let text = fs::read_to_string(root().join("packaging/wicketgate.yaml")).unwrap();
    let credentials = "/run/credentials/wicketgate.service";
    let file = etc.join("wicketgate.yaml");
    fs::write(&file, text.replace(credentials, etc.to_str().unwrap())).unwrap();
    let output = Command::new(binary()).args(["check", "--config"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn the_service_loads_what_the_packaged_configuration_refers_to() {
    let unit = fs::read_to_string(root().join("systemd/wicketgate.service")).unwrap();
    let text = fs::read_to_string(root().join("packaging/wicketgate.yaml")).unwrap();
    let mut found = 0;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((_, name)) = line.split_once("/run/credentials/wicketgate.service/") else {
            continue;
        };
        let (folder, _) = name.split_once('_').unwrap();
        assert!(
            unit.contains(&format!("LoadCredential={folder}:/etc/wicketgate/{folder}")),
            "{name}"
        );
        found += 1;
    }
    assert_eq!(found, 1);
}

/// As a credential it would be a copy of what it was when the service started.
#[test]
fn a_certificate_of_the_package_is_read_where_it_is_renewed() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let text = read("packaging/wicketgate.yaml");
    for key in ["certificate: tls/portal.crt\n", "key: tls/portal.key\n"] {
        assert!(text.contains(key), "{key}");
    }
    let unit = read("systemd/wicketgate.service");
    let group = unit.lines().find_map(|line| line.strip_prefix("Group=")).unwrap();
    let folder = format!("install -d -m 2750 -g {group} /etc/wicketgate/tls\n");
    let script = read("packaging/debian/postinst");
    assert!(script.contains(&format!("groupadd --system {group}\n")) && script.contains(&folder));
    assert!(text.contains(&format!("install -m 640 -g {group} ")), "people are told so");
}

#[test]
fn every_policy_of_the_package_is_a_conffile() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    for entry in fs::read_dir(root().join("policies")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".cedar") || name.ends_with(".cedarschema") {
            assert!(manifest.contains(&format!("\"/etc/wicketgate/policies/{name}\"")), "{name}");
        }
    }
}

/// Every link to a file of the repository leads to a file of the package, too.
#[test]
fn the_packages_documents_have_no_dead_links() {
    const DOC: &str = "usr/share/doc/wicketgate/";
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, assets) = manifest.split_once("\nassets = [\n").unwrap();
    let (assets, _) = assets.split_once("\n]\n").unwrap();
    // Where in the repository each of the package's documents is from.
    let mut packaged = std::collections::BTreeMap::new();
    for line in assets.lines() {
        let parts: Vec<&str> = line.split('"').collect();
        let [_, source, _, folder, ..] = parts[..] else { continue };
        let Some(folder) = folder.strip_prefix(DOC) else { continue };
        let (parent, pattern) = source.rsplit_once('/').unwrap_or((".", source));
        for entry in fs::read_dir(root().join(parent)).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let fits = match pattern.split_once('*') {
                Some((start, end)) => name.starts_with(start) && name.ends_with(end),
                None => name == pattern,
            };
            if fits && entry.path().is_file() {
                packaged.insert(Path::new(folder).join(&name), entry.path());
            }
        }
    }
    let mut links = 0;
    for (own, source) in packaged.iter().filter(|(own, _)| own.extension() == Some("md".as_ref())) {
        let text = fs::read_to_string(source).unwrap();
        for link in text.split("](").skip(1).map(|rest| rest.split([')', '#']).next().unwrap()) {
            if link.is_empty() || link.contains("://") {
                continue;
            }
            let mut target = own.parent().unwrap().to_owned();
            for part in Path::new(link).components() {
                match part {
                    std::path::Component::ParentDir => assert!(target.pop(), "{own:?}: {link}"),
                    part => target.push(part),
                }
            }
            assert!(packaged.contains_key(&target), "{own:?} links to {link}");
            links += 1;
        }
    }
    assert!(links > 20, "{links} links");
}
