use std::sync::Arc;

use super::*;
use crate::domain::device::{Device, Posture};
use crate::domain::principal::PrincipalKind;

const HOSTILE: &str = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}}&amp;";
const ID: &str = "01KB5Q8GJ3ZC4S9T2XW7VY6MHD";

fn principal(text: &str) -> Principal {
    Principal {
        kind: PrincipalKind::User,
        id: format!("demo/{text}").into(),
        email: Some(text.into()),
        name: Some(text.into()),
        groups: [Arc::from(text), Arc::from("customers")].into(),
        tenant: Some(text.into()),
    }
}

/// Every page, with `text` wherever a text goes.
fn every_page(text: &str) -> Vec<(&'static str, String)> {
    let at = Timestamp::from_millis(1_795_298_770_123);
    let device = DeviceIdentity::Known(Arc::new(Device {
        id: text.into(),
        owner: None,
        posture: Some(Posture { managed: Some(true), ..Posture::unknown(at) }),
    }));
    let authentication =
        Authentication { amr: [Arc::from(text)].into(), ..Authentication::default() };
    let own = [false, true].map(|current| OwnSession {
        id: text.into(),
        current,
        started: at,
        last_seen: at,
        host: Some(text.into()),
        provider: text.into(),
    });
    vec![
        (
            "sign-in",
            SignIn { host: text, return_to: text, choices: &[Link { href: text, label: text }] }
                .render(),
        ),
        (
            "choice",
            SignIn { host: text, return_to: text, choices: &[Link { href: text, label: text }; 2] }
                .render(),
        ),
        (
            "kept-form",
            KeptForm {
                host: text,
                target: text,
                fields: &[text.to_owned()],
                bytes: 7,
                form: text,
                csrf: text,
            }
            .render(),
        ),
        (
            "denial",
            Denial {
                method: text,
                host: text,
                path: text,
                application: Some(text),
                principal: Some(text),
                why: text,
                policies: &[text, text],
                advice: &[text],
                sign_in: Some(text),
                decision_id: text,
                at,
            }
            .render(),
        ),
        (
            "error",
            ErrorPage {
                status: 502,
                host: Some(text),
                title: text,
                text,
                decision_id: Some(text),
                link: Some(Link { href: text, label: text }),
            }
            .render(),
        ),
        (
            "sign-out",
            SignOut {
                host: text,
                principal: text,
                csrf: text,
                return_to: None,
                others: 1,
                cancel: text,
            }
            .render(),
        ),
        (
            "signed-out",
            SignedOut { host: text, still_signed_in_at: Some(text), sign_in: text }.render(),
        ),
        (
            "me",
            Me {
                host: text,
                principal: &principal(text),
                authentication: &authentication,
                device: &device,
                provider: text,
                started: at,
                expires: at,
                sessions: &own,
                csrf: text,
            }
            .render(),
        ),
    ]
}

#[test]
fn hostile_text_stays_text_on_every_page() {
    for (name, page) in every_page(HOSTILE) {
        assert!(!page.contains("<script"), "{name}: {page}");
        assert!(!page.contains("<img src=x"), "{name}");
        assert!(page.contains("&#60;script&#62;"), "{name}: {page}");
        // Nothing leaves the attribute that it stands in.
        assert!(!page.contains("\"'>"), "{name}");
        assert!(page.contains("{{7*7}}"), "{name}");
    }
}

#[test]
fn every_page_satisfies_its_own_content_security_policy() {
    for (name, page) in every_page("plain") {
        for forbidden in ["<script", "<style", " style=", "<iframe", "<base", "javascript:", "://"]
        {
            assert!(!page.contains(forbidden), "{name} holds {forbidden}");
        }
        for tag in page.split('<').filter_map(|rest| rest.split('>').next()) {
            assert!(!tag.split(' ').any(|part| part.starts_with("on")), "{name}: <{tag}>");
        }
    }
}

#[test]
fn every_page_has_one_heading_landmarks_and_a_language() {
    for (name, page) in every_page("plain") {
        for needed in [
            "<html lang=\"en\">",
            "<main id=\"content\">",
            "<header",
            "<footer",
            "width=device-width",
        ] {
            assert!(page.contains(needed), "{name} lacks {needed}");
        }
        assert_eq!(page.matches("<h1").count(), 1, "{name}");
        assert!(page.contains(asset::STYLESHEET.path()), "{name}");
    }
}

#[test]
fn a_denial_says_what_why_and_which_decision() {
    let page = Denial {
        method: "GET",
        host: "portal.localhost",
        path: "/globex/orders",
        application: Some("Customer portal"),
        principal: Some("Ada Wong"),
        why: "No policy allows this.",
        policies: &["tenant-isolation"],
        advice: &[],
        sign_in: None,
        decision_id: ID,
        at: Timestamp::from_millis(1_795_298_770_123),
    }
    .render();
    for needed in [
        "GET portal.localhost<wbr>/globex/orders",
        "Customer portal",
        "Ada Wong",
        "No policy allows this.",
        "<code>tenant-isolation</code>",
        "2026-11-21 22:06 UTC",
        "wicketgate policy explain 01KB5Q8GJ3ZC4S9T2XW7VY6MHD",
        "<p class=\"id\"",
    ] {
        assert!(page.contains(needed), "{needed} is missing in {page}");
    }
}

