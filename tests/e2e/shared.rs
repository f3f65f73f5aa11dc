//! Two gates, one store at a real server: what one ends is over at the other, and what goes wrong
//! with the store closes, never opens.

use serde_json::json;

use crate::access_tokens;
use crate::harness::gate::{mentions, route};
use crate::harness::pki::Identity;
use crate::harness::port::Port;
use crate::harness::redis::{Redis, Valve, Way};
use crate::harness::servers::{Echo, Heard};
use crate::harness::websocket::Socket;
use crate::harness::{Browser, Gate, Recorder, Setup, eventually, websocket};

/// A gate whose sessions are at this address.
fn setup(page: &Recorder, echo: &Echo, store: std::net::SocketAddr) -> Setup {
    Gate::setup()
        .route(route("app", "/", &page.url()))
        .route(route("ws", "/ws", &echo.url))
        .configure(move |config| {
            config["store"] = json!({
                "redis": { "url": format!("redis://{store}"), "timeout": "300ms" },
                "lease": "1s",
            });
        })
}

struct World {
    page: Recorder,
    echo: Echo,
    /// Dropped before the store.
    one: Gate,
    other: Gate,
    /// The way from `other` to the store.
    valve: Valve,
    store: Redis,
}

impl World {
    async fn start() -> Self {
        let (page, echo, store) =
            (Recorder::start().await, Echo::start().await, Redis::start().await);
        let valve = Valve::before(store.address()).await;
        let port = Port::reserve();
        let one = setup(&page, &echo, store.address()).provides_for(&port).start().await;
        let other = setup(&page, &echo, valve.address).at(port).signs_in_with(&one.provider);
        let other = other.start().await;
        Self { page, echo, one, other, valve, store }
    }

    /// The same person at the other gate.
    fn at_other(&self, browser: &Browser) -> Browser {
        at(&self.other, browser)
    }

    async fn open_socket(&mut self, browser: &Browser) -> Socket {
        let (socket, _) = websocket::open(browser, "/ws").await.unwrap();
        assert_eq!(self.echo.next().await, Heard::Opened);
        socket
    }

    /// Whom the upstream was last told about.
    fn user(&self) -> String {
        self.page.last().value("x-wicketgate-user").unwrap().to_owned()
    }
}

fn at(gate: &Gate, browser: &Browser) -> Browser {
    let mut there = gate.browser().as_program();
    there.set_session_cookie(&browser.session_cookie().unwrap());
    there
}

/// Asks until the answer has this status; all before it have the other.
async fn turns(browser: &mut Browser, from: u16, to: u16) {
    eventually(&format!("{to} after {from}"), async || {
        let answer = browser.get("/").await;
        assert!(answer.status == from || answer.status == to, "{answer:?} {}", answer.text());
        (answer.status == to).then_some(())
    })
    .await;
}

