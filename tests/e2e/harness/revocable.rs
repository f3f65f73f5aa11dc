//! A client's certificate that is taken back while the gate runs.

use std::fs;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::json;

use super::gate::{Gate, Setup};
use super::pki::Identity;

/// In the gate's folder, beside the registry of devices.
pub const LIST: &str = "revoked.pem";

impl Setup {
    /// The list of what the device CA has taken back is [`LIST`], which whoever writes the registry
    /// has to write, too.
    #[must_use]
    pub fn heeds_revocations(self) -> Self {
        self.configure(|config| {
            let list = config["devices"]["registry"].as_str().unwrap();
            let list = list.replace("devices.yaml", LIST);
            config["listeners"][0]["tls"]["client_crl"] = json!(list);
        })
    }

    /// There is a client's certificate of this name, which stands for nobody, and nothing is taken
    /// back.
    #[must_use]
    pub fn revocable_client(self, name: &'static str) -> Self {
        let setup = self.devices(move |authority, folder| {
            authority.client(name).write(folder, name);
            fs::write(folder.join(LIST), authority.revoke(&[], 2099)).unwrap();
            "devices: []\n".to_owned()
        });
        setup.heeds_revocations()
    }
}

impl Gate {
    /// A client's certificate that the setup has written to the gate's folder.
    pub fn client(&self, name: &str) -> Identity {
        let read =
            |end: &str| fs::read_to_string(self.folder().join(format!("{name}.{end}"))).unwrap();
        Identity { certificate: read("pem"), key: read("key") }
    }

    /// Takes a certificate back; the gate is left to notice by itself.
    pub fn revoke(&self, identity: &Identity) {
        let fresh = self.folder().join("revoked.new");
        fs::write(&fresh, self.device_authority.revoke(&[identity], 2099)).unwrap();
        fs::rename(&fresh, self.folder().join(LIST)).unwrap();
    }
}

impl Identity {
    /// What a token that is bound to the certificate holds (`x5t#S256`, RFC 8705, section 3.1).
    pub fn thumbprint(&self) -> String {
        let der = self.chain().remove(0);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
        BASE64_URL_SAFE_NO_PAD.encode(digest)
    }
}
