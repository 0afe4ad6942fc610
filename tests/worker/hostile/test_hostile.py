"""Every hostile program, two at a time, with its exact end; and the machine afterwards."""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace

import pytest
import pytest_asyncio

from gridx.worker.sandbox.base import Enforcement, Program, Sandbox
from gridx.worker.sandbox.bubblewrap import Bubblewrap
from gridx.worker.sandbox.gvisor import Gvisor
from tests.worker.hostile import escape, exhaustion, lying, spying, staying
from tests.worker.hostile.programs import Hostile
from tests.worker.sandbox import traces
from tests.worker.sandbox.runs import Ran, run

PROGRAMS = [
    *escape.PROGRAMS,
    *exhaustion.PROGRAMS,
    *staying.PROGRAMS,
    *spying.PROGRAMS,
    *lying.PROGRAMS,
]
BACKENDS: dict[str, Callable[[], Sandbox]] = {"bubblewrap": Bubblewrap, "gvisor": Gvisor}
SECRET = ("no-job-may-ever-", "know-this-secret")


@dataclass(frozen=True)
class Host:
    """A machine with things worth reaching, and the sandbox on it."""

    sandbox: Sandbox
    has_groups: bool
    words: dict[str, str]

    def program(self, hostile: Hostile) -> Program:
        code = hostile.code
        for name, value in self.words.items():
            code = code.replace(f"{{{name}}}", value)
        return Program(hostile.language, code, hostile.args)


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=BACKENDS)
async def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Host]:
    """This machine with a service on a port, an abstract socket, a file and a secret.

    When all programs have run, nobody may have knocked, and nothing of them may be left.
    """
    folder = tmp_path_factory.mktemp("worker")
    file = folder / "identity.json"
    file.write_text("".join(SECRET))
    name = f"gridx-test-{os.getpid()}"
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0{name}")
    abstract.listen()
    service = socket.create_server(("127.0.0.1", 0))
    os.environ["GRIDX_TEST_SECRET"] = "".join(SECRET)
    before = traces.count()
    sandbox = BACKENDS[request.param]()
    enforces = (await sandbox.probe()).enforces
    await sandbox.open()
    words = {
        "port": str(service.getsockname()[1]),
        "socket": name,
        "file": str(file),
        "folder": str(folder),
        "pid": str(os.getpid()),
        "secret_start": SECRET[0],
        "secret_end": SECRET[1],
    }
    yield Host(sandbox, Enforcement.MEMORY in enforces, words)
    await sandbox.close()
    assert await traces.settled(before) == before
    del os.environ["GRIDX_TEST_SECRET"]
    for each in (service, abstract):
        each.setblocking(False)
        with pytest.raises(BlockingIOError):
            each.accept()
        each.close()
    assert file.read_text() == "".join(SECRET)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("hostile", PROGRAMS, ids=lambda hostile: hostile.name)
async def test_harms_nobody(host: Host, hostile: Hostile) -> None:
    hostile = hostile.on(host.sandbox.name)
    if hostile.uncounted is not None and not host.has_groups:
        hostile = replace(hostile, ends=(hostile.uncounted,))
    program = host.program(hostile)
    async with asyncio.TaskGroup() as tasks:
        runs = [tasks.create_task(run(host.sandbox, program, hostile.limits)) for _ in range(2)]
    for each in runs:
        _check(hostile, each.result())


def test_there_are_at_least_eighty_and_no_two_are_called_the_same() -> None:
    names = [each.name for each in PROGRAMS]
    assert len(names) >= 80
    assert len(set(names)) == len(names)


def _check(hostile: Hostile, ran: Ran) -> None:
    assert ran.end in hostile.ends, (ran.outcome, ran.stdout[:500], ran.stderr[-800:])
    assert hostile.says is None or ran.stdout == hostile.says, (ran.stdout, ran.stderr[-800:])
