"""What sslyze finds out about the gate's TLS: versions, cipher suites, known flaws."""

import json
import socket
import ssl
import subprocess
import sys
from pathlib import Path

from lab import PATIENCE, Cases, check, issue, until
from world import HOST, tls_context

cases = Cases()

# TLS 1.2 with forward secrecy and authenticated encryption only (RFC 9325, section 4.2).
TLS_1_2 = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
}
TLS_1_3 = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}
CHECKS = """--mozilla_config=disable --sslv2 --sslv3 --tlsv1 --tlsv1_1 --tlsv1_2 --tlsv1_3 --elliptic_curves --heartbleed
 --openssl_ccs --compression --early_data --robot --reneg --ems --certinfo""".split()
CURVES = {"X25519", "X448", "secp256r1", "secp384r1", "secp521r1"}


def configure(config):
    # The defaults, TLS 1.2 included.
    tls = config["listeners"][0]["tls"]
    del tls["minimum_version"]
    issue(Path(tls["certificates"][0]["certificate"]).parent)


def scan(world):
    """All of sslyze's checks, once."""
    if not hasattr(world, "sslyze"):
        out = world.folder / "sslyze.json"
        target = f"{HOST}:{world.gate.port}"
        command = [sys.executable, "-m", "sslyze", *CHECKS, f"--json_out={out}", "--quiet", target]
        subprocess.run(command, check=True, capture_output=True, timeout=150)
        [result] = json.loads(out.read_text())["server_scan_results"]
        check(result["scan_status"] == "COMPLETED", f"sslyze: {result['connectivity_error_trace']}")
        world.sslyze = result["scan_result"]
    return world.sslyze


def found(world, name):
    attempt = scan(world)[name]
    check(attempt["status"] == "COMPLETED", f"{name}: {attempt['error_reason']} {attempt['error_trace']}")
    return attempt["result"]


def suites(world, version):
    return {each["cipher_suite"]["name"] for each in found(world, f"{version}_cipher_suites")["accepted_cipher_suites"]}


for old in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"):

    @cases(f"{old} is not spoken")
    def _(world, old=old):
        check(not suites(world, old), f"{suites(world, old)}")


@cases("TLS 1.2 has the good cipher suites and no others")
def _(world):
    check(suites(world, "tls_1_2") == TLS_1_2, f"{suites(world, 'tls_1_2')}")


@cases("TLS 1.3 has all of its cipher suites")
def _(world):
    check(suites(world, "tls_1_3") == TLS_1_3, f"{suites(world, 'tls_1_3')}")


@cases("keys are exchanged on curves without known weaknesses")
def _(world):
    curves = {curve["name"] for curve in found(world, "elliptic_curves")["supported_curves"]}
    check(curves and curves <= CURVES, f"{curves}")


for name, word in {
    "heartbleed": "is_vulnerable_to_heartbleed",
    "openssl_ccs_injection": "is_vulnerable_to_ccs_injection",
    "tls_compression": "supports_compression",
    "tls_1_3_early_data": "supports_early_data",
}.items():

    @cases(f"no {name}")
    def _(world, name=name, word=word):
        check(found(world, name)[word] is False, f"{found(world, name)}")


@cases("no ROBOT")
def _(world):
    result = found(world, "robot")["robot_result"]
    check(result.startswith("NOT_VULNERABLE"), result)


@cases("no renegotiation, neither insecure nor at a client's will")
def _(world):
    result = found(world, "session_renegotiation")
    check(result["supports_secure_renegotiation"], f"{result}")
    check(not result["is_vulnerable_to_client_renegotiation_dos"], f"{result}")


@cases("the extended master secret (RFC 7627)")
def _(world):
    check(found(world, "tls_extended_master_secret")["supports_ems_extension"], "is missing")


@cases("the certificate is the host's, with a key and signature of today")
def _(world):
    [deployment] = found(world, "certificate_info")["certificate_deployments"]
    leaf = deployment["received_certificate_chain"][0]
    names = leaf["subject_alternative_name"]["dns_names"]
    check(names == [HOST], f"{names}")
    check(leaf["public_key"]["algorithm"].startswith("EC"), f"{leaf['public_key']}")
    check(leaf["signature_hash_algorithm"]["name"] == "sha256", f"{leaf['signature_hash_algorithm']}")


def complies(world, profile):
    """Whether sslyze finds nothing that differs from one of Mozilla's server-side TLS profiles."""
    authority = ["--certinfo_ca_file", str(world.folder / "ca.pem")]
    command = [sys.executable, "-m", "sslyze", f"--mozilla_config={profile}", *authority, f"{HOST}:{world.gate.port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    _, found, said = done.stdout.partition("COMPLIANCE AGAINST")
    check(found and done.returncode == 0 and ": OK - Compliant" in said, f"{said or done.stdout[-500:]}{done.stderr[-500:]}")


@cases("Mozilla's intermediate profile, with TLS 1.2")
def _(world):
    complies(world, "intermediate")


@cases("Mozilla's modern profile, with minimum_version 1.3")
def _(world):
    config = json.loads(world.gate.config.read_text())
    config["listeners"][0]["tls"]["minimum_version"] = "1.3"
    world.gate.config.write_text(json.dumps(config, indent=1))
    context = tls_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def refused():
        try:
            with socket.create_connection(("127.0.0.1", world.gate.port), timeout=PATIENCE) as plain:
                context.wrap_socket(plain, server_hostname=HOST).close()
        except ssl.SSLError:
            return True

    until("the reload", refused)
    complies(world, "modern")
