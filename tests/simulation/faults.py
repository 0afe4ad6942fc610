"""What goes wrong, when and how often: drawn from the seed, differently for each run.

Each run has a temper of its own: some kinds of faults are frequent, others do not happen at all, so
that each kind is met both alone and in company. A fault that excuses a lost lease says so to the
witness; whatever else loses a lease is a bug.
"""

import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from gridx.coordinator.workers import Workers, WorkerState
from gridx.domain.errors import GridError
from gridx.domain.user import Principal
from tests.simulation.coordinators import Coordinator, Lost
from tests.simulation.network import Network
from tests.simulation.store import Store
from tests.simulation.story import Story
from tests.simulation.virtual import VirtualClock
from tests.simulation.witness import Witness
from tests.simulation.workers import Worker

EVER_S = 1e9
JUMPS_S = (-3600.0, -60.0, -5.0, 1.0, 20.0, 100.0, 3600.0)
ORDERS: dict[str, Callable[[Workers, Principal, str], Awaitable[WorkerState]]] = {
    "pause": Workers.pause,
    "resume": Workers.resume,
    "drain": Workers.drain,
    "suspend": Workers.suspend,
    "ban": Workers.ban,
    "unsuspend": Workers.unsuspend,
    "disconnect": Workers.disconnect,
}
UNDO = {"pause": "resume", "suspend": "unsuspend", "ban": "unsuspend"}


@dataclass(slots=True)
class World:
    """What faults can be done to."""

    coordinators: Sequence[Coordinator]
    workers: Sequence[Worker]
    network: Network
    store: Store
    witness: Witness
    story: Story
    clock: VirtualClock
    admin: Principal
    lease_s: float


