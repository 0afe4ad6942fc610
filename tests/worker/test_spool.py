"""The spool: what it keeps over crashes, torn files and full disks."""

import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from gridx.protocol.frames import Log
from gridx.worker.events import LeaseKey, Result
from gridx.worker.spool import Spool
from tests.worker.frames import finished, new_key


@pytest.fixture
def spool(tmp_path: Path) -> Generator[Spool]:
    spool = Spool(tmp_path / "spool")
    assert spool.open() == []
    yield spool
    spool.close()


def log(key: LeaseKey, number: int, data: bytes = b"x") -> Log:
    return Log(*key, number, "stdout", data)


def fill(spool: Spool, key: LeaseKey, logs: int = 3) -> Result:
    for number in range(logs):
        spool.record(log(key, number, bytes([number]) * 100))
    spool.record(finished(key))
    return Result(logs, finished(key))


def reopened(spool: Spool) -> list[Result]:
    spool.close()
    return Spool(spool.folder).open()


def files(spool: Spool) -> list[Path]:
    return sorted(spool.folder.iterdir())


def test_a_finished_result_is_there_after_a_crash(spool: Spool) -> None:
    results = [fill(spool, new_key()) for _ in range(3)]
    assert {LeaseKey.of(r.finished): r for r in reopened(spool)} == {
        LeaseKey.of(r.finished): r for r in results
    }


def test_what_did_not_finish_is_swept(spool: Spool) -> None:
    key = new_key()
    spool.record(log(key, 0))
    assert len(files(spool)) == 1
    assert reopened(spool) == []
    assert files(spool) == []


def test_a_program_that_wrote_nothing_has_a_result_too(spool: Spool) -> None:
    result = fill(spool, new_key(), logs=0)
    assert reopened(spool) == [result]


def test_forget_leaves_nothing_behind(spool: Spool) -> None:
    before = psutil.Process().num_fds()
    for logs in (0, 5):
        key = new_key()
        fill(spool, key, logs)
        spool.forget(key)
    running = new_key()
    spool.record(log(running, 0))
    spool.forget(running)
    spool.forget(new_key())
    assert files(spool) == []
    assert spool.size == 0
    assert psutil.Process().num_fds() <= before  # what others forgot may be collected meanwhile


def test_logs_are_read_again_from_any_number(spool: Spool) -> None:
    key = new_key()
    fill(spool, key, logs=5)
    assert [frame.number for frame in spool.logs(key, 2, 5)] == [2, 3, 4]
    assert next(iter(spool.logs(key, 2, 5))).data == b"\x02" * 100
    assert list(spool.logs(new_key(), 0, 5)) == []


TEARS: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda content: content[:-1],
    "cut to nothing": lambda content: b"",
    "a flipped bit": lambda content: content[:-5] + bytes([content[-5] ^ 1]) + content[-4:],
    "zeros at the end": lambda content: content[:-40] + bytes(40),
    "a length beyond the end": lambda content: b"\xff\xff\xff\x7f" + content[4:],
    "another record first": lambda content: content[150:],
}


@pytest.mark.parametrize("tear", TEARS.values(), ids=TEARS)
def test_a_torn_file_is_no_result_and_harms_no_other(
    spool: Spool, tear: Callable[[bytes], bytes]
) -> None:
    torn, whole = new_key(), new_key()
    fill(spool, torn)
    result = fill(spool, whole)
    path = next(path for path in files(spool) if torn.job_id in path.name)
    path.write_bytes(tear(path.read_bytes()))
    assert reopened(spool) == [result]
    assert len(files(spool)) == 1


def test_files_of_others_are_swept(spool: Spool) -> None:
    fill(spool, new_key())
    (spool.folder / "readme").write_text("?")
    other, name = new_key(), files(spool)[0].read_bytes()
    (spool.folder / f"{other.job_id}.1.{other.lease}").write_bytes(name)
    assert len(reopened(spool)) == 1
    assert len(files(spool)) == 1


async def test_sync_takes_what_is_still_there(spool: Spool) -> None:
    kept, gone = new_key(), new_key()
    fill(spool, kept)
    fill(spool, gone)
    young = spool.unsynced
    spool.forget(gone)
    await spool.sync(young)
    assert spool.unsynced == frozenset()


def test_room_ends_at_the_bound(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "small", bytes_max=500)
    spool.open()
    assert spool.why_no_room() is None
    key = new_key()
    fill(spool, key)
    assert spool.size > 500
    assert "results" in (spool.why_no_room() or "")
    spool.forget(key)
    assert spool.why_no_room() is None


@contextmanager
def file_bytes_max(limit: int) -> Generator[None]:
    """A disk that is full after `limit` bytes of a file, as far as a program can tell."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_write_that_fails_half_way_leaves_the_whole_records(spool: Spool) -> None:
    key = new_key()
    spool.record(log(key, 0))
    with file_bytes_max(spool.size + 100), pytest.raises(OSError, match="too large"):
        spool.record(log(key, 1, b"y" * 1000))
    spool.record(log(key, 1))
    spool.record(finished(key))
    assert reopened(spool) == [Result(2, finished(key))]


KILLED = """
import os, signal, sys
from pathlib import Path
from gridx.worker.spool import Spool
from tests.worker.frames import new_key
from tests.worker.test_spool import fill, log
spool = Spool(Path(sys.argv[1]))
spool.open()
for _ in range(20):
    fill(spool, new_key())
running = new_key()
spool.record(log(running, 0))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_9_loses_no_finished_result(tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert process.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 21
    results = Spool(tmp_path).open()
    assert len(results) == 20
    assert {result.log_frames for result in results} == {3}
    assert len(list(tmp_path.iterdir())) == 20
