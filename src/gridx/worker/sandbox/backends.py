"""The backends there are, and those of them that this worker offers.

A backend is added with one line of `MAKERS`, beside its place in `domain.sandbox`. What is offered was
tried out on this host first. The backend that a job gets when it asks for none is opened at once, so
that its first job is fast; the others when a first job needs them, so that an idle worker is small.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from gridx.clock import Clock
from gridx.domain.errors import InvalidInput, Unavailable
from gridx.domain.sandbox import STRONGEST_FIRST, WEAKEST_SANDBOX, Backend, choose, is_at_least
from gridx.telemetry import get_logger
from gridx.worker.sandbox.base import (
    Emit,
    Enforcement,
    Limits,
    Outcome,
    Program,
    Report,
    Sandbox,
    broken,
)
from gridx.worker.sandbox.bubblewrap import Bubblewrap
from gridx.worker.sandbox.docker.images import DEFAULT_IMAGE, Pull
from gridx.worker.sandbox.gvisor import Gvisor
from gridx.worker.sandbox.unsafe.unsandboxed import Unsandboxed

_PROBE_TIMEOUT_S = 6.0
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Containers:
    """How an owner offers containers: the engine's `socket` (None: the usual ones) and `runtime`,
    the `image` of jobs that name none, patterns of those that jobs may name, when to fetch them.
    """

    socket: Path | None = None
    runtime: str | None = None
    image: str = DEFAULT_IMAGE
    allowed: tuple[str, ...] = ()
    pull: Pull = Pull.NEVER


@dataclass(frozen=True, slots=True)
class Choice:
    """What an owner offers: the backends `named`, by default every sandbox, from `at_least` on."""

    named: tuple[Backend, ...] = ()
    at_least: Backend = WEAKEST_SANDBOX
    containers: Containers = Containers()

    @property
    def images(self) -> tuple[str, ...]:
        """Patterns of the images that jobs may name to run in, where containers are offered."""
        return (self.containers.image, *self.containers.allowed)

    def backends(self) -> tuple[Backend, ...]:
        """Those, the strongest first. Raises `InvalidInput` when there are none."""
        if Backend.DOCKER in self.named and Backend.DOCKER not in MAKERS:
            raise InvalidInput("--sandbox docker needs more: pip install 'gridx-compute[docker]'")
        among = self.named or tuple(MAKERS)
        found = [each for each in STRONGEST_FIRST if each in among and each in MAKERS]
        chosen = tuple(each for each in found if is_at_least(each, self.at_least))
        if not chosen:
            raise InvalidInput(
                f"Nothing that --sandbox names is as strong as --sandbox-at-least {self.at_least}"
            )
        return chosen


def _docker(clock: Clock, choice: Choice) -> Sandbox:
    from gridx.worker.sandbox.docker.backend import Docker  # with packages that are an extra

    owner = choice.containers
    return Docker(
        clock,
        socket=owner.socket,
        image=owner.image,
        images_allowed=owner.allowed,
        pull=owner.pull,
        runtime=owner.runtime,
    )


MAKERS: Mapping[Backend, Callable[[Clock, Choice], Sandbox]] = {
    Backend.NONE: lambda clock, _: Unsandboxed(clock),
    Backend.BUBBLEWRAP: lambda clock, _: Bubblewrap(clock),
    Backend.GVISOR: lambda clock, _: Gvisor(clock),
    **({Backend.DOCKER: _docker} if find_spec("aiodocker") else {}),
}

Offered = Mapping[Backend, Sandbox]
"""What a worker offers, the strongest first."""

OpenBackends = Callable[[Clock, Choice], AbstractAsyncContextManager[Offered]]
"""Opens what a worker offers for the length of a block."""


@asynccontextmanager
async def open_backends(clock: Clock, choice: Choice) -> AsyncGenerator[Offered]:
    """Those of `choice` that work on this host.

    Raises `Unavailable` when none does, or one does not that was named, saying what would help.
    """
    chosen = choice.backends()
    at_once = choose(chosen, None, choice.at_least)
    made = {each: _OpenedWhenUsed(MAKERS[each](clock, choice)) for each in chosen}
    try:
        async with asyncio.TaskGroup() as tasks:
            tries = {
                each: tasks.create_task(_try(sandbox, opens=each is at_once))
                for each, sandbox in made.items()
            }
        _need_one(choice, [each.result() for each in tries.values()])
        yield {each: made[each] for each, tried in tries.items() if tried.result().works}
    finally:
        for sandbox in made.values():
            await sandbox.close()


async def probe_all(clock: Clock) -> tuple[Report, ...]:
    """What each sandbox says of itself on this host, the strongest first."""
    async with asyncio.TaskGroup() as tasks:
        probes = [
            tasks.create_task(_probe(MAKERS[each](clock, Choice())))
            for each in STRONGEST_FIRST
            if each in MAKERS and is_at_least(each, WEAKEST_SANDBOX)
        ]
    return tuple(each.result() for each in probes)


async def _try(sandbox: Sandbox, *, opens: bool) -> Report:
    """Whether it works; one that is opened has shown it by that."""
    if opens:
        try:
            await sandbox.open()
            if sandbox.lacks is not None:
                return Report(sandbox.name, works=True)
        except Unavailable:
            pass
    return await _probe(sandbox)


async def _probe(sandbox: Sandbox) -> Report:
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT_S):
            return await sandbox.probe()
    except TimeoutError:
        why_not = f"it did not answer within {_PROBE_TIMEOUT_S:g} s"
        return Report(sandbox.name, works=False, why_not=why_not)


def _need_one(choice: Choice, reports: Sequence[Report]) -> None:
    broken = [each for each in reports if not each.works]
    if not broken or (len(broken) < len(reports) and not choice.named):
        for each in broken:
            _log.info("sandbox_not_offered", sandbox=each.backend, why=each.why_not)
        return
    why = "; ".join(f"{each.backend}: {each.why_not}" for each in broken)
    advice = "; ".join(hint for each in broken for hint in each.advice) or "run gridx doctor"
    if choice.named and len(broken) < len(reports):
        raise Unavailable(f"A sandbox that --sandbox names does not work here ({why}): {advice}")
    raise Unavailable(
        f"No sandbox works on this machine ({why}), and without one a worker does not start. "
        f"What may help: {advice}"
    )


class _OpenedWhenUsed:
    """A backend that is made ready by its first job, unless it was before."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._opening = asyncio.Lock()
        self._opened = False
        self._lacks: tuple[Enforcement, ...] | None = None

    @property
    def name(self) -> str:
        return self._sandbox.name

    @property
    def lacks(self) -> tuple[Enforcement, ...] | None:
        return self._lacks if self._lacks is not None else self._sandbox.lacks

    async def probe(self) -> Report:
        report = await self._sandbox.probe()
        self._lacks = report.lacks
        return report

    async def open(self) -> None:
        async with self._opening:
            if not self._opened:
                await self._sandbox.open()
                self._opened = True

    async def run(
        self,
        attempt_id: str,
        program: Program,
        limits: Limits,
        emit: Emit,
        cancel: asyncio.Event,
    ) -> Outcome:
        try:
            await self.open()
        except Unavailable as failure:
            return broken(failure)
        return await self._sandbox.run(attempt_id, program, limits, emit, cancel)

    async def answers(self, attempt_id: str) -> bool:
        return await self._sandbox.answers(attempt_id)

    async def close(self) -> None:
        async with self._opening:
            self._opened = False
            await self._sandbox.close()
