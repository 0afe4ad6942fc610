"""Every hostile program beside another, with its exact end; and the machine afterwards."""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import zip_longest
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
_STRANGERS = [each for each in PROGRAMS if each not in spying.MEETINGS]
_HALF = -(-len(_STRANGERS) // 2)
PAIRS = [
    *zip_longest(_STRANGERS[:_HALF], _STRANGERS[_HALF:], fillvalue=PROGRAMS[0]),
    *((each, each) for each in spying.MEETINGS),
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

    def expected(self, hostile: Hostile) -> Hostile:
        """With what comes of it on this machine, in this sandbox."""
        elsewhere = {
            name: each[hostile.name] for name, each in ELSEWHERE.items() if hostile.name in each
        }
        here = replace(hostile, elsewhere={**hostile.elsewhere, **elsewhere})
        here = here.on(self.sandbox.name)
        if here.uncounted is not None and not self.has_groups:
            return replace(here, ends=(here.uncounted,))
        return here

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
@pytest.mark.parametrize(
    "pair", PAIRS, ids=lambda pair: " beside ".join(each.name for each in pair)
)
async def test_harm_nobody(host: Host, pair: tuple[Hostile, Hostile]) -> None:
    expected = [host.expected(each) for each in pair]
    programs = [host.program(each) for each in expected]
    async with asyncio.TaskGroup() as tasks:
        runs = [
            tasks.create_task(run(host.sandbox, program, each.limits))
            for program, each in zip(programs, expected, strict=True)
        ]
    for each, program, ran in zip(expected, programs, runs, strict=True):
        _check(each, ran.result())
        if program.outputs is not None:
            _check_kept(each, ran.result(), program.outputs.into)


def test_there_are_at_least_eighty_and_no_two_are_called_the_same() -> None:
    names = [each.name for each in PROGRAMS]
    assert len(names) >= 80
    assert len(set(names)) == len(names)


def _check(hostile: Hostile, ran: Ran) -> None:
    told = (hostile.name, ran.outcome, ran.stdout[:500], ran.stderr[-800:])
    assert ran.end in hostile.ends, told
    assert hostile.says is None or ran.stdout == hostile.says, told


def _check_kept(hostile: Hostile, ran: Ran, into: Path) -> None:
    """What lies in the worker's folder is what is told, and no more."""
    files = {each.path: (into / each.sha256).read_bytes() for each in ran.outcome.files}
    assert Kept(files, ran.outcome.detail) in hostile.keeps, (hostile.name, ran.outcome)
    assert {each.name for each in into.iterdir()} == {each.sha256 for each in ran.outcome.files}
    assert {each.sha256: each.size for each in ran.outcome.files} == {
        sha256(content).hexdigest(): len(content) for content in files.values()
    }
