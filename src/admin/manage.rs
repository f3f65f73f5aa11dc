//! The admin socket: what operators do to sessions, users, devices and tenants of a running gate.
//!
//! A Unix socket that its owner alone may connect to (mode 0600). On top of that the kernel says who
//! is at the other end, and only root and the gate's own user are answered: there is no password to
//! keep, to leak, or to send to whoever listens in the gate's place.
//!
//! INVARIANT: nothing is shown or changed for anybody else, and everything that is asked for is on
//! record with who asked. What would let somebody in again is not done without that record; what
//! shuts somebody out is done all the same.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::protocol::{Answer, Ask, LONGEST_ASK, SessionLine};
use crate::config::model::CERTIFICATES;
use crate::domain::event::{EndReason, Event};
use crate::domain::suspension::{Subject, Suspension};
use crate::identity::session::Session;
use crate::pipeline::gate::Gate;
use crate::pipeline::suspended;

/// At once; each is a command that somebody typed.
const CONNECTIONS: usize = 16;

/// For a question to arrive and its answer to leave.
const PATIENCE: Duration = Duration::from_secs(10);

/// For whoever is not answered to take in why.
const LINGER: Duration = Duration::from_secs(1);

/// After a connection that could not be taken.
const BACK_OFF: Duration = Duration::from_millis(100);

/// As long a list as one answer holds.
const MOST_SESSIONS: usize = 10_000;

/// Longest name or reason, in characters.
const LONGEST_TEXT: usize = 512;

