"""The collector: takes the files that a job wants kept out of its work folder, whatever it made of it.

Theory of operation. It is given the open folder, never a path. Everything below is opened by its one
name in the open folder that holds it, first as a handle only, which follows no link, waits for no
FIFO and wakes no device. What the handle stands for is looked at, and read through the handle. So a
swap behind its back changes what is found, never where it looks: no other process can make it leave
the folder. What it looks at, takes and remembers is bounded, and so is its time. Nothing is guessed:
what is not kept is counted under its reason, and no name of the job's is repeated in a message.
"""

import asyncio
import errno
import hashlib
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import StrEnum

from gridx.clock import Clock
from gridx.domain.attempt import Reason
from gridx.worker.sandbox.base import Outcome, OutputFile, Wanted, broken
from gridx.worker.sandbox.inside import kernel
from gridx.worker.sandbox.patterns import CHARACTERS_MAX, Patterns

ENTRIES_MAX = 100_000
FOLDERS_MAX = 32
PATH_BYTES_MAX = 1024
WITHIN_S = 60.0
_READ_BYTES = 1 << 20
_PART = "part"
_NOT_COLLECTED = frozenset({Reason.CANCELLED, Reason.SANDBOX_ERROR})


class Why(StrEnum):
    """Why something that was asked for is not kept, in the words of the message."""

    LINK = "links"
    HARD_LINK = "files with several names"
    SPECIAL = "devices, FIFOs and sockets"
    SET_ID = "set-uid and set-gid files"
    OUTSIDE = "things outside of the work folder"
    UNREADABLE = "files and folders that may not be read"
    NAME = "names that are not printable text"
    LONG = f"paths longer than {PATH_BYTES_MAX} bytes"
    DEEP = f"folders inside {FOLDERS_MAX} others"
    COUNT = "files over their number"
    BYTES = "files over their size in all"
    PATTERNS = f"patterns of more than {CHARACTERS_MAX} characters in all"
    UNSEEN = f"folders cut short after {ENTRIES_MAX} entries in all"


@dataclass(frozen=True, slots=True)
class Collected:
    """What was kept, in the order of its paths, and how often what was not."""

    files: tuple[OutputFile, ...] = ()
    left_out: Counter[Why] = field(default_factory=Counter[Why])

    def told(self) -> str:
        """What was left out, for a person; empty if nothing was."""
        if not self.left_out:
            return ""
        parts = (f"{why.value} ({self.left_out[why]})" for why in Why if why in self.left_out)
        return f"Not kept of its outputs: {'; '.join(parts)}."


class Cancelled(Exception):
    """The job was cancelled while its files were collected."""


async def keep(
    outcome: Outcome, work: int, wanted: Wanted, cancel: asyncio.Event, clock: Clock
) -> Outcome:
    """`outcome` with the files that its job left in the open folder `work`.

    What cannot be kept is told in the detail and changes nothing else: the program ended as it
    ended. Only trouble of this machine makes a `SANDBOX_ERROR` of it. Once `cancel` is set, and for
    a job that was cancelled, no file is kept.
    """
    if outcome.reason in _NOT_COLLECTED:
        return outcome
    try:
        collected = await collect(work, wanted, cancel, clock)
    except Cancelled:
        told = "Its outputs were not kept: it was cancelled."
        return replace(outcome, detail=f"{outcome.detail} {told}".lstrip())
    except OSError as failure:
        why = failure.strerror or failure
        return broken(f"the job's outputs could not be kept: {why}", outcome.usage)
    detail = f"{outcome.detail} {collected.told()}".strip()
    return replace(outcome, detail=detail, files=collected.files)


async def collect(work: int, wanted: Wanted, cancel: asyncio.Event, clock: Clock) -> Collected:
    """Copy what is `wanted` of the open folder `work`, in a thread of its own.

    Raises `Cancelled`, and `OSError` when this machine fails or takes longer than `WITHIN_S`;
    `wanted.into` then holds something that nobody needs.
    """
    if cancel.is_set():
        raise Cancelled
    stop = threading.Event()
    until = clock.monotonic() + WITHIN_S

    def go_on() -> None:
        if stop.is_set():
            raise Cancelled
        if clock.monotonic() > until:
            raise TimeoutError(f"it took longer than {WITHIN_S:g} s")

    # Not one of the loop's few threads: those sync results, which must not wait for this.
    thread = ThreadPoolExecutor(1, "collector")
    loop = asyncio.get_running_loop()
    walking = loop.run_in_executor(thread, _collect, os.dup(work), wanted, go_on)
    thread.shutdown(wait=False)
    try:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(_set_when(cancel, stop))
            await asyncio.wait([walking])
            watching.cancel()
        return walking.result()
    finally:
        stop.set()
        await asyncio.wait([walking])
        walking.exception()  # which nobody else asks for when this was cancelled itself


async def _set_when(cancel: asyncio.Event, stop: threading.Event) -> None:
    await cancel.wait()
    stop.set()


