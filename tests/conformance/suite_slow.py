"""Clients that are slow on purpose (slowhttptest's four modes), and all of testssl.sh."""

import json
import os
import re
import subprocess
import time
from pathlib import Path

from lab import Cases, check, issue, not_checked
from testssl import RELEASE, Missing, graded
from world import HOST, install_missing

cases = Cases()

CONNECTIONS, SECONDS = 400, 25


def configure(config):
    tools = {"slowhttptest": "slowhttptest", "openssl": "openssl", "hexdump": "bsdextrautils", "ps": "procps", "dig": "bind9-dnsutils"}
    install_missing(tools)
    # Shorter than by default, so that a test needn't be long to see them.
    listener = config["listeners"][0]
    del listener["tls"]["minimum_version"]
    issue(Path(listener["tls"]["certificates"][0]["certificate"]).parent)
    # slowhttptest sends no server name, which only an address may do without.
    config["routes"].append({**config["routes"][0], "name": "by-address", "host": "127.0.0.1"})
    listener["limits"] = {"handshake_timeout": "3s", "header_timeout": "3s", "idle_timeout": "5s", "data_rate_grace": "3s"}


def sockets(world):
    """How many sockets and other files the gate holds."""
    return len(list(Path(f"/proc/{world.gate.process.pid}/fd").iterdir()))


def slow(name, *mode, target="/first", stands=True):
    """`stands`: the attack holds connections, until the gate closes them."""

    @cases(name)
    def case(world):
        before = sockets(world)
        command = ["slowhttptest", "-c", str(CONNECTIONS), "-r", "200", "-l", str(SECONDS), "-i", "1", "-p", "3", "-v", "1"]
        url = f"https://127.0.0.1:{world.gate.port}{target}"
        attack = subprocess.Popen(
            [*command, "-j", world.gate.cookie, "-u", url, *mode], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        held, slowest, last = 0, 0.0, before
        begun = time.monotonic()
        while attack.poll() is None and time.monotonic() - begun < SECONDS + 30:
            asked = time.monotonic()
            world.neighbour_is_served()
            slowest = max(slowest, time.monotonic() - asked)
            last = sockets(world)
            held = max(held, last)
            time.sleep(0.1)
        said = re.sub(r"\x1b\[[\d;]*m", "", attack.communicate(timeout=30)[0])
        if stands:
            check(held > before + CONNECTIONS // 4, f"the attack never stood: {held} sockets\n{said[-1000:]}")
        check(re.search(r"service available:\s+YES", said), said[-1000:])
        check(slowest < 5, f"a neighbour waited {slowest:.1f} s")
        # Closed by the gate, while the attacker would have gone on.
        check(last < before + CONNECTIONS // 4, f"{last} sockets are still held of {held}, {before} before")
        check(not world.upstream.garbage, f"{world.upstream.garbage[:1]}")
        print(f"    {name}: {held} sockets at most, {last} at the end, slowest neighbour {slowest * 1000:.0f} ms", flush=True)


slow("slow headers (Slowloris)", "-H", "-x", "24")
slow("slow body that stalls", "-B", "-s", "8192", "-x", "10", "-i", "15")
slow("slow body that trickles", "-B", "-s", "8192", "-x", "10")
slow("ranges (Apache killer)", "-R", "-a", "5", "-b", "3000", "-t", "HEAD", stands=False)
slow("slow read", "-X", "-w", "10", "-y", "200", "-n", "1", "-z", "5", "-k", "1", target="/large")

# What a site may hold against its certificate or its records in DNS, not against the gate; and the
# order of cipher suites: each of them is a good one, so the client's stands (as Mozilla advises).
ACCEPTED = {"cipher_order", "DNS_CAArecord"}
# How the score comes about, not what is wrong.
RATING = ("grade_cap", "rating", "overall_grade", "final_score")
# A is what is asked for; the gate's HSTS makes it the one above.
GRADE = "A+"


@cases("testssl.sh: no finding above low, and grade A+")
def _(world):
    try:
        testssl, environment = graded()
    except Missing as missing:
        not_checked(f"testssl.sh's grade (3.2 gives one, from Debian {RELEASE}): {missing}")
        install_missing({"testssl": "testssl.sh"})
        testssl, environment = "testssl", os.environ
    out = world.folder / "testssl.json"
    options = ["--quiet", "--color", "0", "--warnings", "batch", "--ip", "one", "--nodns", "min", "--jsonfile", str(out)]
    # The authority is one of this run: without it, the grade would be T, whatever else is good.
    authority = ["--add-ca", str(world.folder / "ca.pem")]
    command = [testssl, *options, *authority, f"https://{HOST}:{world.gate.port}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    check(out.exists(), f"no findings: {(done.stdout + done.stderr)[-1000:]}")
    findings = json.loads(out.read_text())
    check(len(findings) > 80, f"only {len(findings)} findings")
    bad = [
        f"{each['id']}: {each['severity']}: {each['finding']}"
        for each in findings
        if each["severity"] in ("LOW", "MEDIUM", "HIGH", "CRITICAL", "FATAL")
        and each["id"] not in ACCEPTED and not each["id"].startswith(RATING)
    ]
    values = {each["id"]: each["finding"] for each in findings}
    for old in ("SSLv2", "SSLv3", "TLS1", "TLS1_1"):
        check("not offered" in values[old], f"{old}: {values[old]}")
    for good in ("TLS1_2", "TLS1_3"):
        check(values[good].startswith("offered"), f"{good}: {values[good]}")
    rating = [f"{name}: {value}" for name, value in values.items() if name.startswith(RATING)]
    grade = values.get("overall_grade")
    if testssl != "testssl" and grade != GRADE:
        bad += rating or ["there is no grade"]
    check(not bad, "\n    ".join(bad))
    print(f"    testssl.sh: grade {grade}, score {values.get('final_score')}, {len(findings)} findings", flush=True)
