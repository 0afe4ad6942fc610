"""The `docker` backend: one container of a container engine for each attempt.

Theory of operation. `engine` holds one connection to the engine's socket; `recipe` says what a
container is made of; `pool` keeps some of them waiting, each with a keeper as its first process. For
an attempt the keeper writes the program's files, the engine starts the program beside it, and
`running` lets it go once its limits are set, passes its output on and ends it when it must be ended;
`account` reads the kernel's counters and the disks, `ending` decides from them how it ended. Then the
container is removed, whatever still runs in it. The job's words are words of a command for the engine
and never part of a shell's.
"""

import asyncio
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from gridx.clock import Clock, SystemClock
from gridx.domain.errors import Unavailable
from gridx.telemetry import get_logger
from gridx.worker.sandbox.base import (
    NEVER_RAN,
    Emit,
    Enforcement,
    Limits,
    Outcome,
    Program,
    Report,
    broken,
    one_a_cpu,
    try_out,
)
from gridx.worker.sandbox.cgroups import groups
from gridx.worker.sandbox.docker import recipe, seccomp
from gridx.worker.sandbox.docker.container import Container
from gridx.worker.sandbox.docker.engine import Engine, find_socket
from gridx.worker.sandbox.docker.images import DEFAULT_IMAGE, Image, ImageRules, Pull, read_image
from gridx.worker.sandbox.docker.pool import Pool
from gridx.worker.sandbox.docker.recipe import Shape
from gridx.worker.sandbox.docker.running import Running
from gridx.worker.sandbox.ending import outcome
from gridx.worker.sandbox.inside import filter as calls

NAME = "docker"
_ENDED_STATES = {"exited", "dead"}
_ALWAYS = frozenset(
    {
        Enforcement.CPU,
        Enforcement.FILES,
        Enforcement.NETWORK,
        Enforcement.OUTPUT,
        Enforcement.WALL_TIME,
    }
)
_COUNTED = frozenset({Enforcement.DISK, Enforcement.MEMORY, Enforcement.PROCESSES})
_log = get_logger(__name__)