def _collect(work: int, wanted: Wanted, go_on: Callable[[], None]) -> Collected:
    """`collect` in its thread; closes `work`."""
    into = -1
    try:
        into = os.open(wanted.into, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        if sum(map(len, wanted.patterns)) > CHARACTERS_MAX:
            return Collected(left_out=Counter({Why.PATTERNS: 1}))
        walk = _Walk(work, into, wanted, go_on)
        walk.begin()
        return Collected(tuple(walk.files), walk.left_out)
    finally:
        os.close(work)
        if into >= 0:
            os.close(into)


class _Walk:
    """Goes through one work folder once; `go_on` is called all the time and raises to end it."""

    def __init__(self, work: int, into: int, wanted: Wanted, go_on: Callable[[], None]) -> None:
        self._work = work
        self._into = into
        self._patterns = Patterns(wanted.patterns)
        self._files_max = wanted.files_max
        self._bytes_left = wanted.bytes_max
        self._go_on = go_on
        self._device = os.fstat(work).st_dev
        self._entries = 0
        self._digests: set[str] = set()
        self.files: list[OutputFile] = []
        self.left_out: Counter[Why] = Counter()

    def begin(self) -> None:
        self._count(self._enter(self._work, "", self._patterns.start))

    def _count(self, why: Why | None) -> None:
        if why is not None:
            self.left_out[why] += 1

    def _enter(self, handle: int, above: str, state: int) -> Why | None:
        """Take what is wanted of a folder whose handle this is."""
        if above.count("/") > FOLDERS_MAX:
            return Why.DEEP
        if not _owner_may(handle, stat.S_IRUSR | stat.S_IXUSR):
            return Why.UNREADABLE
        try:
            folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=handle)
        except FileNotFoundError:
            return None  # removed just now
        except PermissionError:
            return Why.UNREADABLE
        os.dup2(folder, handle, inheritable=False)  # in its place: one descriptor a level
        os.close(folder)
        for name, after in sorted(self._named(handle, state)):
            self._go_on()
            self._count(self._open(handle, name, above + name, after))
        return None

    def _named(self, folder: int, state: int) -> Iterator[tuple[str, int]]:
        """The names that are wanted, or lead to such, each with the state behind it."""
        with os.scandir(folder) as entries:
            for entry in entries:
                self._go_on()
                if self._entries == ENTRIES_MAX:
                    self._count(Why.UNSEEN)
                    return
                self._entries += 1
                after = self._patterns.after(state, entry.name)
                # Whether it is a folder is only a hint here, which saves opening the others.
                leads_on = self._patterns.inside(after) and (
                    entry.is_dir(follow_symlinks=False) or entry.is_symlink()
                )
                if leads_on or self._patterns.match(after):
                    yield entry.name, after

    def _open(self, folder: int, name: str, path: str, after: int) -> Why | None:
        if not name.isprintable():
            return Why.NAME
        if len(os.fsencode(path)) > PATH_BYTES_MAX:
            return Why.LONG
        try:
            handle = kernel.open_beneath(folder, name)
        except FileNotFoundError:
            return None  # removed just now
        except PermissionError:
            return Why.UNREADABLE
        except OSError as failure:
            if failure.errno == errno.EXDEV:  # a mount, or moved away just now
                return Why.OUTSIDE
            raise
        try:
            return self._take(handle, path, after)
        finally:
            os.close(handle)

    def _take(self, handle: int, path: str, after: int) -> Why | None:
        """Enter a folder, or keep a file; says why not."""
        found = os.fstat(handle)
        inside = self._patterns.inside(after)
        if found.st_dev != self._device:
            return Why.OUTSIDE
        if stat.S_ISLNK(found.st_mode):
            return Why.LINK
        if stat.S_ISDIR(found.st_mode):
            return self._enter(handle, f"{path}/", inside) if inside else None
        if not self._patterns.match(after):
            return None  # a folder when it was listed
        if not stat.S_ISREG(found.st_mode):
            return Why.SPECIAL
        if found.st_mode & (stat.S_ISUID | stat.S_ISGID):
            return Why.SET_ID
        if found.st_nlink > 1:
            return Why.HARD_LINK
        if len(self.files) >= self._files_max:
            return Why.COUNT
        if found.st_size > self._bytes_left:
            return Why.BYTES
        return self._keep(handle, path, found.st_size)

    def _keep(self, handle: int, path: str, size: int) -> Why | None:
        """Copy the file whose handle this is: what it holds by now, at most `size` bytes."""
        if not _owner_may(handle, stat.S_IRUSR):
            return Why.UNREADABLE
        try:
            source = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK)
        except (PermissionError, BlockingIOError):  # the second for what somebody leases
            return Why.UNREADABLE
        try:
            digest, copied = self._copy(source, size)
        finally:
            os.close(source)
        self._bytes_left -= copied
        self.files.append(OutputFile(path, digest, copied))
        return None

    def _copy(self, source: int, size: int) -> tuple[str, int]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        target = os.open(_PART, flags, 0o600, dir_fd=self._into)
        content, left = hashlib.sha256(), size
        try:
            while left and (piece := os.read(source, min(left, _READ_BYTES))):
                self._go_on()
                content.update(piece)
                left -= len(piece)
                view = memoryview(piece)
                while view:
                    view = view[os.write(target, view) :]
        finally:
            os.close(target)
        digest = content.hexdigest()
        if digest in self._digests:
            os.unlink(_PART, dir_fd=self._into)
        else:
            os.rename(_PART, digest, src_dir_fd=self._into, dst_dir_fd=self._into)
            self._digests.add(digest)
        return digest, size - left


def _owner_may(handle: int, mode: int) -> bool:
    """Whether the mode lets its owner, so that root's worker keeps what an ordinary one does."""
    return os.fstat(handle).st_mode & mode == mode