/// 503 with an id and a time to come back, and nothing of it reaches an upstream.
async fn refused(world: &World, browser: &mut Browser) {
    let before = world.page.requests().len();
    let answer = browser.get("/").await.expect(503);
    assert_eq!(answer.json()["type"], "urn:wicketgate:sessions-unavailable");
    assert!(answer.header("x-wicketgate-decision").is_some(), "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert_eq!(world.page.requests().len(), before);
}

#[tokio::test]
async fn a_login_at_one_gate_is_one_at_the_other_and_so_is_its_end() {
    let mut world = World::start().await;
    let mut browser = world.one.login("vera").await;
    let mut there = world.at_other(&browser);
    there.get("/").await.expect(200);
    assert_eq!(world.user(), "test/vera");
    let mut socket = world.open_socket(&there).await;
    let mut neighbour = world.other.login("otto").await;

    browser.sign_out().await;
    assert_eq!(websocket::closed(&mut socket).await, "the session has ended");
    assert_eq!(world.echo.next().await, Heard::Ended);
    there.get("/").await.expect(401);
    let cut = |record: &_| mentions(record, &["connection-cut", "test/vera"]);
    world.other.audited("the cut", cut).await;
    let ended = |record: &_| mentions(record, &["session-ended", "test/vera"]);
    world.one.audited("the end", ended).await;
    assert!(!world.other.audit().iter().any(ended), "who ended it has the record");
    neighbour.get("/").await.expect(200);
    assert!(world.other.metric("wicketgate_revocations_heard_total", "").await >= 1.0);
}

#[tokio::test]
async fn a_store_that_was_killed_gives_503_and_closes_what_is_open_until_it_is_back() {
    let mut world = World::start().await;
    let browser = world.one.login("vera").await;
    let (mut here, mut there) = (at(&world.one, &browser), world.at_other(&browser));
    there.get("/").await.expect(200);
    let mut socket = world.open_socket(&there).await;

    world.store.process.kill();
    assert_eq!(
        websocket::closed(&mut socket).await,
        "it can't be known whether the session has ended"
    );
    assert_eq!(world.echo.next().await, Heard::Ended);
    turns(&mut here, 200, 503).await;
    turns(&mut there, 200, 503).await;
    refused(&world, &mut here).await;
    refused(&world, &mut there).await;
    assert!(websocket::open(&there, "/ws").await.is_err());
    let mut stranger = world.one.browser().as_program();
    stranger.get("/").await.expect(401);
    assert!(world.one.metric("wicketgate_sessions_confirmed", "").await < 0.5);
    let fresh = world.one.browser();
    let callback = world.one.until_callback(&mut fresh.clone(), "otto", "/").await;
    fresh.clone().get(&callback).await;
    assert_eq!(fresh.session_cookie(), None, "nobody gets in meanwhile");

    world.store.again().await;
    turns(&mut here, 503, 200).await;
    turns(&mut there, 503, 200).await;
    assert_eq!(world.user(), "test/vera");
    eventually("a login", async || {
        let mut browser = world.one.browser();
        let callback = world.one.until_callback(&mut browser, "otto", "/").await;
        browser.get(&callback).await;
        browser.session_cookie()
    })
    .await;
    world.open_socket(&there).await;
}

#[tokio::test]
async fn a_store_that_stands_still_gives_503_and_is_used_again_when_it_goes_on() {
    let mut world = World::start().await;
    let browser = world.one.login("vera").await;
    let mut there = world.at_other(&browser);
    there.get("/").await.expect(200);
    let mut socket = world.open_socket(&there).await;
    world.store.process.signal("STOP");
    assert_eq!(
        websocket::closed(&mut socket).await,
        "it can't be known whether the session has ended"
    );
    turns(&mut there, 200, 503).await;
    refused(&world, &mut there).await;
    world.store.process.signal("CONT");
    turns(&mut there, 503, 200).await;
}

/// The other gate can't hear that the session ended. It doesn't need to.
#[tokio::test]
async fn a_gate_that_is_cut_off_serves_nobody_and_has_heard_everything_when_it_is_back() {
    for way in [Way::Stuck, Way::Cut] {
        let mut world = World::start().await;
        let mut browser = world.one.login("vera").await;
        let mut otto = world.one.login("otto").await;
        let (mut there, mut otto_there) = (world.at_other(&browser), world.at_other(&otto));
        there.get("/").await.expect(200);
        otto_there.get("/").await.expect(200);
        let mut socket = world.open_socket(&there).await;
        world.valve.set(way);
        browser.sign_out().await;
        assert_eq!(
            websocket::closed(&mut socket).await,
            "it can't be known whether the session has ended"
        );
        turns(&mut there, 200, 503).await;
        otto.get("/").await.expect(200);
        world.valve.set(Way::Open);
        turns(&mut there, 503, 401).await;
        turns(&mut otto_there, 503, 200).await;
    }
}

#[tokio::test]
async fn a_way_to_the_store_that_flaps_gives_the_right_answer_or_503() {
    let world = World::start().await;
    let users = [world.one.login("vera").await, world.one.login("otto").await];
    let mut there: Vec<Browser> = users.iter().map(|user| world.at_other(user)).collect();
    for round in 0..30 {
        world.valve.set([Way::Cut, Way::Open, Way::Stuck, Way::Open][round % 4]);
        for (browser, name) in there.iter_mut().zip(["test/vera", "test/otto"]) {
            let answer = browser.get("/").await;
            assert!(matches!(answer.status, 200 | 503), "{answer:?}");
            if answer.status == 200 {
                assert_eq!(world.user(), name);
            }
        }
    }
    world.valve.set(Way::Open);
    for browser in &mut there {
        turns(browser, 503, 200).await;
    }
}

#[tokio::test]
async fn a_store_that_was_emptied_ends_every_session_at_once() {
    let mut world = World::start().await;
    let browser = world.one.login("vera").await;
    let mut there = world.at_other(&browser);
    there.get("/").await.expect(200);
    let mut socket = world.open_socket(&there).await;
    world.store.ask(&["FLUSHALL"]);
    assert_eq!(websocket::closed(&mut socket).await, "the session has ended");
    there.get("/").await.expect(401);
    assert!(world.other.metric("wicketgate_revocation_gaps_total", "").await >= 1.0);
    world.other.login("vera").await.get("/").await.expect(200);
}

#[tokio::test]
async fn what_somebody_did_to_the_values_lets_nobody_in() {
    let mut world = World::start().await;
    let mut browser = world.one.login("vera").await;
    // Keys are binary, so they are named where they are found.
    let each = |change: &str| {
        let script = format!(
            "for _, key in ipairs(redis.call('KEYS', '{{wicketgate:sessions:*:k:*')) do {change} end"
        );
        world.store.ask(&["EVAL", &script, "0"]);
    };
    for change in [
        "redis.call('SET', key, 'garbage')",
        "redis.call('SET', key, '')",
        "redis.call('DEL', key) redis.call('LPUSH', key, 'a')",
    ] {
        each(change);
        let mut there = world.at_other(&browser);
        let answer = there.get("/").await;
        assert!(matches!(answer.status, 401 | 503), "{answer:?}");
    }
    // What the first gate has in memory is not asked for again; and it still can end it.
    browser.get("/").await.expect(200);
    world.one.process.kill();
    world.one.restart().await;
    let answer = at(&world.one, &browser).get("/").await.expect(503);
    assert_eq!(answer.json()["type"], "urn:wicketgate:sessions-unavailable");
}

#[tokio::test]
async fn a_gate_does_not_start_without_its_store_and_says_why() {
    let store = Redis::start().await;
    let (page, echo) = (Recorder::start().await, Echo::start().await);
    let mut gate = setup(&page, &echo, store.address()).start().await;
    gate.process.kill();
    drop(store);
    let output = gate.command(&["run"]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("can't be reached"), "{said}");
}

#[tokio::test]
async fn a_check_connects_to_the_store_when_it_is_asked_to() {
    let store = Redis::start().await;
    let (page, echo) = (Recorder::start().await, Echo::start().await);
    let gate = setup(&page, &echo, store.address()).start().await;
    let check = |connect: &[&str]| {
        let output = gate.command(&[&["check"], connect].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(check(&["--connect"]).0, Some(0));
    drop(store);
    assert_eq!(check(&[]).0, Some(0), "nobody asked");
    let (code, said) = check(&["--connect"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("store.redis") && said.contains("can't be reached"), "{said}");
}

/// Nobody can say whether their principals were suspended.
#[tokio::test]
async fn tokens_and_certificates_count_no_longer_than_the_store_is_heard() {
    let (page, mut echo) = (Recorder::start().await, Echo::start().await);
    let store = Redis::start().await;
    let valve = Valve::before(store.address()).await;
    let server = valve.address;
    let kinds = [("bearer", "/b"), ("certificate", "/c")];
    let mut setup = access_tokens::world(&page).policy("permit (principal, action, resource);");
    for (kind, path) in kinds {
        for (what, upstream) in [("page", page.url()), ("ws", echo.url.clone())] {
            let mut one = route(&format!("{kind}-{what}"), &format!("{path}/{what}"), &upstream);
            one["authentication"] = json!([kind]);
            setup = setup.route(one);
        }
    }
    let gate = setup
        .devices(|authority, folder| {
            authority.client("historian").write(folder, "historian");
            "devices: []\nservices:\n  - {id: historian, certificate: {common_name: historian}}\n"
                .to_owned()
        })
        .configure(move |config| {
            config["store"] = json!({
                "redis": { "url": format!("redis://{server}"), "timeout": "300ms" },
                "lease": "1s",
            });
        })
        .start()
        .await;
    let read = |end: &str| {
        std::fs::read_to_string(gate.folder().join(format!("historian.{end}"))).unwrap()
    };
    let historian = Identity { certificate: read("pem"), key: read("key") };
    let token = access_tokens::service_token(&gate, access_tokens::PORTAL).await;
    let by_token = access_tokens::with(gate.browser(), &token);
    let by_certificate = gate.browser_on(&historian).as_program();
    let mut open = Vec::new();
    for (browser, (_, path)) in [&by_token, &by_certificate].into_iter().zip(kinds) {
        open.push(websocket::open(browser, &format!("{path}/ws")).await.unwrap().0);
        assert_eq!(echo.next().await, Heard::Opened);
        browser.clone().get(&format!("{path}/page")).await.expect(200);
    }
    valve.set(Way::Cut);
    for mut socket in open {
        assert_eq!(
            websocket::closed(&mut socket).await,
            "it can't be known whether the session has ended"
        );
    }
    for (way, status) in [(None, 503), (Some(Way::Open), 200)] {
        way.into_iter().for_each(|way| valve.set(way));
        for (browser, (kind, path)) in [&by_token, &by_certificate].into_iter().zip(kinds) {
            let mut browser = browser.clone();
            eventually(&format!("{status} by {kind}"), async || {
                let answer = browser.get(&format!("{path}/page")).await;
                assert!(matches!(answer.status, 200 | 503), "{answer:?}");
                (answer.status == status).then_some(())
            })
            .await;
        }
    }
}

/// As after a fail-over to a replica that was behind, or a restored copy.
#[tokio::test]
async fn a_store_that_goes_back_in_time_lets_nobody_in_who_was_suspended() {
    let mut world = World::start().await;
    let mut otto = at(&world.one, &world.one.login("otto").await);
    let then = world.store.copy();
    let output = world.one.command(&["users", "suspend", "test/vera"]);
    assert!(output.status.success(), "{output:?}");
    let listed = |gate: &Gate| {
        let output = gate.command(&["users", "list"]);
        String::from_utf8_lossy(&output.stdout).contains("test/vera")
    };
    eventually("the other gate to know", async || {
        let mut browser = world.other.browser();
        let callback = world.other.until_callback(&mut browser, "vera", "/").await;
        (browser.get(&callback).await.status == 403).then_some(())
    })
    .await;
    world.store.process.kill();
    world.store.put_back(&then);
    world.store.again().await;
    eventually("it to be put back", async || listed(&world.one).then_some(())).await;
    turns(&mut otto, 503, 200).await;
    for gate in [&world.one, &world.other] {
        let mut browser = gate.browser();
        let callback = gate.until_callback(&mut browser, "vera", "/").await;
        browser.get(&callback).await.expect(403);
    }
}
