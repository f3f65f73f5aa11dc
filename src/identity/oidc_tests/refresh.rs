//! The provider is asked about a user again.

use super::*;
use crate::domain::principal::Principal;
use crate::identity::id_token;
use crate::identity::refresh::{Before, RefreshError, Renewed, Renews};
use crate::identity::sign_ins;

/// A user who has signed in, as the session knows them.
struct Signed {
    login: Login,
    token: Secret,
    nonce: Option<String>,
}

async fn signed_in(world: &World) -> Signed {
    world.tokens(200, |tokens| {
        tokens["refresh_token"] = "r-0".into();
        tokens["expires_in"] = 60.into();
    });
    world.claims(|claims| claims["auth_time"] = 7.into());
    let login = world.login().await.unwrap();
    let refresh = login.refresh.as_ref().unwrap();
    assert_eq!((refresh.token.expose(), refresh.lifetime), ("r-0", Some(Duration::from_secs(60))));
    assert!(!format!("{login:?}").contains("r-0"));
    let nonce = login.id_token.as_ref().and_then(|token| id_token::nonce(token.expose()));
    Signed { token: Secret::new(refresh.token.expose()), nonce, login }
}

impl World {
    fn tokens(&self, status: u16, change: impl Fn(&mut Value) + Send + 'static) {
        self.script.lock().tokens = Some((status, Box::new(change)));
    }

    async fn refresh(&self, signed: &Signed) -> Result<Renewed, RefreshError> {
        let Signed { login, token, nonce } = signed;
        let before = Before {
            token,
            principal: &login.principal,
            subject: login.subject.as_deref(),
            sid: login.sid.as_deref(),
            auth_time: login.authentication.auth_time,
            nonce: nonce.as_deref(),
            id_token: login.id_token.as_ref(),
        };
        self.provider.renew(&before, self.provider.place().await?).await
    }
}

fn groups(principal: &Principal) -> Vec<&str> {
    principal.groups.iter().map(|group| &**group).collect()
}

#[tokio::test]
async fn a_refresh_tells_who_the_user_is_now() {
    let world = World::with(|config| {
        config.client =
            ClientAuthentication::Secret { secret: Secret::new("s3cret"), method: None };
        config.parameters = vec![("resource".into(), "https://orders.example".into())];
    })
    .await;
    let signed = signed_in(&world).await;
    world.tokens(200, |tokens| tokens["refresh_token"] = "r-1".into());
    for (nonce, acr) in [(json!(null), json!(null)), (json!(signed.nonce), json!("other"))] {
        world.claims(move |claims| {
            claims["groups"] = json!(["staff"]);
            claims["tenant"] = json!("globex");
            claims["auth_time"] = json!(7);
            claims["nonce"] = nonce.clone();
            claims["acr"] = acr.clone();
        });
        let renewed = world.refresh(&signed).await.unwrap();
        assert_eq!(groups(&renewed.principal), ["staff"]);
        assert_eq!(renewed.principal.tenant.as_deref(), Some("globex"));
        assert_eq!(renewed.token.unwrap().expose(), "r-1");
        assert!(renewed.id_token.is_some() && renewed.lifetime.is_none());
    }
    let asked = world.script.lock().asked.clone();
    assert!(asked.contains("grant_type=refresh_token") && asked.contains("refresh_token=r-0"));
    assert!(asked.to_lowercase().contains("authorization: basic "), "as for the code: {asked}");
    assert!(asked.contains("resource=https%3A%2F%2Forders.example"), "as for the code: {asked}");
    assert!(!asked.contains("s3cret"));
}

