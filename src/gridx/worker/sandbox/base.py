"""What a sandbox backend promises to the rest of the worker; no I/O here.

A backend runs one program at a time per call of `run`, keeps it from the machine and from its
neighbours, holds it to its limits and says how it ended. Backends do not know each other; the
worker knows only this module.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from gridx.domain.attempt import Reason, Usage
from gridx.domain.sandbox import Enforcement as Enforcement


class Stream(StrEnum):
    """Which of a program's two outputs a piece of it belongs to."""

    STDOUT = "stdout"
    STDERR = "stderr"


_WAITING_MIN, _WAITING_MAX = 2, 8
GRACE_S = 5.0
"""Between TERM and KILL."""

Emit = Callable[[Stream, bytes], None]
"""Takes a piece of output as it arrives; called on the event loop, must not block or raise."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which files of its work folder a job wants kept, and where they go.

    `patterns` are globs relative to the work folder, `**` for any folders; `into` is an empty folder
    of the worker's that takes the copies, named by their digests. Both bounds count all of the
    files together.
    """

    patterns: tuple[str, ...]
    into: Path
    bytes_max: int
    files_max: int


@dataclass(frozen=True, slots=True)
class Program:
    """What to run: `code` in `language` (one of `domain.job.LANGUAGES`), as the job gave it.

    `image` is the OCI image to run it in, for the backends that have such; `outputs` says what is
    kept of its work folder.
    """

    language: str
    code: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    stdin: str = ""
    image: str | None = None
    outputs: Wanted | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What one attempt may take; `output_bytes` counts for each stream on its own."""

    timeout_s: float = 60.0
    output_bytes: int = 1_048_576
    processes: int = 64
    memory_mb: int = 256
    cpus: float = 1.0
    disk_mb: int = 256


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that was kept: its path in the work folder, and the SHA-256 of its content in hex."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended.

    `reason` is None exactly when the program exited with 0; `exit_code` is None when the grid ended
    it. A program that a signal ended has 128 plus the signal. `detail` is a sentence or two for a
    person, and never holds a word of the job's. `files` are those of `Program.outputs` that were
    kept, in the order of their paths; those that could not be are told in `detail`.
    """

    exit_code: int | None
    reason: Reason | None
    usage: Usage = Usage()
    detail: str = ""
    files: tuple[OutputFile, ...] = ()


NEVER_RAN = Outcome(None, Reason.CANCELLED, detail="The job was cancelled before it ran.")


def broken(why: str | Exception, usage: Usage | None = None) -> Outcome:
    """A failure that is the sandbox's and not the job's: `why` ends the sentence that says so.

    Of a system error only the reason is told: where its file lies is the owner's business.
    """
    if isinstance(why, OSError) and why.strerror:
        why = why.strerror
    told = str(why).rstrip(".")
    return Outcome(None, Reason.SANDBOX_ERROR, usage or Usage(), f"The sandbox failed: {told}.")


def lacking(enforces: Collection[Enforcement]) -> tuple[Enforcement, ...]:
    """All that is not enforced, in the order of `Enforcement`."""
    return tuple(each for each in Enforcement if each not in enforces)


@dataclass(frozen=True, slots=True)
class Report:
    """What a backend found about itself on this host.

    `why_not` is one sentence when it does not work; `advice` holds commands that would help,
    also where it works but cannot enforce everything.
    """

    backend: str
    works: bool
    why_not: str = ""
    enforces: frozenset[Enforcement] = frozenset()
    advice: tuple[str, ...] = ()

    @property
    def lacks(self) -> tuple[Enforcement, ...]:
        """What it cannot enforce here, in the order of `Enforcement`."""
        return lacking(self.enforces)


class Sandbox(Protocol):
    """One way to run programs apart from the machine."""

    @property
    def name(self) -> str:
        """The backend's published name."""
        ...

    @property
    def lacks(self) -> tuple[Enforcement, ...] | None:
        """What it cannot enforce here, as far as opening it has shown; None until a probe tells."""
        ...

    async def probe(self) -> Report:
        """Try it out for real and say what it can enforce here; needs no `open`."""
        ...

    async def open(self) -> None:
        """Make ready: sweep up what a predecessor left, start what waits ahead.

        Raises `Unavailable` when nothing can be run here, saying what to do.
        """
        ...

    async def run(
        self,
        attempt_id: str,
        program: Program,
        limits: Limits,
        emit: Emit,
        cancel: asyncio.Event,
    ) -> Outcome:
        """Run `program` to its end and leave nothing of it behind.

        Never raises for what the job or the host does: a failure of the backend is an `Outcome`
        with `Reason.SANDBOX_ERROR`. Once `cancel` is set the job is told to end (TERM, then KILL
        after 5 s) and the reason is `Reason.CANCELLED`, unless it had ended before.
        """
        ...

    async def answers(self, attempt_id: str) -> bool:
        """Whether what watches over an attempt that runs is there and answers, asked of it now.

        The caller bounds the waiting: one that is stuck need not be told from one that is slow.
        True as well while the attempt is made ready and once it is over, which `run` tells.
        """
        ...

    async def close(self) -> None:
        """End whatever still runs and give everything back."""
        ...


def one_a_cpu() -> int:
    """How many sandboxes wait ready by default: one for each processor, within bounds."""
    return max(_WAITING_MIN, min(_WAITING_MAX, len(os.sched_getaffinity(0))))


Run = Callable[[str, Program, Limits, Emit, asyncio.Event], Awaitable[Outcome]]


async def try_out(run: Run) -> str:
    """Run one program by `Sandbox.run`; why it did not come to its end, or nothing."""
    program, limits = Program("bash", "exit 0"), Limits(timeout_s=10.0)
    end = await run("probe", program, limits, _unheard, asyncio.Event())
    return "" if end.reason is None else end.detail


def _unheard(_stream: Stream, _piece: bytes) -> None:
    return
