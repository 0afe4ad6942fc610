"""Workers: the real engine, session and spool, around a sandbox that plays scripts."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from websockets.asyncio.client import ClientConnection

from gridx.domain.sandbox import Backend
from gridx.protocol.frames import (
    SUBPROTOCOL,
    Ack,
    Codec,
    Drop,
    Finished,
    Frame,
    Leaving,
    TakeBack,
    Welcome,
    WireCapabilities,
)
from gridx.worker.agent import _leave
from gridx.worker.connection import backoff_bound_s
from gridx.worker.engine import Engine
from gridx.worker.events import Accepted, LeaseKey, LeaveAsked, OwnerPaused, Result
from gridx.worker.session import Profile, Session
from gridx.worker.spool import Kept, Spool
from tests.simulation.coordinators import Coordinator
from tests.simulation.invariants import Invariants
from tests.simulation.network import End, Network
from tests.simulation.programs import ScriptedSandbox
from tests.simulation.story import Story, short
from tests.simulation.virtual import Process, VirtualClock, VirtualLoop
from tests.simulation.witness import Witness


class WatchedSpool(Spool):
    """The real spool; what it was given must come back, until its end was acknowledged."""

    def __init__(self, folder: Path, worker: "Worker") -> None:
        super().__init__(folder)
        self._worker = worker

    def open(self) -> list[Result]:
        results = super().open()
        found = {result.finished.lease for result in results}
        for lease in sorted(self._worker.kept - found):
            self._worker.story.broken(
                f"the spool of {self._worker.name} has lost the result of lease {lease}"
            )
        self._worker.kept = found
        return results

    def record(self, frame: Kept) -> None:
        super().record(frame)
        if isinstance(frame, Finished):
            self._worker.kept.add(frame.lease)

    def forget(self, key: LeaseKey) -> None:
        worker = self._worker
        if key.lease in worker.kept:
            worker.kept.discard(key.lease)
            worker.story.must(
                key.lease in worker.answered,
                f"{worker.name} forgot the result of lease {key.lease} that nobody had answered",
            )
        super().forget(key)


class Worker:
    """One machine of an owner's, with a worker on it, again and again."""

    def __init__(
        self,
        name: str,
        token: str,
        offer: WireCapabilities,
        *,
        folder: Path,
        loop: VirtualLoop,
        network: Network,
        coordinators: Sequence[Coordinator],
        witness: Witness,
        invariants: Invariants,
        story: Story,
        draws: random.Random,
        seed: str,
    ) -> None:
        self.name = name
        self.story = story
        self.worker_id: str | None = None
        self.kept: set[str] = set()
        """Leases whose results are in the spool."""
        self.answered: set[str] = set()
        """Leases of which a coordinator has said that they are done with."""
        self.process: Process | None = None
        self.engine: Engine | None = None
        self.end: End | None = None
        self.graveyard: list[Process] = []
        self.isolated_until_s = -1.0
        """Until then it reaches no coordinator."""
        self.clock = VirtualClock(loop, f"{seed}:{name}")
        self._token = token
        self._offer = offer
        self._folder = folder
        self._loop = loop
        self._network = network
        self._coordinators = coordinators
        self._witness = witness
        self._invariants = invariants
        self._draws = draws
        self._spool: WatchedSpool | None = None
        self._welcomes = 0
        self._codec = Codec(SUBPROTOCOL)

    # -------------------------------------------------------------- life and death

    @property
    def runs(self) -> bool:
        return self.process is not None

    def start(self) -> None:
        """Start the worker's program."""
        assert self.process is None
        self.story.tell(f"{self.name} starts")
        self.process = Process(self._loop, self.name, lambda: self._draws.uniform(0.001, 0.01))
        self.process.start(self._life(self.process))

    def kill(self, *, power: bool = False) -> None:
        """kill -9; without `power` the machine itself goes dark, and loses what was not synced."""
        process, spool = self.process, self._spool
        if process is None or spool is None:
            return
        self.trouble()
        self.story.tell(f"{self.name} {'loses power' if power else 'is killed'}")
        process.kill()
        self._network.died(process)
        if power:
            self._lose_unsynced(spool)
        self._gone(process)

    def _lose_unsynced(self, spool: WatchedSpool) -> None:
        for key in sorted(spool.unsynced):
            path = spool._files[key].path
            size = path.stat().st_size
            left = self._draws.randint(0, size)
            with path.open("r+b") as file:
                file.truncate(left)
            if left < size:
                self.kept.discard(key.lease)

    def _gone(self, process: Process) -> None:
        if self._spool is not None:
            self._spool.close()
        self.graveyard.append(process)
        self.process = self.engine = self.end = self._spool = None

    def leave(self) -> None:
        """SIGTERM: it hands its attempts over and ends."""
        if self.process is not None and self.engine is not None and not self.engine.ended.done():
            self.trouble()
            self.story.tell(f"{self.name} is told to leave")
            self.process.start(_handle(self.engine, LeaveAsked()))

    def pause(self, paused: bool) -> None:
        """Its owner at the machine pauses or resumes it."""
        if self.process is not None and self.engine is not None:
            self.story.tell(f"{self.name} is {'paused' if paused else 'resumed'} by its owner")
            self.process.start(_handle(self.engine, OwnerPaused(paused)))

    def trouble(self, for_s: float = 0.0) -> None:
        """What is done to it now excuses that it loses leases."""
        if self.worker_id is not None:
            self._witness.trouble.hits(self.worker_id, self._loop.time() + for_s)

    # -------------------------------------------------------------- its program

    async def _life(self, process: Process) -> None:
        spool = self._spool = WatchedSpool(self._folder, self)
        results = spool.open()
        if results:
            kept = [short(r.finished.lease) for r in results]
            self.story.tell(f"{self.name} finds in its spool {kept}")
        profile = Profile(self.name, "1.0", self._offer, self.worker_id)
        sandbox = ScriptedSandbox(self.clock, self._draws, self._witness)
        engine = self.engine = Engine(
            Session(profile, results),
            {Backend.BUBBLEWRAP: sandbox},
            spool,
            self.clock,
            accepted=self._accepted,
            tell=lambda text: None,
        )
        connecting = asyncio.ensure_future(self._stay_connected(engine))
        await asyncio.wait((engine.ended, connecting), return_when=asyncio.FIRST_COMPLETED)
        self.trouble(60.0)
        await _leave(engine)
        connecting.cancel()
        await engine.close()
        self.story.tell(f"{self.name} ends: {_why(engine)}")
        self._network.died(process)
        self._gone(process)
        process.kill()

    async def _stay_connected(self, engine: Engine) -> None:
        tries = 0
        while not engine.ended.done():
            wait_s = backoff_bound_s(tries) * self._draws.random() if tries else 0.0
            await self.clock.sleep(wait_s)
            tries = min(tries + 1, 6)
            coordinator = self._draws.choice(self._coordinators)
            if self._loop.time() < self.isolated_until_s:
                continue
            if coordinator.process is None or not coordinator.up or self.process is None:
                continue
            connection = self._network.connect(self.process, coordinator.process)
            self.end = connection.here
            self._loop.later(
                self._network.latency_s(), coordinator.accept, self._token, connection.there
            )
            welcomes = self._welcomes
            over = await engine.serve(cast(ClientConnection, _Watched(self.end, self)))
            self.story.tell(f"{self.name} is disconnected: {over.message[:90]}")
            if self._welcomes > welcomes:
                tries = 1
            self.end = None

    def _accepted(self, news: Accepted) -> None:
        self.worker_id = news.worker_id
        self._token = news.worker_token or self._token
        self._welcomes += 1
        self.trouble()

    # -------------------------------------------------------------- what passes by

    def heard(self, frame: Frame) -> None:
        """A frame of the coordinator's, before the session sees it."""
        match frame:
            case Ack():
                self.answered.add(frame.lease)
                self.story.tell(f"{self.name} hears ack of lease {short(frame.lease)}")
                self._invariants.acknowledged(frame.job_id, frame.lease)
            case Drop() | TakeBack():
                self.answered.add(frame.lease)
                kind = type(frame).__name__.lower()
                self.story.tell(f"{self.name} hears {kind} of lease {short(frame.lease)}")
                self._invariants.dropped(frame.job_id, frame.lease)
            case Welcome():
                for lease in frame.drop:
                    self.answered.add(lease.lease)
                    self._invariants.dropped(lease.job_id, lease.lease)
            case _:
                pass

    def said(self, frame: Frame) -> None:
        """A frame of the session's, before it is under way."""
        match frame:
            case Finished():
                how = frame.reason or f"exit {frame.exit_code}"
                self.story.tell(f"{self.name} sends finished of lease {short(frame.lease)}: {how}")
            case Leaving():
                self.trouble(60.0)
                if self.worker_id is not None:
                    self._witness.leaves(self.worker_id)
            case _:
                pass


class _Watched:
    """A worker's end of a connection, read along."""

    def __init__(self, end: End, worker: Worker) -> None:
        self._end = end
        self._worker = worker
        self._codec = Codec(SUBPROTOCOL)

    async def recv(self) -> bytes:
        data = await self._end.recv()
        self._worker.heard(self._codec.from_coordinator(data))
        return data

    async def send(self, data: bytes) -> None:
        self._worker.said(self._codec.from_worker(data))
        await self._end.send(data)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._end.close(code, reason)


async def _handle(engine: Engine, event: LeaveAsked | OwnerPaused) -> None:
    engine.handle(event)


def _why(engine: Engine) -> str:
    if not engine.ended.done():
        return "not in time"
    return engine.ended.result() or "in order"
