"""Clients that are slow on purpose (slowhttptest's four modes), and all of testssl.sh."""

import json
import re
import subprocess
import time
from pathlib import Path

from lab import Cases, check
from world import HOST, install_missing

cases = Cases()

CONNECTIONS, SECONDS = 400, 25


def configure(config):
    install_missing({"slowhttptest": "slowhttptest", "testssl": "testssl.sh"})
    # Shorter than by default, so that a test needn't be long to see them.
    listener = config["listeners"][0]
    del listener["tls"]["minimum_version"]
    issue(Path(listener["tls"]["certificates"][0]["certificate"]).parent)
    # slowhttptest sends no server name, which only an address may do without.
    config["routes"].append({**config["routes"][0], "name": "by-address", "host": "127.0.0.1"})
    listener["limits"] = {"handshake_timeout": "3s", "header_timeout": "3s", "idle_timeout": "5s"}


def issue(folder):
    """A certificate as a site would have it, from an authority of its own that testssl.sh is told."""
    run = lambda *command: subprocess.run(["openssl", *command], check=True, capture_output=True, cwd=folder)
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    uses = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    run("req", "-x509", *curve, "-days", "30", "-subj", "/CN=Conformance CA", *uses, "-keyout", "ca.key", "-out", "ca.pem")
    run("req", *curve, "-subj", f"/CN={HOST}", "-keyout", "key.pem", "-out", "leaf.csr")
    (folder / "leaf.cnf").write_text(
        f"subjectAltName=DNS:{HOST},IP:127.0.0.1\nextendedKeyUsage=serverAuth\nkeyUsage=critical,digitalSignature\n"
        "basicConstraints=CA:FALSE\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        "crlDistributionPoints=URI:http://127.0.0.1:9/ca.crl\n"
    )
    signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "29", "-extfile", "leaf.cnf"]
    run("x509", "-req", "-in", "leaf.csr", *signing, "-out", "cert.pem")
    (folder / "key.pem").chmod(0o600)


def sockets(world):
    """How many sockets and other files the gate holds."""
    return len(list(Path(f"/proc/{world.gate.process.pid}/fd").iterdir()))


def slow(name, *mode, target="/first", stands=True, closed=True):
    """`stands`: the attack holds connections; `closed`: until the gate closes them."""

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
        if closed:
            check(last < before + CONNECTIONS // 4, f"{last} sockets are still held of {held}, {before} before")
        check(not world.upstream.garbage, f"{world.upstream.garbage[:1]}")
        print(f"    {name}: {held} sockets at most, {last} at the end, slowest neighbour {slowest * 1000:.0f} ms", flush=True)


slow("slow headers (Slowloris)", "-H", "-x", "24")
slow("slow body that stalls", "-B", "-s", "8192", "-x", "10", "-i", "15")
# A body that keeps coming, however slowly, may be a slow client's as well as an attacker's.
slow("slow body that trickles", "-B", "-s", "8192", "-x", "10", closed=False)
slow("ranges (Apache killer)", "-R", "-a", "5", "-b", "3000", "-t", "HEAD", stands=False)
slow("slow read", "-X", "-w", "10", "-y", "200", "-n", "1", "-z", "5", "-k", "1", target="/large")

# What a throw-away certificate of one name, without an authority, can't have.
OF_THE_CERTIFICATE = ("cert_", "OCSP", "CRL", "DNS_CAA", "ipv", "security_headers", "HTTP_", "grade_cap", "overall_grade")


@cases("testssl.sh: no finding above low but on the throw-away certificate, and full marks but for that")
def _(world):
    out = world.folder / "testssl.json"
    command = ["testssl", "--quiet", "--color", "0", "--warnings", "batch", "--ip", "one", "--nodns", "min", "--jsonfile", str(out), "--add-ca", str(world.folder / "ca.pem")]
    subprocess.run([*command, f"https://{HOST}:{world.gate.port}"], capture_output=True, timeout=400)
    findings = json.loads(out.read_text())
    import os, shutil; shutil.copy(out, "/tmp/never-testssl.json")
    check(len(findings) > 80, f"only {len(findings)} findings")
    bad = [
        f"{each['id']}: {each['severity']}: {each['finding']}"
        for each in findings
        # Every cipher suite here is a good one, so the client's order stands (as Mozilla advises).
        if each["id"] != "cipher_order"
        and each["severity"] in ("MEDIUM", "HIGH", "CRITICAL", "FATAL") and not each["id"].startswith(OF_THE_CERTIFICATE)
    ]
    check(not bad, "\n    ".join(bad))
    values = {each["id"]: each["finding"] for each in findings}
    print(f"    testssl.sh: score {values.get('final_score')}, {len(findings)} findings", flush=True)
    for old in ("SSLv2", "SSLv3", "TLS1", "TLS1_1"):
        check("not offered" in values[old], f"{old}: {values[old]}")
    for good in ("TLS1_2", "TLS1_3"):
        check(values[good].startswith("offered"), f"{good}: {values[good]}")
