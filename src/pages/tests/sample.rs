//! The pages as a person would meet them.

use std::path::Path;

use super::*;

pub(super) fn write(folder: &Path) {
    let at = Timestamp::from_millis(1_795_298_770_123);
    let ada = Principal {
        kind: PrincipalKind::User,
        id: "demo/ada".into(),
        email: Some("ada@acme.example".into()),
        name: Some("Ada Wong".into()),
        groups: [Arc::from("customers")].into(),
        tenant: Some("acme".into()),
    };
    let authentication =
        Authentication { amr: ["pwd".into(), "otp".into()].into(), ..Authentication::default() };
    let host = "portal.localhost:8443";
    let own = [
        ("portal.localhost:8443", 0_u64, true),
        ("scada.localhost:8443", 3600, false),
        ("portal.localhost:8443", 86_400, false),
    ]
    .map(|(host, ago, current)| OwnSession {
        id: "0123456789abcdef".into(),
        current,
        started: at.minus(std::time::Duration::from_secs(ago)),
        last_seen: at.minus(std::time::Duration::from_secs(ago / 2)),
        host: Some(host.into()),
        provider: "Demo Identity".into(),
    });
    let pages = [
        (
            "sign-in",
            SignIn {
                host,
                return_to: "/acme/orders?year=2026",
                choices: &[Link { href: "/.wicketgate/login?start", label: "Demo Identity" }],
            }
            .render(),
        ),
        (
            "choice",
            SignIn {
                host,
                return_to: "/acme/orders?year=2026",
                choices: &["Acme Corporation", "Globex", "Plant staff"]
                    .map(|label| Link { href: "/.wicketgate/login?start", label }),
            }
            .render(),
        ),
        (
            "denial",
            Denial {
                method: "GET",
                host,
                path: "/globex/orders",
                application: Some("Customer portal"),
                principal: Some("Ada Wong"),
                why: "No policy allows this. What you asked for belongs to the customer globex, and you are signed in for acme.",
                policies: &["tenant-isolation"],
                advice: &["Use the pages of your own organisation."],
                sign_in: None,
                decision_id: ID,
                at,
            }
            .render(),
        ),
        ("error-404", ErrorPage::of_status(404, Some(host), Some(ID)).render()),
        ("error-502", ErrorPage::of_status(502, Some(host), Some(ID)).render()),
        (
            "error-login",
            ErrorPage {
                status: 400,
                host: Some(host),
                title: "Sign-in did not work",
                text: "The answer of Demo Identity belongs to another sign-in than the one begun in this browser. Nothing was changed.",
                decision_id: Some(ID),
                link: Some(Link { href: "/.wicketgate/login", label: "Try again" }),
            }
            .render(),
        ),
        (
            "sign-out",
            SignOut {
                host,
                principal: "Ada Wong",
                csrf: "t",
                return_to: None,
                others: 2,
                cancel: "/",
            }
            .render(),
        ),
        (
            "signed-out",
            SignedOut { host, still_signed_in_at: Some("Demo Identity"), sign_in: "/" }.render(),
        ),
        (
            "me",
            Me {
                host,
                principal: &ada,
                authentication: &authentication,
                device: &DeviceIdentity::NotPresented,
                provider: "Demo Identity",
                started: at,
                expires: at.plus(std::time::Duration::from_secs(36_000)),
                sessions: &own,
                csrf: "t",
            }
            .render(),
        ),
    ];
    std::fs::create_dir_all(folder).unwrap();
    for (name, page) in pages {
        let local = page.replace(asset::PREFIX, "");
        std::fs::write(folder.join(format!("{name}.html")), local).unwrap();
    }
    for path in [asset::STYLESHEET.path(), asset::EMBLEM.path()] {
        let (_, bytes) = asset(path).unwrap();
        std::fs::write(folder.join(path.trim_start_matches(asset::PREFIX)), bytes).unwrap();
    }
}
