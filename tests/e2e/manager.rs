//! systemd as the gate sees it: `sd_notify`, the watchdog, and sockets from a socket unit.

use std::process::Command;

use serde_json::json;

use crate::harness::gate::{Launch, mentions};
use crate::harness::process::Process;
use crate::harness::{Gate, Notifications, Recorder, eventually, not_checked};

fn notify(manager: &Notifications) -> impl FnOnce(&mut Launch) + 'static {
    let path = manager.path.clone();
    move |launch| launch.environment.push(("NOTIFY_SOCKET".to_owned(), path))
}

/// Binds as a socket unit would and executes the gate with it: `names` and addresses in order.
fn socket_unit(sockets: &[(&str, &str)]) -> String {
    let sockets = serde_json::to_string(sockets).unwrap();
    format!(
        r#"
import json, os, socket, sys
names = []
for fd, (name, address) in enumerate(json.loads('{sockets}'), 3):
    host, port = address.rsplit(":", 1)
    passed = socket.socket(); passed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    passed.bind((host, int(port))); passed.listen(64)
    own = os.dup(passed.fileno()); passed.close()
    while own < 20: own = os.dup(own)
    os.dup2(own, fd, inheritable=True); names.append(name)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(names)), LISTEN_FDNAMES=":".join(names))
os.execv(sys.argv[1], sys.argv[1:])
"#
    )
}

#[tokio::test]
async fn the_manager_hears_of_start_reload_refusal_and_stop() {
    let manager = Notifications::listen();
    let page = Recorder::start().await;
    let mut gate = Gate::with_upstream(&page).launch(notify(&manager)).start().await;
    let (ready, said) = manager.heard(0, &["READY=1", "STATUS="]).await;
    assert_eq!(ready, 0, "the first that it says: {:?}", manager.all());
    assert!(said.contains("serving 1 routes, configuration 1"), "{said}");

    gate.rewrite(|config| config["routes"][0]["max_body"] = json!("1KiB"));
    gate.process.signal("HUP");
    let (reloading, _) = manager.heard(ready + 1, &["RELOADING=1", "MONOTONIC_USEC="]).await;
    let (ready, said) = manager.heard(reloading + 1, &["READY=1"]).await;
    assert!(said.contains("configuration 2"), "{said}");

    gate.rewrite(|config| config["routes"][0]["max_body"] = json!("much"));
    let (reloading, _) = manager.heard(ready + 1, &["RELOADING=1"]).await;
    // The file's change may be noticed after the signal, too; what counts is what comes last.
    manager.heard(reloading + 1, &["READY=1", "STATUS=serving 1 routes, configuration"]).await;
    eventually("the refusal", async || {
        let last = manager.all().into_iter().rfind(|message| message.contains("STATUS="))?;
        last.contains("the last reload was refused").then_some(())
    })
    .await;

    gate.process.signal("TERM");
    manager.heard(0, &["STOPPING=1"]).await;
    eventually("the end", async || gate.process.exited()).await;
}

#[tokio::test]
async fn the_watchdog_is_fed_while_all_workers_answer_and_not_when_one_hangs() {
    let manager = Notifications::listen();
    let page = Recorder::start().await;
    let mut gate = Gate::with_upstream(&page)
        .launch(notify(&manager))
        .launch(|launch| launch.environment.push(("WATCHDOG_USEC".into(), "400000".into())))
        .start()
        .await;
    let (first, _) = manager.heard(0, &["WATCHDOG=1"]).await;
    manager.heard(first + 1, &["WATCHDOG=1"]).await;
    let Some(hung) = Tracer::stop_a_worker(&gate).await else {
        // The unit test of `app::lifecycle` has the same without a real thread.
        not_checked("the watchdog with a worker that hangs: ptrace is not permitted here");
        return;
    };
    let complaints = |gate: &Gate| {
        gate.process.output().iter().filter(|line| line.contains("is not fed")).count()
    };
    eventually("the complaint", async || (complaints(&gate) > 0).then_some(())).await;
    let before = fed(&manager);
    eventually("more of them", async || (complaints(&gate) > 2).then_some(())).await;
    assert_eq!(fed(&manager), before, "nobody speaks for a worker that hangs");
    drop(hung);
    eventually("the watchdog to be fed again", async || (fed(&manager) > before).then_some(()))
        .await;
    gate.login("vera").await.get("/").await.expect(200);
    assert!(gate.process.exited().is_none());
}

/// Stops one thread of a process, as an endless loop would; dropped, it lets it go on.
struct Tracer(#[expect(dead_code, reason = "it is held")] Process);

impl Tracer {
    async fn stop_a_worker(gate: &Gate) -> Option<Self> {
        let tasks = format!("/proc/{}/task", gate.process.id());
        let thread =
            std::fs::read_dir(tasks).unwrap().map(|task| task.unwrap().path()).find(|task| {
                std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "worker-0\n")
            });
        let thread = thread.unwrap().file_name().unwrap().to_owned();
        // PTRACE_SEIZE and PTRACE_INTERRUPT; what is traced goes on when the tracer ends.
        let program = "import ctypes, sys, time\n\
            libc = ctypes.CDLL(None)\n\
            libc.ptrace.argtypes = [ctypes.c_long] * 4\n\
            done = [libc.ptrace(what, int(sys.argv[1]), 0, 0) for what in (0x4206, 0x4207)]\n\
            print('stopped' if done == [0, 0] else 'refused', flush=True)\n\
            sys.stdin.read()";
        let mut command = Command::new("python3");
        let mut process = Process::spawn("the tracer", command.args(["-c", program]).arg(thread));
        let stopped = process.line("its answer", |line| Some(line == "stopped")).await;
        stopped.then_some(Self(process))
    }
}

fn fed(manager: &Notifications) -> usize {
    manager.all().iter().filter(|message| message.contains("WATCHDOG=1")).count()
}

#[tokio::test]
async fn sockets_of_a_unit_serve_the_listeners_of_their_names() {
    let page = Recorder::start().await;
    let port = crate::harness::port::Port::reserve();
    let admin = crate::harness::port::free();
    let (public, address) = (port.address().to_string(), port.address());
    let parent = socket_unit(&[("public", &public), ("admin", &admin.to_string())]);
    let gate = Gate::with_upstream(&page)
        .at(port)
        .configure(move |config| config["admin"]["address"] = json!(admin.to_string()))
        .launch(move |launch| launch.parent = Some(parent))
        .start()
        .await;
    // One socket for all workers, the one that was passed: the gate has bound none of its own.
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let listening = format!(":{:04X} 00000000:0000 0A", address.port());
    assert_eq!(table.lines().filter(|line| line.contains(&listening)).count(), 1, "{table}");
    for _ in 0..8 {
        gate.login("vera").await.get("/").await.expect(200);
    }
    gate.admin("/healthz").await.unwrap();
}

#[tokio::test]
async fn a_socket_unit_that_contradicts_the_configuration_is_told_so() {
    let page = Recorder::start().await;
    let mut gate = Gate::with_upstream(&page).start().await;
    gate.process.kill();
    let other = crate::harness::port::free().to_string();
    for (name, hint) in [("public", "say the same"), ("nobody", "FileDescriptorName=")] {
        let parent = socket_unit(&[(name, &other)]);
        let output = gate.run_to_the_end(|launch| launch.parent = Some(parent));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(hint) && said.contains(&other), "{said}");
    }
    let starts = gate.audit().iter().filter(|one| mentions(one, &["\"started\""])).count();
    assert_eq!(starts, 1, "what could not start has recorded nothing");
}