/// Listens at `path`, in place of what is left there of an earlier process.
///
/// # Errors
/// The folder can't be written to, or the path is too long for a socket (107 bytes).
pub fn listen(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let fresh = path.with_extension("new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    // Under its name only once it is nobody else's.
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}

/// Answers on the socket.
#[derive(Clone, Debug)]
pub struct Manager {
    gate: Arc<Gate>,
    /// The user that the gate runs as.
    own_user: u32,
}

impl Manager {
    pub fn new(gate: Arc<Gate>, own_user: u32) -> Self {
        Self { gate, own_user }
    }

    /// Serves until `stop`, on the runtime that this is called on.
    pub async fn serve(
        self,
        listener: std::os::unix::net::UnixListener,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let listener = UnixListener::from_std(listener)?;
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of descriptors, say. Operators are needed just then.
                        tracing::warn!(%error, "the admin socket can't take a connection");
                        tokio::time::sleep(BACK_OFF).await;
                        continue;
                    }
                },
                () = stop.cancelled() => return Ok(()),
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
            let manager = self.clone();
            tokio::spawn(async move {
                if let Err(error) = manager.connection(stream).await {
                    tracing::debug!(%error, "an admin connection failed");
                }
                drop(place);
            });
        }
    }

    async fn connection(&self, stream: UnixStream) -> io::Result<()> {
        let user = stream.peer_cred()?.uid();
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader.take(LONGEST_ASK));
        let answer = if self.may(user) {
            let mut line = String::new();
            tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await??;
            match serde_json::from_str(&line) {
                Ok(ask) => self.answer(&ask, &format!("uid:{user}")).await,
                Err(error) => failed(format!("the question can't be read: {error}")),
            }
        } else {
            tracing::warn!(user, "somebody else asked at the admin socket and was refused");
            failed("only root and the user that the gate runs as may ask this; use `sudo`")
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        tokio::time::timeout(PATIENCE, writer.write_all(&text)).await??;
        writer.shutdown().await?;
        // Closed with something unread, the answer would be lost on its way.
        let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut reader, &mut tokio::io::sink()))
            .await;
        Ok(())
    }

    fn may(&self, user: u32) -> bool {
        user == 0 || user == self.own_user
    }

    /// Does what is asked, on record as asked by `by`.
    pub async fn answer(&self, ask: &Ask, by: &str) -> Answer {
        if let Err(answer) = checked(ask) {
            return answer;
        }
        let now = self.gate.clock.now();
        if let Err(error) = self.gate.audit.append(now, event(ask, by)) {
            if !shuts_out(ask) {
                return failed(format!("nothing was done, because it can't be recorded: {error}"));
            }
            tracing::error!(%error, ?ask, by, "done without a record");
        }
        let done = match ask {
            Ask::ListSessions { user, limit } => self.list(user.as_deref(), *limit).await,
            Ask::ShowSession { session } => self.show(session).await,
            Ask::RevokeSessions { sessions } => self.revoke(sessions).await,
            Ask::RevokeUser { user } => {
                let ended = self.gate.sessions.end_user(user, EndReason::Revoked).await;
                ended.map(|sessions| Answer::Done { changed: sessions > 0, sessions }).map_err(text)
            }
            Ask::ListSuspended { subject } => self.suspended(*subject).await,
            Ask::Suspend { subject, name, reason } => {
                let suspension = Suspension {
                    subject: *subject,
                    name: Arc::clone(name),
                    since: now,
                    by: by.into(),
                    reason: reason.clone(),
                };
                self.suspend(&suspension).await
            }
            Ask::Restore { subject, name } => {
                let restored = self.gate.suspensions.restore(*subject, name).await;
                restored.map(|changed| Answer::Done { changed, sessions: 0 }).map_err(text)
            }
        };
        done.unwrap_or_else(failed)
    }

    async fn list(&self, user: Option<&str>, limit: usize) -> Result<Answer, String> {
        let (sessions, now) = (&self.gate.sessions, self.gate.clock.now());
        let limit = limit.clamp(1, MOST_SESSIONS);
        let (mut found, mut more) = match user {
            Some(user) => (sessions.of_user(user, now).await.map_err(text)?, false),
            None => sessions.some(limit, now).await.map_err(text)?,
        };
        found.sort_by_key(|session| std::cmp::Reverse(session.last_seen()));
        more |= found.len() > limit;
        found.truncate(limit);
        Ok(Answer::Sessions { sessions: found.iter().map(|session| line(session)).collect(), more })
    }

    async fn show(&self, session: &str) -> Result<Answer, String> {
        let session = self.named(session).await?;
        Ok(Answer::Sessions { sessions: vec![line(&session)], more: false })
    }

    async fn revoke(&self, named: &[Arc<str>]) -> Result<Answer, String> {
        // All or none: a mistyped id is told before anything is ended.
        let mut found = Vec::new();
        for session in named {
            found.push(self.named(session).await?);
        }
        let mut sessions = 0;
        for session in found {
            let ended = self.gate.sessions.end(&session.id, EndReason::Revoked).await;
            sessions += usize::from(ended.map_err(text)?);
        }
        Ok(Answer::Done { changed: sessions > 0, sessions })
    }

    async fn named(&self, session: &str) -> Result<Arc<Session>, String> {
        let found = self.gate.sessions.named(session, self.gate.clock.now()).await;
        let found = found.map_err(text)?;
        found.ok_or_else(|| {
            format!(
                "there is no session `{session}`; `wicketgate sessions list` shows those there are"
            )
        })
    }

    /// Somebody who is mistyped would not be shut out, and nobody would notice.
    fn names(&self, subject: Subject, name: &str) -> Result<(), String> {
        let snapshot = self.gate.snapshot.load();
        match subject {
            Subject::User => {
                let provider = name.split_once('/').map_or("", |(provider, _)| provider);
                if provider == CERTIFICATES || snapshot.providers.named(provider).is_some() {
                    return Ok(());
                }
                Err(format!(
                    "`{name}` is no user's id; write PROVIDER/SUBJECT, as `wicketgate sessions \
                     list` shows it"
                ))
            }
            Subject::Device if snapshot.devices.find(name).is_none() => {
                Err(format!("there is no device `{name}` in the device registry"))
            }
            Subject::Device | Subject::Tenant => Ok(()),
        }
    }

    async fn suspended(&self, subject: Subject) -> Result<Answer, String> {
        let mut suspensions = self.gate.suspensions.list().await.map_err(text)?;
        suspensions.retain(|suspension| suspension.subject == subject);
        Ok(Answer::Suspended { suspensions })
    }

    async fn suspend(&self, suspension: &Suspension) -> Result<Answer, String> {
        let Suspension { subject, name, .. } = suspension;
        self.names(*subject, name)?;
        let changed = !self.gate.suspensions.holds(*subject, name);
        self.gate.suspensions.suspend(suspension).await.map_err(text)?;
        let before = self.gate.sessions.ended_count();
        suspended::enforce(&self.gate);
        suspended::end_stored(&self.gate, *subject, name).await.map_err(|error| {
            format!(
                "the {} is suspended, but not every session is gone from the store: {error}; \
                 run the same command again",
                subject.name()
            )
        })?;
        let sessions = self.gate.sessions.ended_count().saturating_sub(before);
        Ok(Answer::Done { changed, sessions })
    }
}

