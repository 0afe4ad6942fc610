"""What a worker that root started may do, which is little, and that an ordinary user's stays one process.

Root has to run these.
"""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import certifi
import psutil
import pytest
from msgspec.structs import replace

from gridx.domain.sandbox import Backend
from gridx.protocol.frames import Assign, Finished, Leaving, Log
from gridx.worker.apart import privileges
from tests.support.processes import is_alive
from tests.worker.conftest import Workers
from tests.worker.coordinator import Connection, Coordinator
from tests.worker.frames import assignment, new_key, spec
from tests.worker.sandbox import ordinary_user

HELPER = (sys.executable, ordinary_user.__file__)
NOTHING_HIDDEN = (*HELPER, "--as-root")
USER = privileges.other_user() or -1
WARDEN = "gridx-warden"
TOKEN = ("--no-cli", "--token", "user-token")


@pytest.fixture
def state() -> Generator[Path]:
    """A folder for a state folder that everybody may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder / "state"


def status_of(pid: int) -> dict[str, str]:
    lines = Path("/proc", str(pid), "status").read_text().splitlines()
    return {name: " ".join(value.split()) for name, _, value in (x.partition(":") for x in lines)}


def wardens_of(pid: int) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for each in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess):  # one that served a job has just ended
            if each.name() == WARDEN:
                found.append(each)
    return found


def four(number: int) -> str:
    return " ".join([str(number)] * 4)


async def output_of(connection: Connection, code: str) -> bytes:
    await connection.say(Assign([assignment(new_key(), spec(code))]))
    data = (await connection.take(Log)).data
    end = await connection.take(Finished)
    assert end.exit_code == 0, end
    return data


async def test_it_has_no_right_and_is_nobody(
    coordinator: Coordinator, state: Path, workers: Workers
) -> None:
    worker = workers.start(*TOKEN, "--state-dir", str(state), behind=NOTHING_HIDDEN)
    connection = await coordinator.next()
    assert await output_of(connection, "print(6 * 7)") == b"42\n"
    seen = status_of(worker.pid)
    user = four(USER)
    assert (seen["Uid"], seen["Gid"], seen["Groups"]) == (user, user, "")
    capabilities = {name: int(value, 16) for name, value in seen.items() if name.startswith("Cap")}
    assert set(capabilities) == {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}
    assert set(capabilities.values()) == {0}
    assert seen["NoNewPrivs"] == "1"
    (warden,) = wardens_of(worker.pid)
    assert status_of(warden.pid)["Uid"] == four(0)
    assert "root_kept" not in worker.stderr
    assert "right_to_read_kept" not in worker.stderr


async def test_the_state_folder_is_its_own_and_serves_again(
    coordinator: Coordinator, state: Path, workers: Workers
) -> None:
    words = (*TOKEN, "--state-dir", str(state))
    worker = workers.start(*words, behind=NOTHING_HIDDEN)
    connection = await coordinator.next()
    await output_of(connection, "print(1)")
    worker.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(worker.wait) == 0
    there = _all_of(state)
    assert {each.name for each in there} >= {"state", "lock", "identity.json", "spool"}
    assert {each.stat().st_uid for each in there} == {USER}
    assert (state / "identity.json").stat().st_mode & 0o777 == 0o600
    os.chown(state / "identity.json", 0, 0)  # as an older version left it
    workers.start(*words, behind=NOTHING_HIDDEN)
    await output_of(await coordinator.next(), "print(2)")
    assert coordinator.hellos[1].worker_id is not None


async def test_reading_is_kept_where_only_root_may_read_what_it_needs(
    coordinator: Coordinator, workers: Workers, tmp_path: Path
) -> None:
    authority = _hidden_authorities(tmp_path)
    worker = workers.start("--no-cli", "--ca", str(authority))
    connection = await coordinator.next()
    assert await output_of(connection, "print(6 * 7)") == b"42\n"
    seen = status_of(worker.pid)
    assert seen["Uid"] == four(USER)
    for name, value in {"CapEff": 4, "CapPrm": 4, "CapInh": 0, "CapAmb": 0, "CapBnd": 0}.items():
        assert int(seen[name], 16) == value, name
    assert seen["NoNewPrivs"] == "1"
    await asyncio.to_thread(worker.wait_for, "right_to_read_kept")
    assert worker.stderr.count("right_to_read_kept") == 1


def _all_of(folder: Path) -> set[Path]:
    return {folder, *folder.rglob("*")}


def _hidden_authorities(folder: Path) -> Path:
    """Certificates where only root may read them."""
    folder.chmod(0o700)
    return Path(shutil.copy(certifi.where(), folder))


async def test_without_a_sandbox_jobs_are_nobody_either(
    coordinator: Coordinator, state: Path, workers: Workers
) -> None:
    none = ("--sandbox", "none", "--i-trust-every-submitter")
    worker = workers.start(*TOKEN, "--state-dir", str(state), *none, behind=NOTHING_HIDDEN)
    connection = await coordinator.next()
    shown = "import os\nprint(os.getresuid(), open('/proc/self/status').read())"
    mine = replace(spec(shown), sandbox_at_least=Backend.NONE)
    await connection.say(Assign([assignment(new_key(), mine)]))
    said = (await connection.take(Log)).data.decode()
    assert said.startswith(str((USER,) * 3))
    assert "CapEff:\t0000000000000000" in said
    assert wardens_of(worker.pid) == []


async def test_without_its_warden_it_ends_and_says_so(
    coordinator: Coordinator, workers: Workers
) -> None:
    worker = workers.start("--no-cli")
    connection = await coordinator.next()
    slow = "import time\nprint('begun', flush=True)\ntime.sleep(60)"
    await connection.say(Assign([assignment(new_key(), spec(slow))]))
    await connection.take(Log)
    (warden,) = wardens_of(worker.pid)
    family = [warden, *warden.children(recursive=True)]
    warden.kill()
    await connection.take(Leaving)
    assert await asyncio.to_thread(worker.wait) == 1
    assert worker.stderr.splitlines()[-1].startswith(
        "gridx worker: The process that keeps this worker's sandboxes has ended"
    )
    await asyncio.to_thread(psutil.wait_procs, family, 30)
    assert not [each for each in family if is_alive(each.pid)]


async def test_an_ordinary_users_worker_is_one_process(
    coordinator: Coordinator, state: Path, workers: Workers
) -> None:
    worker = workers.start(*TOKEN, "--state-dir", str(state), behind=HELPER)
    assert await output_of(await coordinator.next(), "print(6 * 7)") == b"42\n"
    assert status_of(worker.pid)["Uid"] == four(ordinary_user.UID)
    assert wardens_of(worker.pid) == []
    assert "started by root" not in worker.stderr
