"""A whole grid as its users have it: `gridx up` in a folder, and `gridx` as one of its users."""

import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import Process, clean_environment, running

PASSWORD = "correct horse"
COMMAND_S = 60.0
GRIDX = str(Path(sys.executable).with_name("gridx"))


@dataclass(frozen=True)
class Person:
    """Somebody with a home folder, who types commands."""

    environment: dict[str, str]

    def gridx(self, *words: str, feed: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        """Run one command to its end; its input ends after `feed`."""
        return subprocess.run(
            [GRIDX, *words],
            env=self.environment | more,
            input=feed,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )

    def ok(self, *words: str, feed: str = "", **more: str) -> str:
        """What a command that must succeed prints."""
        done = self.gridx(*words, feed=feed, **more)
        assert done.returncode == 0, f"gridx {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def json(self, *words: str) -> Any:
        """What a command that must succeed says to programs."""
        return json.loads(self.ok(*words, "--json"))

    def command(self, *words: str) -> tuple[str, ...]:
        """The words that start a command, for `Process`."""
        return (GRIDX, *words)


@dataclass(frozen=True)
class Grid:
    """A running `gridx up`: its process, its address, and its folder."""

    process: Process
    url: str
    folder: Path

    def person(self, home: Path, user_id: str | None = None) -> Person:
        """Somebody at this machine, with an account of their own unless they are the admin."""
        home.mkdir(exist_ok=True)
        somebody = Person(clean_environment(home, GRIDX_URL=self.url))
        if user_id is not None:
            word = "login" if user_id == "admin" else "register"
            somebody.ok(word, "--user", user_id, GRIDX_PASSWORD=PASSWORD)
        return somebody


@contextmanager
def grid_up(folder: Path, *flags: str, **more: str) -> Generator[Grid]:
    """`gridx up` on any port for the length of a `with` block."""
    environment = clean_environment(folder.parent, GRIDX_ADMIN_PASSWORD=PASSWORD, **more)
    words = (GRIDX, "up", "--data", str(folder), "--port", "0", *flags)
    with running(*words, env=environment) as process:
        ready = process.wait_for(r"Grid-X is ready at (\S+)")
        yield Grid(process, ready.group(1), folder)