class Docker:
    """Runs programs in containers of the engine at `socket`, by default the one of this machine.

    Jobs that name no image run in `image`; others may name what matches a pattern of
    `images_allowed`. `runtime` is any that the engine knows. `waiting_max` containers wait ready,
    by default one for each processor.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        socket: Path | None = None,
        image: str = DEFAULT_IMAGE,
        images_allowed: Iterable[str] = (),
        pull: Pull = Pull.NEVER,
        runtime: str | None = None,
        waiting_max: int | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._socket = socket
        self._rules = ImageRules(image, tuple(images_allowed), pull)
        self._runtime = runtime
        self._waiting_max = one_a_cpu() if waiting_max is None else waiting_max
        self._label = groups.own_name()
        self._pool: Pool | None = None
        self._starting = asyncio.Lock()
        self._opened = False

    @property
    def name(self) -> str:
        return NAME

    @property
    def lacks(self) -> None:
        """Which only a container tells."""

    async def probe(self) -> Report:
        """Run one program in a container of its own, and say what this engine enforces here."""
        trial = Docker(
            self._clock,
            socket=self._socket,
            image=self._rules.default,
            pull=self._rules.pull,
            runtime=self._runtime,
            waiting_max=0,
        )
        try:
            await trial.open()
            pool = await trial._running_pool()
            image = await trial._image(pool.engine, None)
            container = await pool.take(recipe.shape_of(image, Limits()))
            told = container.account.enforces
            await pool.give_back(container)
            filtered = not pool.engine.is_podman
            why_not = await try_out(trial.run)
        except Unavailable as failure:
            advice = self._advice(is_there=trial._pool is not None)
            return Report(NAME, works=False, why_not=failure.message, advice=advice)
        finally:
            await trial.close()
        if why_not:
            advice = self._advice(is_there=True)
            return Report(NAME, works=False, why_not=why_not, advice=advice)
        enforces = _ALWAYS | (told & _COUNTED)
        if filtered:
            enforces |= {Enforcement.SYSCALLS}
        advice = () if told >= _COUNTED else (_AS_ROOT,)
        return Report(NAME, works=True, enforces=enforces, advice=advice)

    async def open(self) -> None:
        self._opened = True
        pool = await self._running_pool()
        await self._sweep(pool.engine)
        image = await self._image(pool.engine, None)
        pool.prepare(recipe.shape_of(image, Limits()))

    async def run(
        self,
        attempt_id: str,
        program: Program,
        limits: Limits,
        emit: Emit,
        cancel: asyncio.Event,
    ) -> Outcome:
        if cancel.is_set():
            return NEVER_RAN
        try:
            if program.language not in recipe.LANGUAGES:
                raise Unavailable(f"it has no interpreter for {program.language}")
            self._rules.choose(program.image)
            pool = await self._running_pool()
            image = await self._image(pool.engine, program.image)
            container = await pool.take(recipe.shape_of(image, limits))
            try:
                running = Running(container, limits, emit, self._clock)
                seen = await running.run(program, cancel)
            finally:
                await pool.give_back(container)
        except (OSError, Unavailable) as failure:
            _log.warning("sandbox_failed", attempt=attempt_id, why=str(failure))
            return broken(failure)
        return outcome(seen, limits)

    async def answers(self, attempt_id: str) -> bool:  # noqa: ARG002
        """Whether the engine does: it is what watches over every container."""
        return self._pool is None or await self._pool.engine.answers()

    async def close(self) -> None:
        self._opened = False
        if self._pool is not None:
            await self._pool.close()
            self._pool = None

    async def _running_pool(self) -> Pool:
        """The containers of an engine that answers; one that went away is tried again."""
        async with self._starting:
            if not self._opened:
                raise Unavailable("the sandbox is closed")
            if self._pool is not None and not self._pool.engine.alive:
                _log.warning("container_engine_lost", socket=str(self._pool.engine.socket))
                await self._pool.close()
                self._pool = None
            if self._pool is None:
                self._pool = Pool(await self._connect(), self._make, self._waiting_max)
            return self._pool

    async def _connect(self) -> Engine:
        socket = self._socket or find_socket()
        if socket is None:
            raise Unavailable(
                "no container engine runs here that could be found: start or install one, or name "
                "its socket with --container-socket"
            )
        if not calls.supported(os.uname().machine):
            raise Unavailable(f"there is no system call filter for {os.uname().machine}")
        engine = Engine(socket)
        try:
            await engine.open(f"{recipe.LABEL_WORKER}={self._label}")
        except BaseException:
            await engine.close()
            raise
        return engine

    async def _make(self, shape: Shape, slot: int) -> Container:
        assert self._pool is not None
        engine = self._pool.engine
        profile = None if engine.is_podman else seccomp.profile(os.uname().machine)
        labels = {recipe.LABEL_WORKER: self._label, recipe.LABEL_PLACE: _place()}
        body = recipe.container(shape, slot, labels=labels, runtime=self._runtime, profile=profile)
        return await Container.make(engine, shape, slot, body)

    async def _image(self, engine: Engine, asked: str | None) -> Image:
        """The image for a job, fetched as the owner wants it; raises `Unavailable`."""
        name = self._rules.choose(asked)
        pull = self._rules.pull
        found = await engine.image(name)
        if pull is Pull.ALWAYS or (pull is Pull.MISSING and found is None):
            await engine.pull(name)
            found = await engine.image(name)
        if found is None:
            raise Unavailable(
                f"image {name} is not on this machine, and --pull is {pull.value}: its owner may "
                f"run `docker pull {name}`, or give --pull {Pull.MISSING.value}"
            )
        return read_image(name, found)

    async def _sweep(self, engine: Engine) -> None:
        """Remove what workers left that are gone; what others still use is left alone."""
        for identity, labels, state in await engine.labelled(recipe.LABEL_WORKER):
            here = labels.get(recipe.LABEL_PLACE) == _place()
            gone = here and groups.is_abandoned(labels[recipe.LABEL_WORKER])
            if gone or state in _ENDED_STATES:
                _log.info("container_swept", container=identity[:12])
                with suppress(Unavailable):
                    await engine.remove(identity)

    def _advice(self, *, is_there: bool) -> tuple[str, ...]:
        """Commands for what is most often missing: the engine, its start, or the image."""
        if is_there:
            never = self._rules.pull is Pull.NEVER
            return (f"docker pull {self._rules.default}",) if never else ()
        starts = (start for program, start in _STARTS.items() if shutil.which(program))
        return (next(starts, "sudo apt-get install docker.io"),)


_STARTS = {
    "dockerd": "sudo systemctl start docker",
    "podman": "systemctl --user start podman.socket",
}
_AS_ROOT = "sudo gridx worker ..."
"""An ordinary user may not look at a container's disk."""


def _place() -> str:
    """Where this worker's process id means something: this boot, this process namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