#[tokio::test]
async fn an_answer_about_somebody_else_or_another_sign_in_ends_it() {
    let world = World::new().await;
    let signed = signed_in(&world).await;
    for (name, value, reason) in [
        ("sub", json!("eve"), "another subject"),
        ("iss", json!("https://evil.example"), "another issuer"),
        ("aud", json!("other"), "another client"),
        ("azp", json!("other"), "another client"),
        ("nonce", json!("other"), "nonce"),
        ("sid", json!("s2"), "another session"),
        ("auth_time", json!(8), "another sign-in"),
        ("groups", json!({"x": 1}), "`groups`"),
    ] {
        world.claims(move |claims| {
            claims["auth_time"] = json!(7);
            claims["nonce"] = json!(null);
            claims[name] = value.clone();
        });
        match world.refresh(&signed).await {
            Err(RefreshError::Changed(said)) => assert!(said.contains(reason), "{said}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn only_a_no_about_the_sign_in_is_one() {
    let world = World::new().await;
    let signed = signed_in(&world).await;
    let says = |code: &'static str| move |tokens: &mut Value| *tokens = json!({"error": code});
    for code in ["invalid_grant", "login_required", "access_denied"] {
        world.tokens(400, says(code));
        let refused = world.refresh(&signed).await;
        assert!(
            matches!(&refused, Err(RefreshError::Refused(said)) if said == code),
            "{refused:?}"
        );
    }
    for (status, code, about_all) in
        [(404, "", false), (400, "invalid_scope", false), (401, "invalid_client", true)]
    {
        world.tokens(status, says(code));
        let unavailable = world.refresh(&signed).await;
        assert!(
            matches!(&unavailable, Err(RefreshError::Unavailable { for_all, .. }) if *for_all == about_all),
            "{code}: {unavailable:?}"
        );
        assert_eq!(world.provider.is_out(), about_all, "{code}");
    }
}

#[tokio::test]
async fn what_can_not_be_read_is_no_answer_and_the_new_token_counts() {
    let world = World::new().await;
    let signed = signed_in(&world).await;
    world.tokens(200, |tokens| *tokens = json!("nonsense"));
    let said = world.refresh(&signed).await.unwrap_err().to_string();
    assert!(said.contains("can't be read") && !said.contains("r-0"), "{said}");
    world.tokens(200, |tokens| *tokens = json!({"access_token": "x".repeat(300_000)}));
    let said = world.refresh(&signed).await.unwrap_err().to_string();
    assert!(said.contains("larger than"), "{said}");
    // Its keys can't be had just now.
    world.tokens(200, |tokens| tokens["refresh_token"] = "r-1".into());
    world.script.lock().kid = Some("unheard-of");
    match world.refresh(&signed).await {
        Err(RefreshError::Unavailable { rotated: Some(token), .. }) => {
            assert_eq!(token.expose(), "r-1");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_provider_that_is_down_is_left_alone() {
    let world = World::new().await;
    let signed = signed_in(&world).await;
    world.script.lock().down = true;
    let down = world.refresh(&signed).await;
    assert!(matches!(down, Err(RefreshError::Unavailable { for_all: true, .. })), "{down:?}");
    assert!(world.provider.is_out() && !world.provider.may_ask());
    let again = world.refresh(&signed).await;
    assert!(matches!(again, Err(RefreshError::BackingOff)), "{again:?}");
    // The next try puts no token at risk.
    world.script.lock().asked.clear();
    let probed = loop {
        match world.refresh(&signed).await {
            Err(RefreshError::BackingOff) => tokio::task::yield_now().await,
            other => break other,
        }
    };
    assert!(matches!(probed, Err(RefreshError::Unavailable { .. })), "{probed:?}");
    assert_eq!(world.script.lock().asked, "");
}

#[tokio::test]
async fn without_a_new_id_token_userinfo_tells_what_it_told_at_the_sign_in() {
    let world = World::with(|config| config.claims.groups = "teams".into()).await;
    world.script.lock().userinfo = Some(json!({"sub": "ada", "teams": ["one"]}));
    let signed = signed_in(&world).await;
    assert_eq!(groups(&signed.login.principal), ["one"]);
    world.tokens(200, |tokens| drop(tokens.as_object_mut().unwrap().remove("id_token")));
    world.script.lock().userinfo = Some(json!({"sub": "ada", "teams": ["two"]}));
    let renewed = world.refresh(&signed).await.unwrap();
    assert_eq!(groups(&renewed.principal), ["two"]);
    assert_eq!(renewed.principal.email.as_deref(), Some("ada@acme.example"));
    assert!(renewed.token.is_none() && renewed.id_token.is_none());
    world.script.lock().userinfo = Some(json!({"sub": "eve", "teams": ["two"]}));
    let changed = world.refresh(&signed).await;
    assert!(matches!(changed, Err(RefreshError::Changed(_))), "{changed:?}");
}

#[tokio::test]
async fn what_userinfo_says_now_counts_for_more_than_an_id_token_of_the_sign_in() {
    let world = World::new().await;
    let signed = signed_in(&world).await;
    assert_eq!(groups(&signed.login.principal), ["customers"]);
    world.tokens(200, |tokens| drop(tokens.as_object_mut().unwrap().remove("id_token")));
    world.script.lock().userinfo = Some(json!({"sub": "ada", "groups": []}));
    assert!(groups(&world.refresh(&signed).await.unwrap().principal).is_empty());
}

#[tokio::test]
async fn where_it_is_off_no_token_is_kept() {
    let world = World::with(|config| config.refresh = None).await;
    world.tokens(200, |tokens| tokens["refresh_token"] = "r-0".into());
    assert!(world.login().await.unwrap().refresh.is_none());
}

/// Anybody can begin a sign-in, and come back with a code that he made up.
#[tokio::test]
async fn strangers_whose_codes_nobody_answers_leave_room_for_those_who_are_signed_in() {
    let world = World::new().await;
    let signed = signed_in(&world).await;
    world.tokens(200, |tokens| drop(tokens.as_object_mut().unwrap().remove("id_token")));
    world.script.lock().userinfo = Some(json!({"sub": "ada", "groups": ["staff"]}));
    world.script.lock().silent = true;
    let mut begun = Vec::new();
    for number in 0..sign_ins::MOST * 3 {
        let (state, cookies) = world.begin().await.unwrap();
        // More addresses than it takes to have all places.
        begun.push((u8::try_from(number % 9).unwrap(), state, cookies));
    }
    let strangers =
        futures_util::future::join_all(begun.iter().map(async |(last, state, cookies)| {
            world.finish_from(*last, &format!("code=made-up&state={state}"), cookies).await
        }));
    let refreshed = async {
        while world.script.lock().codes < sign_ins::MOST {
            tokio::task::yield_now().await;
        }
        world.refresh(&signed).await.unwrap()
    };
    tokio::select! {
        ended = strangers => panic!("{ended:?}"),
        renewed = refreshed => assert_eq!(groups(&renewed.principal), ["staff"]),
    }
    assert_eq!(world.script.lock().codes, sign_ins::MOST, "the others wait");
    // Who found no room has used nothing up.
    let used = world.store.scan(Space::Logins, b"").await.unwrap();
    assert_eq!(used.len(), sign_ins::MOST + 1);
}

#[tokio::test]
async fn one_address_whose_codes_nobody_answers_leaves_room_for_those_who_sign_in_from_others() {
    let world = World::with(|config| config.timeout = Duration::from_secs(3600)).await;
    world.login().await.unwrap();
    world.script.lock().silent = true;
    let mut begun = Vec::new();
    for _ in 0..sign_ins::MOST * 3 {
        begun.push(world.begin().await.unwrap());
    }
    let stranger = futures_util::future::join_all(begun.iter().map(async |(state, cookies)| {
        world.finish_from(2, &format!("code=made-up&state={state}"), cookies).await
    }));
    let honest = async {
        while world.script.lock().codes < sign_ins::OF_ONE_ADDRESS {
            tokio::task::yield_now().await;
        }
        world.script.lock().silent = false;
        let (state, cookies) = world.begin().await.unwrap();
        world.finish_from(1, &format!("code=c&state={state}"), &cookies).await.unwrap();
    };
    tokio::select! {
        ended = stranger => panic!("{ended:?}"),
        () = honest => {}
    }
    assert_eq!(world.script.lock().codes, sign_ins::OF_ONE_ADDRESS, "the others wait");
}

#[tokio::test]
async fn that_there_is_no_room_for_a_call_says_nothing_about_the_provider() {
    let world = World::new().await;
    let signed = signed_in(&world).await;
    world.script.lock().asked.clear();
    {
        let _crowd = world.provider.http.crowd().await;
        // From here on waiting takes no time.
        tokio::time::pause();
        let none = world.refresh(&signed).await;
        assert!(matches!(none, Err(RefreshError::NoPlace)), "{none:?}");
        tokio::time::resume();
        assert!(!world.provider.is_out() && world.provider.may_ask());
        assert_eq!(world.script.lock().asked, "", "the token is as good as before");
    }
    world.refresh(&signed).await.unwrap();
    // Nor does it when it is asked whether it is back.
    let (refreshes, patience) = (&world.provider.refreshes, Duration::from_secs(9));
    let turn = refreshes.turn(refreshes.place(patience).await.unwrap()).unwrap();
    refreshes.failed(&turn, "idp", "down");
    while !world.provider.may_ask() {
        tokio::task::yield_now().await;
    }
    let _crowd = world.provider.http.crowd().await;
    tokio::time::pause();
    let none = world.refresh(&signed).await;
    assert!(matches!(none, Err(RefreshError::NoPlace)), "{none:?}");
    assert!(world.provider.is_out(), "nobody was asked");
}