/// Texts that would not fit into a record, or would spoil one.
fn checked(ask: &Ask) -> Result<(), Answer> {
    let texts: Vec<(&str, &Arc<str>)> = match ask {
        Ask::ListSessions { user, .. } => user.iter().map(|user| ("user", user)).collect(),
        Ask::ShowSession { session } => vec![("session", session)],
        Ask::RevokeSessions { sessions } => sessions.iter().map(|one| ("session", one)).collect(),
        Ask::RevokeUser { user } => vec![("user", user)],
        Ask::ListSuspended { .. } => vec![],
        Ask::Suspend { subject, name, reason } => {
            let reason = reason.iter().map(|reason| ("reason", reason));
            std::iter::once((subject.name(), name)).chain(reason).collect()
        }
        Ask::Restore { subject, name } => vec![(subject.name(), name)],
    };
    match texts.into_iter().find_map(|(what, text)| fault(text).map(|fault| (what, fault))) {
        Some((what, fault)) => Err(failed(format!("the {what} {fault}"))),
        None => Ok(()),
    }
}

/// What is wrong with a text. It is not repeated: it may be long, or spoil the terminal.
fn fault(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("is empty".to_owned());
    }
    let length = text.chars().count();
    if length > LONGEST_TEXT {
        return Some(format!("has {length} characters; {LONGEST_TEXT} are the most"));
    }
    let control = |text: &str| text.chars().any(char::is_control);
    control(text).then(|| "holds a line break or another control character".to_owned())
}

/// What may be done without a record, if need be.
const fn shuts_out(ask: &Ask) -> bool {
    matches!(ask, Ask::RevokeSessions { .. } | Ask::RevokeUser { .. } | Ask::Suspend { .. })
}

fn event(ask: &Ask, by: &str) -> Event {
    let (action, target, reason): (String, Option<Arc<str>>, Option<Arc<str>>) = match ask {
        Ask::ListSessions { user, .. } => ("list-sessions".into(), user.clone(), None),
        Ask::ShowSession { session } => ("show-session".into(), Some(session.clone()), None),
        Ask::RevokeSessions { sessions } => {
            ("revoke-sessions".into(), Some(sessions.join(" ").into()), None)
        }
        Ask::RevokeUser { user } => ("revoke-sessions-of-user".into(), Some(user.clone()), None),
        Ask::ListSuspended { subject } => {
            (format!("list-suspended-{}s", subject.name()), None, None)
        }
        Ask::Suspend { subject, name, reason } => {
            (format!("suspend-{}", subject.name()), Some(name.clone()), reason.clone())
        }
        Ask::Restore { subject, name } => {
            (format!("restore-{}", subject.name()), Some(name.clone()), None)
        }
    };
    Event::Administered { by: by.into(), action: action.into(), target, reason }
}

fn line(session: &Session) -> SessionLine {
    let (principal, authentication) = (&session.principal, &session.authentication);
    SessionLine {
        session: session.id.short(),
        user: Arc::clone(&principal.id),
        name: principal.name.clone(),
        email: principal.email.clone(),
        tenant: principal.tenant.clone(),
        groups: principal.groups.clone(),
        provider: Arc::clone(&session.provider),
        host: session.host.clone(),
        acr: authentication.acr.clone(),
        amr: authentication.amr.clone(),
        started: session.created,
        last_used: session.last_seen(),
        expires: session.expires,
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn failed(error: impl Into<String>) -> Answer {
    Answer::Failed { error: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_spoil_a_record_is_refused() {
        let user = |user: &str| checked(&Ask::RevokeUser { user: user.into() });
        assert!(user("idp/ada").is_ok());
        for bad in ["", "a\nb", "a\u{1b}[0m", &"x".repeat(LONGEST_TEXT + 1)] {
            assert!(user(bad).is_err(), "{bad:?}");
        }
        let reason = Ask::Suspend {
            subject: Subject::Tenant,
            name: "acme".into(),
            reason: Some("left\nthe company".into()),
        };
        let Err(Answer::Failed { error }) = checked(&reason) else { panic!("it was taken") };
        assert_eq!(error, "the reason holds a line break or another control character");
        let Err(Answer::Failed { error }) =
            checked(&Ask::ListSessions { user: Some("".into()), limit: 1 })
        else {
            panic!("it was taken")
        };
        assert_eq!(error, "the user is empty");
    }

    #[test]
    fn a_question_with_an_unknown_part_is_not_answered_in_part() {
        let good = r#"{"ask":"revoke-user","user":"idp/ada"}"#;
        assert_eq!(
            serde_json::from_str::<Ask>(good).unwrap(),
            Ask::RevokeUser { user: "idp/ada".into() }
        );
        for bad in [r#"{"ask":"revoke-user","user":"a","all":true}"#, r#"{"ask":"revoke"}"#, "{}"] {
            assert!(serde_json::from_str::<Ask>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_socket_takes_the_place_of_one_that_is_left_and_belongs_to_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        drop(listen(&path).unwrap());
        assert!(std::os::unix::net::UnixStream::connect(&path).is_err());
        let _listener = listen(&path).unwrap();
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
