"""The story of one run: what happened, in words, and the first thing that must not have happened."""

import hashlib
import logging
import re
from collections.abc import Callable, Generator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, NoReturn

import structlog

TOLD_LAST = 40
TOLD_OF_JOB = 60
LOGGED_BUGS = frozenset(
    {
        "task_failed",
        "round_failed",
        "upkeep_failed",
        "delays_failed",
        "sweep_failed",
        "socket_failed",
        "attempt_failed",
    }
)
"""What the product logs when it caught a bug of its own."""


_ID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_SHORT = re.compile(r"\b[0-9a-f]{8}\b")
_LEASE = re.compile(r"lease ([0-9a-f]{8})\b")


class Story:
    """Lines of what happened, each with its time; `digest` tells two stories apart."""

    def __init__(self, now_s: Callable[[], float], stop: Callable[[], None]) -> None:
        """`stop` is called at the first violation."""
        self.lines: list[str] = []
        self.violation: str | None = None
        self.steps = 0
        """How many transactions were committed, each followed by a check."""
        self.checks = 0
        """How many things were checked in all."""
        self._now_s = now_s
        self._stop = stop

    def tell(self, text: str) -> None:
        """Something happened."""
        self.lines.append(f"{self._now_s():10.4f}  {text}")

    def broken(self, text: str) -> None:
        """Something that must hold does not: the run ends here."""
        if self.violation is None:
            self.violation = text
            self.tell(f"BROKEN: {text}")
            self._stop()

    def must(self, holds: object, text: str) -> None:
        """State something that must hold."""
        self.checks += 1
        if not holds:
            self.broken(text)

    @property
    def digest(self) -> str:
        """The same for the same story."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()[:16]

    def end(self) -> str:
        """The last lines, and all those about what the violation names; nothing without one."""
        if self.violation is None:
            return ""
        names = {name[:8] for name in _ID.findall(self.violation)}
        about = [line for line in self.lines if names & set(_SHORT.findall(line))]
        names |= {name for line in about for name in _LEASE.findall(line)}
        about = [line for line in self.lines if names & set(_SHORT.findall(line))]
        if about:
            about = ["  what is known of what is named:", *about[-TOLD_OF_JOB:]]
        return "\n".join([*about, "  the last that happened:", *self.lines[-TOLD_LAST:]])

    # -------------------------------------------------------------- the product's own log

    @contextmanager
    def listening(self) -> Generator[None]:
        """Warnings of the product become part of the story, its bugs violations."""
        before = structlog.get_config()
        structlog.configure(
            processors=[self._log],
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            cache_logger_on_first_use=False,
        )
        try:
            yield
        finally:
            structlog.configure(**before)

    def _log(self, _logger: Any, method: str, entry: MutableMapping[str, Any]) -> NoReturn:
        if method in ("warning", "error", "exception") and self.violation is None:
            event = str(entry.get("event"))
            told = _shortened({k: v for k, v in entry.items() if k not in ("event", "exc_info")})
            failure = entry.get("exc_info")
            self.tell(f"log: {event} {told}")
            if event in LOGGED_BUGS:
                self.broken(f"the product logged {event} {told} {_cause(failure)}")
        raise structlog.DropEvent


def short(name: str | None) -> str:
    """The first part of an id."""
    return (name or "-")[:8]


def _shortened(entry: Mapping[str, Any]) -> str:
    words: list[str] = []
    for name, value in entry.items():
        text = str(value)
        words.append(f"{name}={text[:8] if len(text) == 36 else text[:80]}")
    return " ".join(words)


def _cause(failure: object) -> str:
    import sys
    import traceback

    error = sys.exc_info()[1] if failure is True else failure
    if not isinstance(error, BaseException):
        return ""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    where = " < ".join(f"{f.filename.rpartition('/')[2]}:{f.lineno}" for f in reversed(frames))
    return f"{type(error).__name__}: {error} ({where})"
