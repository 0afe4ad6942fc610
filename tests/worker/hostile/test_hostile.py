"""Every hostile program, two at a time, with its exact end; and the machine afterwards."""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp

import pytest
import pytest_asyncio

from gridx.worker.sandbox.base import Enforcement, Program, Sandbox, Wanted
from tests.worker.hostile import collecting, escape, exhaustion, in_docker, lying, spying, staying
from tests.worker.hostile.programs import Hostile, Kept
from tests.worker.sandbox import traces
from tests.worker.sandbox.backends import BACKENDS, PARAMETERS
from tests.worker.sandbox.runs import Ran, run

PROGRAMS = [
    *escape.PROGRAMS,
    *exhaustion.PROGRAMS,
    *staying.PROGRAMS,
    *spying.PROGRAMS,
    *lying.PROGRAMS,
    *collecting.PROGRAMS,
]
COLLECTORS = {"bubblewrap", "gvisor"}
"""The backends that keep a job's files."""
ELSEWHERE = {"docker": in_docker.EXPECTED}

SECRET = ("no-job-may-ever-", "know-this-secret")


@dataclass(frozen=True)
class Host:
    """A machine with things worth reaching, and the sandbox on it."""

    sandbox: Sandbox
    has_groups: bool
    words: dict[str, str]
    copies: Path

    def program(self, hostile: Hostile) -> Program:
        code = hostile.code
        for name, value in self.words.items():
            code = code.replace(f"{{{name}}}", value)
        program = Program(hostile.language, code, hostile.args)
        if not hostile.outputs or self.sandbox.name not in COLLECTORS:
            return program
        into = Path(mkdtemp(dir=self.copies))
        return replace(program, outputs=Wanted(hostile.outputs, into, 1_000_000, 50))


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=PARAMETERS)
async def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Host]:
    """This machine with a service on a port, an abstract socket, a file and a secret.

    When all programs have run, nobody may have knocked, and nothing of them may be left.
    """
    sandbox = BACKENDS[request.param](request)
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
    copies = tmp_path_factory.mktemp("copies")
    with service, abstract:
        yield Host(sandbox, Enforcement.MEMORY in enforces, words, copies)
        await sandbox.close()
        del os.environ["GRIDX_TEST_SECRET"]
        assert await traces.left(before) == traces.NOTHING
        for each in (service, abstract):
            each.setblocking(False)
            with pytest.raises(BlockingIOError):
                each.accept()
    assert file.read_text() == "".join(SECRET)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("hostile", PROGRAMS, ids=lambda hostile: hostile.name)
async def test_harms_nobody(host: Host, hostile: Hostile) -> None:
    elsewhere = {
        name: each[hostile.name] for name, each in ELSEWHERE.items() if hostile.name in each
    }
    hostile = replace(hostile, elsewhere={**hostile.elsewhere, **elsewhere}).on(host.sandbox.name)
    if hostile.uncounted is not None and not host.has_groups:
        hostile = replace(hostile, ends=(hostile.uncounted,))
    programs = [host.program(hostile) for _ in range(2)]
    async with asyncio.TaskGroup() as tasks:
        runs = [tasks.create_task(run(host.sandbox, each, hostile.limits)) for each in programs]
    for each, program in zip(runs, programs, strict=True):
        _check(hostile, each.result())
        if program.outputs is not None:
            _check_kept(hostile, each.result(), program.outputs.into)


def test_there_are_at_least_eighty_and_no_two_are_called_the_same() -> None:
    names = [each.name for each in PROGRAMS]
    assert len(names) >= 80
    assert len(set(names)) == len(names)


def _check(hostile: Hostile, ran: Ran) -> None:
    assert ran.end in hostile.ends, (ran.outcome, ran.stdout[:500], ran.stderr[-800:])
    assert hostile.says is None or ran.stdout == hostile.says, (ran.stdout, ran.stderr[-800:])


def _check_kept(hostile: Hostile, ran: Ran, into: Path) -> None:
    """What lies in the worker's folder is what is told, and no more."""
    files = {each.path: (into / each.sha256).read_bytes() for each in ran.outcome.files}
    assert Kept(files, ran.outcome.detail) in hostile.keeps, ran.outcome
    assert {each.name for each in into.iterdir()} == {each.sha256 for each in ran.outcome.files}
    assert {each.sha256: each.size for each in ran.outcome.files} == {
        sha256(content).hexdigest(): len(content) for content in files.values()
    }
