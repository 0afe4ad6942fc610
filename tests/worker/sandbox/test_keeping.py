"""Collecting beside everything else: cancelled, out of time, in trouble; and after real jobs."""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from gridx.clock import SystemClock
from gridx.domain.attempt import Reason
from gridx.worker.sandbox.base import Limits, Outcome, Program, Wanted
from gridx.worker.sandbox.bubblewrap import Bubblewrap
from gridx.worker.sandbox.collector import WITHIN_S, Cancelled, collect, keep
from tests.worker.sandbox.folders import MB, Folders, at_call
from tests.worker.sandbox.runs import Ran, Watcher, run

pytestmark = pytest.mark.asyncio(loop_scope="module")

FINE = Outcome(0, None)
NEVER = asyncio.Event()


class Watched(SystemClock):
    """A clock that the collector asks all the time: at the third question it has `work` done.

    The question comes from the collector's thread, which waits for it: the loop is free meanwhile.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._owner = threading.get_ident()
        self._at_question = at_call(2, self._do)
        self._work = work

    def monotonic(self) -> float:
        if threading.get_ident() != self._owner:
            self._at_question()
        return super().monotonic()

    def _do(self) -> None:
        asyncio.run_coroutine_threadsafe(self._on_the_loop(), self._loop).result()

    async def _on_the_loop(self) -> None:
        self._work()
        for _ in range(10):
            await asyncio.sleep(0)


class Late(SystemClock):
    """A clock on which much time passes between two questions."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def monotonic(self) -> float:
        self._now_s += WITHIN_S / 3
        return self._now_s


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


@pytest_asyncio.fixture(loop_scope="module")
async def work(folders: Folders) -> AsyncGenerator[int]:
    """The open work folder, with three files in it; nothing else may stay open or run."""
    for name in "abc":
        folders.write(name, name.encode() * MB)
    handle = os.open(folders.work, os.O_PATH)
    before = _open_files()
    yield handle
    for each in threading.enumerate():
        if each.name.startswith("collector"):
            each.join(30.0)
            assert not each.is_alive()
    assert _open_files() <= before  # what others forgot may be collected meanwhile
    os.close(handle)


async def test_a_cancel_ends_it(folders: Folders, work: int) -> None:
    cancel = asyncio.Event()
    with pytest.raises(Cancelled):
        await collect(work, folders.wanted(), cancel, Watched(cancel.set))
    end = await keep(FINE, work, Wanted(("b",), folders.into, MB, 1), cancel, SystemClock())
    assert (end.exit_code, end.reason, end.files) == (0, None, ())
    assert end.detail == "Its outputs were not kept: it was cancelled."


async def test_whoever_waits_for_it_may_be_cancelled(folders: Folders, work: int) -> None:
    waiting = asyncio.current_task()
    assert waiting is not None
    with pytest.raises(asyncio.CancelledError):
        await collect(work, folders.wanted(), NEVER, Watched(lambda: _cancel(waiting)))
    waiting.uncancel()


async def test_trouble_of_the_worker_is_not_the_jobs(folders: Folders, work: int) -> None:
    fine = folders.wanted()
    for wanted, clock, told in (
        (fine, Late(), "it took longer than 60 s"),
        (replace(fine, into=Path("/nowhere")), SystemClock(), "No such file or directory"),
        (replace(fine, into=Path("/proc/self")), SystemClock(), "Not a directory"),
        (replace(fine, into=Path("/proc/sys")), SystemClock(), "No such file or directory"),
    ):
        end = await keep(FINE, work, wanted, NEVER, clock)
        assert (end.exit_code, end.reason, end.files) == (None, Reason.SANDBOX_ERROR, ())
        assert told in end.detail
        assert "/" not in end.detail


FULL = """
import asyncio, os, sys
from pathlib import Path
from gridx.clock import SystemClock
from gridx.worker.sandbox.base import Outcome, Wanted
from gridx.worker.sandbox.collector import keep
from gridx.worker.sandbox.inside import kernel
work, into = sys.argv[1:]
maps = {"setgroups": "deny", "uid_map": f"0 {os.getuid()} 1", "gid_map": f"0 {os.getgid()} 1"}
kernel.unshare(kernel.NEWUSER | kernel.NEWNS)
for name, text in maps.items():
    Path(f"/proc/self/{name}").write_text(text)
kernel.mount("none", "/", None, kernel.PRIVATE | kernel.RECURSIVE)
kernel.mount("none", into, "tmpfs", 0, "size=64k")
wanted = Wanted(("**",), Path(into), 10_000_000, 10)
work = os.open(work, os.O_PATH)
print(asyncio.run(keep(Outcome(0, None), work, wanted, asyncio.Event(), SystemClock())).detail)
"""


