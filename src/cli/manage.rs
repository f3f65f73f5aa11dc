//! `wicketgate sessions`, `users`, `devices` and `tenants`: asks the running gate.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;

use super::output::{complain, count, say};
use crate::admin::protocol::{Answer, Ask, SessionLine};
use crate::config;
use crate::domain::clock::Timestamp;
use crate::domain::suspension::{Subject, Suspension};

/// The gate may have to read its whole store.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Subcommand)]
pub enum Sessions {
    /// List sessions, the most recently used first; of more than the limit, some
    List {
        /// Only those of this user: PROVIDER/SUBJECT
        #[arg(long)]
        user: Option<Arc<str>>,
        /// At most this many
        #[arg(long, value_name = "NUMBER", default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        reach: Reach,
    },
    /// Show all that is known of one session
    Show {
        /// As listed, and as audit records name it: 16 hex digits
        session: Arc<str>,
        #[command(flatten)]
        reach: Reach,
    },
    /// End sessions, and every connection under them
    Revoke {
        /// As listed, and as audit records name them: 16 hex digits
        #[arg(required_unless_present = "user", conflicts_with = "user")]
        session: Vec<Arc<str>>,
        /// All of this user: PROVIDER/SUBJECT
        #[arg(long)]
        user: Option<Arc<str>>,
        #[command(flatten)]
        reach: Reach,
    },
}

/// The same for users, devices and tenants.
#[derive(Debug, Subcommand)]
pub enum Exclusion {
    /// List who is suspended
    List {
        #[command(flatten)]
        reach: Reach,
    },
    /// Shut out: no sign-in, no request, no open connection, until restored
    Suspend {
        /// A user is PROVIDER/SUBJECT, a device its id in the registry, a tenant its name
        name: Arc<str>,
        /// Why, for the record
        #[arg(long)]
        reason: Option<Arc<str>>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Let in again
    Restore {
        name: Arc<str>,
        #[command(flatten)]
        reach: Reach,
    },
}

/// Where the gate is asked, and how the answer is wanted.
#[derive(Debug, clap::Args)]
pub struct Reach {
    /// The configuration file that the gate runs with
    #[arg(long, value_name = "FILE", default_value = "config/wicketgate.yaml")]
    config: PathBuf,
    /// The gate's admin socket itself, instead of a configuration
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub fn sessions(command: &Sessions) -> ExitCode {
    match command {
        Sessions::List { user, limit, reach } => {
            run(reach, &Ask::ListSessions { user: user.clone(), limit: *limit })
        }
        Sessions::Show { session, reach } => {
            run(reach, &Ask::ShowSession { session: Arc::clone(session) })
        }
        Sessions::Revoke { session, user, reach } => match user {
            Some(user) => run(reach, &Ask::RevokeUser { user: Arc::clone(user) }),
            None => run(reach, &Ask::RevokeSessions { sessions: session.clone() }),
        },
    }
}

pub fn suspend(command: &Exclusion, subject: Subject) -> ExitCode {
    match command {
        Exclusion::List { reach } => run(reach, &Ask::ListSuspended { subject }),
        Exclusion::Suspend { name, reason, reach } => {
            let (name, reason) = (Arc::clone(name), reason.clone());
            run(reach, &Ask::Suspend { subject, name, reason })
        }
        Exclusion::Restore { name, reach } => {
            run(reach, &Ask::Restore { subject, name: Arc::clone(name) })
        }
    }
}

fn run(reach: &Reach, ask: &Ask) -> ExitCode {
    let socket = match &reach.socket {
        Some(socket) => socket.clone(),
        None => match config::load(&reach.config) {
            Ok((config, _)) => config.admin.socket,
            Err(found) => {
                super::output::findings(&found);
                complain("  hint: `--socket PATH` asks the gate without reading its configuration");
                return super::FINDINGS;
            }
        },
    };
    match asked(&socket, ask) {
        Ok(Answer::Failed { error }) => {
            complain(format_args!("error: {error}"));
            super::FINDINGS
        }
        Ok(answer) => {
            if reach.json {
                json(&answer);
            } else {
                show(ask, &answer);
            }
            super::GOOD
        }
        Err(error) => {
            let hint = match error.kind() {
                ErrorKind::PermissionDenied => "run this as root, or as the gate's user",
                ErrorKind::UnexpectedEof => "it is busy or stopping; try again",
                _ => {
                    "is it running, with this configuration? `--socket` names another socket \
                     (`admin.socket`; by default `admin.sock` in `audit.directory`)"
                }
            };
            complain(format_args!(
                "error: no gate answers at `{}`: {error}\n  hint: {hint}",
                socket.display()
            ));
            super::FINDINGS
        }
    }
}

fn asked(socket: &Path, ask: &Ask) -> std::io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(ask)?;
    line.push(b'\n');
    // Whoever is refused hears why, although the gate reads nothing of him.
    let sent = stream.write_all(&line);
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer)?;
    if answer.is_empty() {
        sent?;
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&answer)?)
}

