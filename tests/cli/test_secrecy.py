"""Secrets that came by the environment or the command line can be read there no more."""

import os
import subprocess
import sys

LOOK = """
import os, subprocess, sys
from pathlib import Path
from gridx.cli.service import secrecy
secrecy.hide()
show = "import os; print(sorted(os.environ.items()))"
for name in ("environ", "cmdline"):
    print(Path("/proc/self", name).read_bytes())
print(os.environ["PATH"], sys.argv)
print(subprocess.run([sys.executable, "-c", show], capture_output=True, text=True).stdout)
"""
WORDS = ("--user", "alice", "--token", "secret-1", "--password=secret-2", "--name", "desk")


def test_they_are_blanked_and_nothing_else_is() -> None:
    environment = os.environ | {
        "GRIDX_TOKEN": "secret-3",
        "GRIDX_PASSWORD": "secret-4",
        "GRIDX_STORAGE__URL": "postgresql://grid:secret-5@db/grid",
        "GRIDX_USER": "alice",
        "OTHER": "is-kept",
    }
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *WORDS],
        env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    environ, cmdline, rest = done.stdout.split("\n", 2)
    assert "secret" not in environ
    assert "GRIDX_TOKEN=xxxxxxxx" in environ
    assert "GRIDX_USER=alice" in environ
    assert "OTHER=is-kept" in environ
    assert "secret" not in cmdline
    assert r"alice\x00--token\x00xxxxxxxx\x00--password=xxxxxxxx\x00--name\x00desk" in cmdline
    own, child = rest.split("\n", 1)
    assert own.startswith(environment["PATH"])
    assert "secret-1" in own, "the program itself still knows"
    assert "secret" not in child
    assert "is-kept" in child
