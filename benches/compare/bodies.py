"""One large body each way: how fast it passes, at what CPU, and what it does to the memory.

curl is the client, over one HTTP/1.1 connection with TLS 1.3. Downloads come from a file in the page
cache; uploads go to something that reads and discards them.
"""

import json
import subprocess
import threading

from servers import GIBIBYTE
from world import HOST

# What is fetched and where to is sent, in the words of each server. nginx has two: as it comes,
# where it may put bodies aside in files, and with its buffering off.
KINDS = {
    "wicketgate": {"": ("/1g", "/sink")},
    "nginx": {", as it comes": ("/1g", "/sink"), ", buffering off": ("/unbuffered/1g", "/unbuffered/sink")},
    "haproxy": {"": ("/1g", "/sink")},
}
DIRECTIONS = ("down", "up")
# Between two looks at the memory.
MOMENT = 0.02


def transfer(world, name, direction, kind):
    port = world.servers[name].port
    down, up = KINDS[name][kind]
    command = ["curl", "--silent", "--show-error", "--insecure", "--http1.1", "--tls13-ciphers", "TLS_AES_256_GCM_SHA384"]
    if name == "wicketgate":
        command += ["-H", f"Cookie: {world.operator['Cookie']}"]
    if direction == "down":
        command += ["-o", "/dev/null", f"https://{HOST}:{port}{down}"]
    else:
        command += ["-H", "Expect:", "-T", str(world.folder / "www/1g"), f"https://{HOST}:{port}{up}"]
        command += ["-o", str(world.folder / "load/answer")]
    (world.folder / "load").mkdir(exist_ok=True)
    watch = Memory(world, name)
    before = world.cpu(name)
    done = subprocess.run([*command, "-w", "%{stderr}%{json}"], capture_output=True, text=True)
    cpu = world.cpu(name) - before
    memory = watch.stop()
    said = json.loads(done.stderr[done.stderr.index("{"):]) if done.returncode == 0 else {}
    passed = said.get("size_download") if direction == "down" else said.get("size_upload")
    if direction == "up" and said.get("http_code") == 200:
        passed = int((world.folder / "load/answer").read_text())
    if said.get("http_code") != 200 or passed != GIBIBYTE:
        raise SystemExit(f"{name} passed {passed} bytes {direction}: {done.stderr[:500]}")
    return {"mib_s": passed / (1 << 20) / said["time_total"], "cpu_s": cpu, **memory}


class Memory:
    """Resident bytes of a server before, while and after something happens."""

    def __init__(self, world, name):
        self.look = lambda: world.resident(name)
        self.before = self.most = self.look()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def watch(self):
        while not self.done.wait(MOMENT):
            self.most = max(self.most, self.look())

    def stop(self):
        self.done.set()
        self.thread.join()
        after = self.look()
        return {"before": self.before, "most": max(self.most, after), "after": after}
