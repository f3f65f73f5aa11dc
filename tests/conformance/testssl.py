"""Where testssl.sh comes from: version 3.2 gives grades, older Debians have 3.0.

From the release that has 3.2 comes this one package, through an apt with sources, lists and caches
of its own below the target directory: apt verifies it with Debian's archive keyring, nothing is
installed, and the machine's own sources stay what they are.
"""

import os
import shutil
import subprocess
from pathlib import Path

from world import TARGET

RELEASE = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "http://deb.debian.org/debian"
HOME = TARGET / "testssl"
# The lists are 10 MB; on a slow line it is given up rather than waited for.
PATIENCE = 300


class Missing(Exception):
    """Why it can't be had here."""


def graded():
    """The command and the environment of a testssl.sh that grades, or `Missing`.

    `TESTSSL=PATH` names another one.
    """
    if named := os.environ.get("TESTSSL"):
        return named, os.environ
    if not (HOME / "usr/bin/testssl").exists():
        fetch()
    return str(HOME / "usr/bin/testssl"), {**os.environ, "TESTSSL_INSTALL_DIR": str(HOME / "etc/testssl")}


def fetch():
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise Missing(f"there is no {tool} here")
    if not KEYRING.exists():
        raise Missing(f"there is no {KEYRING} to verify it with")
    shutil.rmtree(HOME, ignore_errors=True)
    apt = HOME / "apt"
    for part in ("state/lists/partial", "cache/archives/partial", "sources"):
        (apt / part).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources/debian.sources").write_text(
        f"Types: deb\nURIs: {MIRROR}\nSuites: {RELEASE}\nComponents: main\nTargets: Packages\nSigned-By: {KEYRING}\n"
    )
    settings = {
        "Dir::State": apt / "state", "Dir::State::status": apt / "status", "Dir::Cache": apt / "cache",
        "Dir::Etc::sourcelist": "/dev/null", "Dir::Etc::sourceparts": apt / "sources",
        "Dir::Etc::preferences": "/dev/null", "Dir::Etc::preferencesparts": "/dev/null",
        # What is verified, and only that; whatever the machine's own configuration says.
        "APT::Get::AllowUnauthenticated": "false", "Acquire::AllowInsecureRepositories": "false",
        "Acquire::AllowWeakRepositories": "false", "Acquire::http::Timeout": "30", "Acquire::Retries": "2",
        # A folder of this user's isn't open to apt's own.
        "APT::Sandbox::User": "root",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    # An update that fetched nothing is no error of apt's without `--error-on=any`.
    run(["apt-get", *options, "-qq", "update", "--error-on=any"], apt)
    run(["apt-get", *options, "-qq", "download", "testssl.sh"], apt)
    packages = list(apt.glob("testssl.sh_*.deb"))
    if len(packages) != 1:
        raise Missing(f"apt brought {[package.name for package in packages]}")
    # Unpacked beside it and moved, so that a broken attempt isn't taken for a whole one.
    run(["dpkg-deb", "-x", str(packages[0]), "unpacked"], apt)
    for part in ("etc", "usr"):
        (apt / "unpacked" / part).rename(HOME / part)
    shutil.rmtree(apt)


def run(command, folder):
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise Missing(f"`{command[0]}` took longer than {PATIENCE} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing said"]
        raise Missing(f"`{command[0]}`: {said[0]}")