class Faults:
    """The schedule of one run."""

    def __init__(self, world: World, draws: random.Random) -> None:
        self._world = world
        self._draws = draws
        kinds: list[Callable[[], None]] = [
            self._kill_coordinator,
            self._stop_coordinator,
            self._stall_coordinator,
            self._jump_coordinators,
            self._kill_worker,
            self._cut_power,
            self._leave,
            self._stall_worker,
            self._jump_worker,
            self._cut,
            self._go_dark,
            self._isolate,
            self._stall_connection,
            self._slow_network,
            self._slow_disk,
            self._store_away,
            self._commit_fails,
            self._commit_unanswered,
            self._pause_here,
            self._control,
        ]
        chosen = draws.sample(kinds, draws.choice((1, 2, 3, 6, 10, len(kinds))))
        self._weights = [(kind, draws.choice((1.0, 1.0, 3.0))) for kind in chosen]
        self._mean_s = draws.choice((2.0, 5.0, 15.0))
        self._over = False

    @property
    def temper(self) -> str:
        """Which kinds there are, for the story."""
        return ", ".join(kind.__name__.strip("_") for kind, _ in self._weights)

    async def happen(self, until_s: float) -> None:
        """Let faults happen until then."""
        world = self._world
        if self._draws.random() < 0.5:
            for coordinator in world.coordinators:
                coordinator.lost_share = self._draws.choice((0.02, 0.1, 0.3))
        kinds = [kind for kind, _ in self._weights]
        weights = [weight for _, weight in self._weights]
        while world.clock.monotonic() < until_s:
            await world.clock.sleep(self._draws.expovariate(1 / self._mean_s))
            self._draws.choices(kinds, weights)[0]()

    # -------------------------------------------------------------- coordinators

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        """Mend something later, unless all faults are over by then."""
        self._world.network.loop.later(seconds, lambda: None if self._over else what())

    def _coordinator(self) -> Coordinator:
        return self._draws.choice(self._world.coordinators)

    def _shake(self, for_s: float) -> None:
        """Everybody's leases may be lost for a while; silence is trusted again after a lease."""
        until_s = self._world.clock.monotonic() + for_s + 3 * self._world.lease_s
        self._world.witness.trouble.hits_everybody(until_s)

    def _kill_coordinator(self) -> None:
        coordinator = self._coordinator()
        if coordinator.process is not None:
            down_s = self._draws.choice((0.1, 2.0, 2.0, 40.0))
            self._shake(down_s)
            coordinator.kill()
            self._after(down_s, lambda: _start(coordinator))

    def _stop_coordinator(self) -> None:
        coordinator = self._coordinator()
        if coordinator.up:
            self._shake(10.0)
            self._background(self._restart(coordinator))

    async def _restart(self, coordinator: Coordinator) -> None:
        await coordinator.stop()
        await self._world.clock.sleep(self._draws.uniform(0.1, 5.0))
        _start(coordinator)

    def _stall_coordinator(self) -> None:
        process = self._coordinator().process
        if process is not None and not process.still:
            for_s = self._draws.choice((0.5, 5.0, 45.0))
            self._shake(for_s)
            self._world.story.tell(f"{process.name} stands still for {for_s:g} s")
            process.halt()
            self._world.network.loop.later(for_s, process.go_on)

    def _jump_coordinators(self) -> None:
        """All of them: coordinators of one grid must agree about the time to within a lease."""
        by_s = self._draws.choice(JUMPS_S)
        self._jump_all(by_s)
        if self._draws.random() < 0.5:
            self._after(self._draws.uniform(5.0, 30.0), lambda: self._jump_all(-by_s))

    def _jump_all(self, by_s: float) -> None:
        self._world.story.tell(f"the coordinators' clocks jump by {by_s:g} s")
        self._shake(0.0)
        for coordinator in self._world.coordinators:
            coordinator.clock.jump(by_s)

    # -------------------------------------------------------------- workers

    def _worker(self) -> Worker:
        return self._draws.choice(self._world.workers)

    def _kill_worker(self) -> None:
        self._end_worker(power=False)

    def _cut_power(self) -> None:
        self._end_worker(power=True)

    def _end_worker(self, *, power: bool) -> None:
        worker = self._worker()
        if worker.runs:
            worker.kill(power=power)
            back_s = self._draws.choice((0.2, 3.0, 60.0, 120.0, EVER_S))
            worker.trouble(min(back_s, 300.0))
            self._after(back_s, lambda: _start(worker))

    def _leave(self) -> None:
        worker = self._worker()
        worker.leave()
        self._after(self._draws.uniform(10.0, 60.0), lambda: _start(worker))

    def _stall_worker(self) -> None:
        worker = self._worker()
        process = worker.process
        if process is not None and not process.still:
            for_s = self._draws.choice((1.0, 20.0, 90.0))
            self._world.story.tell(f"{worker.name} stands still for {for_s:g} s")
            worker.trouble(for_s + self._world.lease_s)
            process.halt()
            self._world.network.loop.later(for_s, process.go_on)

    def _jump_worker(self) -> None:
        worker, by_s = self._worker(), self._draws.choice(JUMPS_S)
        worker.clock.jump(by_s)
        self._world.story.tell(f"the clock of {worker.name} jumps by {by_s:g} s")

    def _pause_here(self) -> None:
        worker = self._worker()
        worker.pause(paused=True)
        self._after(self._draws.uniform(1.0, 30.0), lambda: worker.pause(paused=False))

    # -------------------------------------------------------------- the network

    def _connected(self) -> Worker | None:
        connected = [worker for worker in self._world.workers if worker.end is not None]
        return self._draws.choice(connected) if connected else None

    def _cut(self) -> None:
        if (worker := self._connected()) and worker.end is not None:
            self._world.story.tell(f"the connection of {worker.name} is cut")
            worker.trouble(self._world.lease_s)
            worker.end._connection.cut()

    def _go_dark(self) -> None:
        if (worker := self._connected()) and worker.end is not None:
            self._world.story.tell(f"the connection of {worker.name} goes dark")
            worker.trouble(2 * self._world.lease_s)
            worker.end._connection.go_dark()

    def _isolate(self) -> None:
        """A laptop on a train: it runs on, and nobody can be reached for longer than a lease."""
        if (worker := self._connected()) and worker.end is not None:
            for_s = self._world.lease_s * self._draws.uniform(1.0, 4.0)
            self._world.story.tell(f"{worker.name} reaches nobody for {for_s:.1f} s")
            worker.trouble(for_s + self._world.lease_s)
            worker.isolated_until_s = self._world.clock.monotonic() + for_s
            worker.end._connection.go_dark()

    def _stall_connection(self) -> None:
        if (worker := self._connected()) and worker.end is not None:
            for_s = self._draws.choice((0.5, 5.0, 25.0))
            self._world.story.tell(f"the connection of {worker.name} stalls for {for_s:g} s")
            worker.trouble(for_s + self._world.lease_s)
            worker.end._connection.stall(for_s)

    def _slow_network(self) -> None:
        weather = self._world.network.weather
        weather.jitter_s = self._draws.choice((0.05, 0.5, 2.0))
        self._after(self._draws.uniform(5.0, 30.0), self._good_weather)

    def _good_weather(self) -> None:
        self._world.network.weather.jitter_s = 0.01

    # -------------------------------------------------------------- the store

    def _slow_disk(self) -> None:
        store, for_s = self._world.store, self._draws.choice((2.0, 10.0, 40.0))
        store.slow_s = self._draws.choice((0.2, 2.0, 10.0))
        store.slow_until_s = self._world.clock.monotonic() + for_s
        self._world.story.tell(f"the disk takes up to {store.slow_s:g} s for {for_s:g} s")
        self._shake(for_s + store.slow_s)

    def _store_away(self) -> None:
        for_s = self._draws.choice((0.5, 10.0, 60.0))
        self._world.store.away_until_s = self._world.clock.monotonic() + for_s
        self._world.story.tell(f"the store is away for {for_s:g} s")
        self._shake(for_s)

    def _commit_fails(self) -> None:
        self._world.store.next_commit = "fails"
        self._shake(5.0)

    def _commit_unanswered(self) -> None:
        self._world.store.next_commit = "unanswered"
        self._shake(5.0)

    # -------------------------------------------------------------- owners and administrators

    def _control(self) -> None:
        worker = self._worker()
        if worker.worker_id is None:
            return
        what = self._draws.choice(sorted(ORDERS.keys() - UNDO.values()))
        self._world.story.tell(f"{worker.name} is told from afar: {what}")
        worker.trouble(120.0)
        self._background(self._order(what, worker.worker_id))
        after_s = self._draws.uniform(5.0, 40.0)
        if (undo := UNDO.get(what)) is not None:
            worker_id = worker.worker_id
            self._background(self._delayed(after_s, lambda: self._order(undo, worker_id)))
        self._after(after_s + 1.0, lambda: _start(worker))

    async def _delayed(self, seconds: float, work: Callable[[], Awaitable[bool]]) -> None:
        await self._world.clock.sleep(seconds)
        await work()

    async def _order(self, what: str, worker_id: str) -> bool:
        """Tell a worker something, as the administrator; whether that is known to have worked."""
        try:
            await self._coordinator().ask(
                lambda grid: ORDERS[what](grid.workers, self._world.admin, worker_id)
            )
        except (Lost, GridError):
            return False
        return True

    def _background(self, work: Coroutine[Any, Any, object]) -> None:
        loop = self._world.network.loop
        loop.create_task(work, context=loop.world)

    # -------------------------------------------------------------- the end of all faults

    async def end(self) -> None:
        """Mend everything, but for the dead who stay dead."""
        world = self._world
        self._over = True
        self._good_weather()
        world.store.slow_until_s = world.store.away_until_s = -1.0
        world.store.next_commit = None
        for coordinator in world.coordinators:
            coordinator.lost_share = 0.0
            if coordinator.process is not None:
                coordinator.process.go_on()
            _start(coordinator)
        for worker in world.workers:
            worker.isolated_until_s = -1.0
            if worker.process is not None:
                worker.process.go_on()
                worker.pause(paused=False)
        for worker in world.workers:
            for what in ("unsuspend", "resume"):
                while worker.worker_id and not await self._order(what, worker.worker_id):
                    await world.clock.sleep(0.5)
        stay_dead = [w for w in world.workers[2:] if not w.runs]
        for worker in world.workers:
            if worker not in stay_dead:
                _start(worker)
        self._shake(60.0)


def _start(one: Coordinator | Worker) -> None:
    if one.process is None:
        one.start()