fn json(answer: &Answer) {
    if let Ok(text) = serde_json::to_string_pretty(answer) {
        say(text);
    }
}

fn show(ask: &Ask, answer: &Answer) {
    match (ask, answer) {
        (Ask::ShowSession { .. }, Answer::Sessions { sessions, .. }) => {
            sessions.iter().for_each(one);
        }
        (_, Answer::Sessions { sessions, more }) => {
            let rows = sessions.iter().map(|line| {
                let text = |text: &Option<Arc<str>>| text.as_deref().unwrap_or("-").to_owned();
                [
                    line.session.clone(),
                    line.user.to_string(),
                    text(&line.tenant),
                    text(&line.host),
                    minute(line.started),
                    minute(line.last_used),
                ]
            });
            table(["SESSION", "USER", "TENANT", "HOST", "STARTED", "LAST USED"], rows.collect());
            if *more {
                say("There are more: ask for one `--user`, or for a larger `--limit`.");
            }
        }
        (_, Answer::Suspended { suspensions }) => {
            let rows = suspensions.iter().map(|suspension| {
                let Suspension { name, since, by, reason, .. } = suspension;
                let reason = reason.as_deref().unwrap_or("-").to_owned();
                [name.to_string(), minute(*since), by.to_string(), reason]
            });
            table(["SUSPENDED", "SINCE", "BY", "REASON"], rows.collect());
        }
        (Ask::Suspend { subject, name, .. }, Answer::Done { changed, sessions }) => {
            let was = if *changed { "is suspended" } else { "was suspended already" };
            let ended = if *subject == Subject::Device {
                String::new()
            } else {
                format!("; {} ended", count(*sessions, "session"))
            };
            say(format_args!("the {} `{name}` {was}{ended}", subject.name()));
        }
        (Ask::Restore { subject, name }, Answer::Done { changed, .. }) => {
            let was = if *changed { "may come in again" } else { "was not suspended" };
            say(format_args!("the {} `{name}` {was}", subject.name()));
        }
        (_, Answer::Done { sessions, .. }) => {
            say(format_args!("{} ended", count(*sessions, "session")));
        }
        (_, Answer::Failed { .. }) => {}
    }
}

fn one(line: &SessionLine) {
    let words = |words: &std::collections::BTreeSet<Arc<str>>| {
        words.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(", ")
    };
    let text = |text: &Option<Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
    let fields = [
        ("session", line.session.clone()),
        ("user", line.user.to_string()),
        ("name", text(&line.name)),
        ("e-mail", text(&line.email)),
        ("tenant", text(&line.tenant)),
        ("groups", words(&line.groups)),
        ("provider", line.provider.to_string()),
        ("signed in on", text(&line.host)),
        ("signed in by", words(&line.amr)),
        ("level (acr)", text(&line.acr)),
        ("started", line.started.to_string()),
        ("last used", line.last_used.to_string()),
        ("ends by", line.expires.to_string()),
    ];
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        say(format_args!("{name:<13} {value}"));
    }
}

fn minute(at: Timestamp) -> String {
    let full = at.to_string();
    match (full.get(..10), full.get(11..16)) {
        (Some(day), Some(minute)) => format!("{day} {minute}Z"),
        _ => full,
    }
}

fn table<const COLUMNS: usize>(head: [&str; COLUMNS], rows: Vec<[String; COLUMNS]>) {
    if rows.is_empty() {
        return say("none");
    }
    let mut widths = head.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let print = |cells: &[String]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        say(padded.collect::<Vec<_>>().join("  ").trim_end());
    };
    print(&head.map(str::to_owned));
    rows.iter().for_each(|row| print(row));
}
