"""A work folder to fill and what the collector takes of it, for the tests of both."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from gridx.worker.sandbox.base import Outcome, Wanted
from gridx.worker.sandbox.collector import Collected, Why, _collect

MB = 1 << 20


class Folders:
    """A work folder to fill, and the worker's own folder that takes the copies."""

    def __init__(self, root: Path) -> None:
        self.work = root / "work"
        self.into = root / "into"
        for each in (self.work, self.into):
            each.mkdir()

    def wanted(self, *patterns: str, bytes_max: int = 8 * MB, files_max: int = 100) -> Wanted:
        return Wanted(patterns or ("**",), self.into, bytes_max, files_max)

    def write(self, path: str, content: bytes = b"mine") -> Path:
        file = self.work / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return file

    def take(
        self, wanted: Wanted | None = None, go_on: Callable[[], None] = lambda: None
    ) -> tuple[dict[str, bytes], dict[Why, int]]:
        """What was kept, by path, and what was left out; the copies are checked and removed."""
        collected = _collect(os.open(self.work, os.O_PATH), wanted or self.wanted(), go_on)
        return self.emptied(collected), dict(collected.left_out)

    def emptied(self, collected: Collected | Outcome) -> dict[str, bytes]:
        """The files that were kept, by path, checked and removed from the worker's folder."""
        assert {each.name for each in self.into.iterdir()} == {e.sha256 for e in collected.files}
        found: dict[str, bytes] = {}
        for each in collected.files:
            content = (self.into / each.sha256).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (each.size, each.sha256)
            found[each.path] = content
        for copy in self.into.iterdir():
            assert copy.stat().st_mode & 0o7777 == 0o600
            copy.unlink()
        return found


def at_call(number: int, action: Callable[[], None]) -> Callable[[], None]:
    """What the collector calls all the time; acts once."""
    calls = iter(range(1_000_000))
    return lambda: action() if next(calls) == number else None
