"""Which backends a worker offers, and when they are made ready."""

import asyncio

import pytest

from gridx.clock import Clock, SystemClock
from gridx.domain.attempt import Reason
from gridx.domain.errors import InvalidInput, Unavailable
from gridx.domain.sandbox import Backend
from gridx.worker.sandbox import backends
from gridx.worker.sandbox.backends import Choice, open_backends, probe_all
from gridx.worker.sandbox.base import Emit, Limits, Outcome, Program, Report
from tests.worker.sandbox.runs import run

NONE, DOCKER, BUBBLEWRAP, GVISOR = Backend
JOB = Program("bash", "exit 0")


class Told:
    """A backend that works or not as it is told, and keeps what was asked of it."""

    lacks = ()

    def __init__(self, name: Backend) -> None:
        self.name = name.value
        self.works = True
        self.asked: list[str] = []

    def __call__(self, clock: Clock, choice: Choice) -> "Told":
        return self

    async def probe(self) -> Report:
        self.asked.append("probe")
        why_not = "" if self.works else f"{self.name} is missing"
        return Report(self.name, self.works, why_not, advice=() if self.works else ("get it",))

    async def open(self) -> None:
        self.asked.append("open")
        if not self.works:
            raise Unavailable(f"{self.name} is missing")

    async def run(
        self,
        attempt_id: str,
        program: Program,
        limits: Limits,
        emit: Emit,
        cancel: asyncio.Event,
    ) -> Outcome:
        self.asked.append("run")
        return Outcome(0, None)

    async def close(self) -> None:
        self.asked.append("close")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> dict[Backend, Told]:
    """A host on which every backend works until told otherwise."""
    told = {each: Told(each) for each in Backend}
    monkeypatch.setattr(backends, "MAKERS", told)
    return told


async def offered(choice: Choice) -> list[Backend]:
    async with open_backends(SystemClock(), choice) as found:
        return list(found)


def test_every_backend_has_a_maker_that_gives_it_its_name() -> None:
    for backend, make in backends.MAKERS.items():
        assert make(SystemClock(), Choice()).name == backend.value


async def test_all_that_work_are_offered_the_strongest_first(host: dict[Backend, Told]) -> None:
    assert await offered(Choice()) == [GVISOR, BUBBLEWRAP, DOCKER]
    host[BUBBLEWRAP].works = False
    assert await offered(Choice()) == [GVISOR, DOCKER]
    assert "probe" not in host[NONE].asked


async def test_only_what_jobs_get_by_default_is_opened_before_a_job_needs_it(
    host: dict[Backend, Told],
) -> None:
    async with open_backends(SystemClock(), Choice()) as found:
        assert host[BUBBLEWRAP].asked == ["open"]
        assert host[GVISOR].asked == host[DOCKER].asked == ["probe"]
        for _ in range(2):
            assert (await run(found[GVISOR], JOB)).end == (0, None)
        assert host[GVISOR].asked == ["probe", "open", "run", "run"]
    assert all(host[each].asked[-1] == "close" for each in (BUBBLEWRAP, GVISOR, DOCKER))


async def test_one_that_breaks_later_fails_its_job_and_is_tried_again(
    host: dict[Backend, Told],
) -> None:
    async with open_backends(SystemClock(), Choice()) as found:
        host[DOCKER].works = False
        ran = await run(found[DOCKER], JOB)
        assert ran.end == (None, Reason.SANDBOX_ERROR)
        assert "docker is missing" in ran.outcome.detail
        host[DOCKER].works = True
        assert (await run(found[DOCKER], JOB)).end == (0, None)


async def test_an_owner_names_them_or_the_weakest(host: dict[Backend, Told]) -> None:
    assert await offered(Choice((DOCKER,))) == [DOCKER]
    assert await offered(Choice(at_least=BUBBLEWRAP)) == [GVISOR, BUBBLEWRAP]
    assert await offered(Choice((DOCKER, GVISOR), BUBBLEWRAP)) == [GVISOR]
    with pytest.raises(InvalidInput, match="--sandbox-at-least gvisor"):
        await offered(Choice((DOCKER,), GVISOR))


async def test_one_that_was_named_must_work(host: dict[Backend, Told]) -> None:
    host[GVISOR].works = False
    with pytest.raises(Unavailable, match=r"gvisor is missing.*get it"):
        await offered(Choice((BUBBLEWRAP, GVISOR)))
    assert host[BUBBLEWRAP].asked[-1] == "close"


async def test_none_that_works_says_what_each_lacks(host: dict[Backend, Told]) -> None:
    for each in host.values():
        each.works = False
    with pytest.raises(Unavailable, match="No sandbox works") as caught:
        await offered(Choice())
    assert all(f"{each} is missing" in caught.value.message for each in (GVISOR, DOCKER))


async def test_one_that_does_not_answer_is_not_waited_for(
    host: dict[Backend, Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never() -> Report:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(backends, "_PROBE_TIMEOUT_S", 0.01)
    monkeypatch.setattr(host[DOCKER], "probe", never)
    reports = await probe_all(SystemClock())
    assert [(each.backend, each.works) for each in reports] == [
        ("gvisor", True),
        ("bubblewrap", True),
        ("docker", False),
    ]
    assert "did not answer" in reports[2].why_not