#[test]
fn signing_out_takes_a_form_with_the_csrf_token() {
    for (name, page) in every_page("token-1") {
        if name == "sign-out" || name == "me" {
            let form = "<form method=\"post\" action=\"/.wicketgate/logout?csrf=token-1\">";
            assert!(page.contains(form), "{name}");
        }
    }
}

#[test]
fn the_sign_out_form_carries_on_where_to_go() {
    let to = Some("https://a.example/?x=1&y=\"><b>");
    let page = |others| {
        let (host, principal, csrf, cancel) = ("h", "p", "t", "/");
        SignOut { host, principal, csrf, return_to: to, others, cancel }.render()
    };
    let query = "?csrf=t&amp;return_to=https%3A%2F%2Fa.example%2F%3Fx%3D1%26y%3D%22%3E%3Cb%3E\">";
    let (here, everywhere) = ("/.wicketgate/logout", "/.wicketgate/me/end-all");
    for others in 0..3 {
        let page = page(others);
        assert!(page.contains(&format!("{here}{query}")), "{page}");
        assert_eq!(page.contains(&format!("{everywhere}{query}")), others > 0, "{page}");
    }
    assert!(page(1).contains("1 other session<") && page(2).contains("2 other sessions<"));
}

#[test]
fn a_framed_page_is_for_these_origins_only() {
    let policy = framed_by(&["https://a.example".to_owned(), "https://b.example".to_owned()]);
    assert!(policy.ends_with("frame-ancestors https://a.example https://b.example"), "{policy}");
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
}

#[test]
fn the_sign_out_form_may_lead_to_the_provider_and_nowhere_else() {
    let policy = sign_out_policy(Some("https://login.localhost:4433/end?x=1;script-src *"));
    assert!(
        policy.contains("form-action 'self' https://login.localhost:4433; base-uri"),
        "{policy}"
    );
    assert!(!policy.contains("script-src"));
    let both = sign_out_policy(["https://a.example/end", "https://b.example:8443/bye"]);
    assert!(
        both.contains("form-action 'self' https://a.example https://b.example:8443;"),
        "{both}"
    );
    for none in [None, Some("javascript:alert(1)"), Some("not an address"), Some("data:,x")] {
        assert_eq!(sign_out_policy(none), CONTENT_SECURITY_POLICY, "{none:?}");
    }
}

#[test]
fn every_error_status_has_words_of_its_own() {
    let mut seen = std::collections::BTreeSet::new();
    for status in [400, 401, 404, 405, 408, 413, 421, 429, 431, 502, 503, 504] {
        let page = ErrorPage::of_status(status, None, Some(ID));
        assert!(seen.insert(page.title), "{status}");
        assert!(page.render().contains(ID));
    }
}

/// Set `WICKETGATE_PAGES` to a folder to get the pages there and look at them in a browser.
#[test]
fn every_asset_that_a_page_names_exists() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = std::env::var_os("WICKETGATE_PAGES")
        .map_or_else(|| temporary.path().to_owned(), std::path::PathBuf::from);
    sample::write(&folder);
    for entry in std::fs::read_dir(&folder).unwrap() {
        let page = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for quoted in
            page.split('"').filter(|text| text.ends_with(".css") || text.ends_with(".svg"))
        {
            assert!(folder.join(quoted).is_file(), "{quoted}");
        }
    }
}

/// WCAG 2.2, success criterion 1.4.3: 4.5 to 1 for text.
#[test]
fn text_stands_out_from_its_ground_in_both_schemes() {
    let style = std::str::from_utf8(asset(asset::STYLESHEET.path()).unwrap().1).unwrap();
    let mut schemes = style.split(":root {").skip(1);
    for scheme in [schemes.next().unwrap(), schemes.next().unwrap()] {
        let luminance = |name: &str| {
            let at = scheme.find(&format!("--{name}: #")).unwrap() + name.len() + 5;
            let channel = |index: usize| {
                let from = at + 2 * index;
                let value =
                    f64::from(u8::from_str_radix(scheme.get(from..from + 2).unwrap(), 16).unwrap());
                let value = value / 255.0;
                if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
            };
            0.2126 * channel(0) + 0.7152 * channel(1) + 0.0722 * channel(2)
        };
        for (text, ground) in [
            ("ink", "paper"),
            ("ink", "card"),
            ("ink", "well"),
            ("soft", "paper"),
            ("soft", "card"),
            ("stone", "card"),
            ("stone-ink", "stone"),
            ("lamp", "card"),
            ("stop", "card"),
        ] {
            let (one, other) = (luminance(text), luminance(ground));
            let ratio = (one.max(other) + 0.05) / (one.min(other) + 0.05);
            assert!(ratio >= 4.5, "{text} on {ground}: {ratio:.2}");
        }
    }
}

mod sample;
