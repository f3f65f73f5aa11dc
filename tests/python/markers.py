"""Tables that scripts write into documents, between markers of their own."""

import hashlib
import os
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def stamp(program, version=True):
    """When and from what a table's figures come: date, commit, the program's version and digest, cores.

    A commit whose files are not all as committed is marked `+`; the digest says which tables have the
    same binary."""
    ask = lambda *command: subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    commit = ask("git", "rev-parse", "--short", "HEAD") or "no commit"
    # What the tables themselves change is no change.
    changed = ask("git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    digest = hashlib.sha256(program.read_bytes()).hexdigest()[:8]
    named = f"{ask(program.resolve(), '--version') if version else program.name.partition('-')[0]} (sha256 {digest})"
    return f"{time.strftime('%Y-%m-%d')}, commit {commit}{'+' if changed else ''}, {named}, {os.cpu_count()} cores"


def write_between(path, name, text):
    """Puts `text` between `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""
    document = path.read_text()
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    if begin not in document or end not in document:
        raise SystemExit(f"{path} lacks the markers {begin.strip()} and {end}")
    before, after = document.split(begin)[0], document.split(end)[1]
    path.write_text(f"{before}{begin}\n{text.strip()}\n\n{end}{after}")