async def test_a_full_disk_of_the_worker(folders: Folders, work: int) -> None:
    words = (sys.executable, "-c", FULL, str(folders.work), str(folders.into))
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert said.decode() == (
        "The sandbox failed: the job's outputs could not be kept: No space left on device.\n"
    )


@pytest.mark.parametrize("reason", [each for each in Reason if each is not Reason.CANCELLED])
async def test_it_changes_no_verdict(folders: Folders, work: int, reason: Reason) -> None:
    end = Outcome(None, reason, detail="It ended.")
    kept = await keep(end, work, folders.wanted(files_max=1), NEVER, SystemClock())
    if reason is Reason.SANDBOX_ERROR:
        assert kept == end
    else:
        assert kept.reason is reason
        assert [each.path for each in kept.files] == ["a"]
        assert kept.detail == "It ended. Not kept of its outputs: files over their number (2)."


async def test_nothing_is_kept_of_a_cancelled_job(folders: Folders, work: int) -> None:
    end = Outcome(None, Reason.CANCELLED)
    assert await keep(end, work, folders.wanted(), NEVER, SystemClock()) == end
    assert not list(folders.into.iterdir())


# --- after real jobs ------------------------------------------------------------------------------


async def _ran(
    sandbox: Bubblewrap, folders: Folders, code: str, limits: Limits | None = None
) -> Ran:
    program = Program("bash", code, outputs=folders.wanted("out/*"))
    return await run(sandbox, program, limits)


@pytest.mark.parametrize(
    ("ending", "end"),
    [
        ("exit 0", (0, None)),
        ("exit 3", (3, Reason.EXIT_CODE)),
        ("sleep 60", (None, Reason.TIMEOUT)),
        ("yes", (None, Reason.OUTPUT_LIMIT)),
        ("yes > big; exit 4", (4, Reason.DISK_LIMIT)),
    ],
)
async def test_files_of_a_job_however_it_ends(
    sandbox: Bubblewrap, folders: Folders, ending: str, end: tuple[int | None, Reason | None]
) -> None:
    code = f"mkdir out; echo one > out/a; echo two > out/b; echo no > c; {ending}"
    timeout_s = 3.0 if Reason.TIMEOUT in end else 20.0
    ran = await _ran(sandbox, folders, code, Limits(timeout_s=timeout_s, disk_mb=20))
    assert ran.end == end, ran
    assert folders.emptied(ran.outcome) == {"out/a": b"one\n", "out/b": b"two\n"}


async def test_a_daemon_of_the_job_is_gone_before_its_files_are_taken(
    sandbox: Bubblewrap, folders: Folders
) -> None:
    code = (
        "mkdir out; setsid bash -c 'while :; do echo x >> out/a; done' &"
        " until [ -s out/a ]; do sleep 0.02; done; echo x > out/b"
    )
    ran = await _ran(sandbox, folders, code)
    assert ran.end == (0, None), ran
    first, second = ran.outcome.files
    assert (first.path, second.path) == ("out/a", "out/b")
    assert set(folders.emptied(ran.outcome)["out/a"]) == set(b"x\n")


async def test_jobs_side_by_side_keep_their_own(sandbox: Bubblewrap, tmp_path: Path) -> None:
    many = [_folders_in(tmp_path, str(number)) for number in range(8)]
    async with asyncio.TaskGroup() as tasks:
        runs = [
            tasks.create_task(_ran(sandbox, each, f"mkdir out; echo {number} > out/mine"))
            for number, each in enumerate(many)
        ]
    for number, (each, task) in enumerate(zip(many, runs, strict=True)):
        assert each.emptied(task.result().outcome) == {"out/mine": f"{number}\n".encode()}


async def test_a_cancelled_job_keeps_nothing(sandbox: Bubblewrap, folders: Folders) -> None:
    watcher, cancel = Watcher(), asyncio.Event()
    program = Program(
        "bash", "mkdir out; echo x > out/a; echo ready; sleep 60", outputs=folders.wanted()
    )

    async def wait_and_cancel() -> None:
        await watcher.until(b"ready")
        cancel.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(wait_and_cancel())
        ran = await run(sandbox, program, cancel=cancel, watcher=watcher)
    assert (ran.end, ran.outcome.files) == ((None, Reason.CANCELLED), ())


def _folders_in(root: Path, name: str) -> Folders:
    (root / name).mkdir()
    return Folders(root / name)


def _open_files() -> set[str]:
    return {each.name for each in Path("/proc/self/fd").iterdir()}


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
