"""One run: a world made from a seed, lived through, and held against what was promised.

First faults happen while people submit; then all faults end, and everything that was accepted must
come to its end by itself. After every commit the invariants are checked; the real `ledger verify`
runs every few hundred commits and at the end.
"""

import asyncio
import gc
import random
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gridx.domain.ledger import Verification
from gridx.domain.policy import Policy
from gridx.domain.user import Principal, Role, User
from gridx.protocol.frames import WireCapabilities, WireResources
from gridx.storage import ledger
from gridx.storage.database import Connection
from gridx.storage.dialect import make_engine, reading
from gridx.worker.attempts import AttemptState
from tests.simulation.coordinators import Coordinator
from tests.simulation.faults import Faults, World
from tests.simulation.invariants import Invariants
from tests.simulation.network import Network
from tests.simulation.people import Person
from tests.simulation.store import Store, compile_once, sqlite_store
from tests.simulation.story import Story
from tests.simulation.virtual import Stuck, VirtualClock, VirtualLoop
from tests.simulation.witness import Witness
from tests.simulation.workers import Worker

JOBS = 400
VERIFY_EVERY = 300
CALM_S = 900.0
"""Within so long after the last fault every job must be final."""
PASSWORD_HASH = "nobody logs in with this"


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one run."""

    seed: int
    steps: int
    checks: int
    jobs: int
    attempts: int
    lost: int
    virtual_s: float
    digest: str
    violation: str | None
    story: str


def simulate(seed: int, jobs: int = JOBS, url: str | None = None) -> Result:
    """Live through the world of `seed`, with about so many jobs, on SQLite or at `url`."""
    with _uncollected(), sqlite_store() as (file_url, folder):
        run = _Run(seed, jobs, url or file_url, folder)
        with run.story.listening():
            return run.result()


@contextmanager
def _uncollected() -> Generator[None]:
    """No garbage is looked for before the end: a world is small, and its process may hold much."""
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()
        gc.enable()


class _Run:
    def __init__(self, seed: int, jobs: int, url: str, folder: Path) -> None:
        self._seed = seed
        self._name = f"seed {seed}"
        self._loop = VirtualLoop()
        self.story = Story(self._loop.time, self._loop.stop)
        self._draws = self._random("world")
        self._store = Store(url, self._loop, self._random("disk"), self.story)
        self._witness = Witness(self.story)
        self._invariants = Invariants(self._store, self._witness, self._loop, self.story)
        self._network = Network(self._loop, self._random("network"))
        self._clock = VirtualClock(self._loop, f"{self._name}:people")
        lease_s = self._draws.choice((9.0, 30.0))
        self._policy = Policy(
            storage_url=url,
            heartbeat_s=lease_s / 3,
            lease_s=lease_s,
            initial_grant=0,
            group_size_max=self._draws.choice((1, 10, 1_000)),
        )
        self._verifier = compile_once(make_engine(url, 1), "verifier")
        self._folder = folder
        self._jobs = jobs
        self._coordinators = [
            Coordinator(
                f"coordinator {number}",
                self._policy,
                loop=self._loop,
                network=self._network,
                store=self._store,
                story=self.story,
                draws=self._random(f"coordinator {number}"),
                seed=self._name,
            )
            for number in range(1, self._draws.choice((1, 1, 2)) + 1)
        ]
        self._workers: list[Worker] = []
        self._people: list[Person] = []

    def _random(self, what: str) -> random.Random:
        return random.Random(f"{self._name}:{what}")

    # -------------------------------------------------------------- the run

    def result(self) -> Result:
        """Live, and say what came of it."""
        self._store.checked = self._checked
        try:
            self._until_done(self._live())
        except Stuck:
            self.story.broken("nothing will ever happen again, and not all is done")
        finally:
            virtual_s = self._loop.time()
            self._until_done(self._unwind(), whatever=True)
            self._loop.close()
            self._store.close()
            self._verifier.dispose()
        replica = self._invariants
        attempts = [a for mine in replica.attempts.values() for a in mine.values()]
        return Result(
            self._seed,
            self.story.steps,
            self.story.checks,
            len(replica.jobs),
            len(attempts),
            sum(a.reason == "lost" for a in attempts),
            virtual_s,
            self.story.digest,
            self.story.violation,
            self.story.end(),
        )

    def _until_done(self, work: Coroutine[Any, Any, None], *, whatever: bool = False) -> None:
        """Run the loop until `work` is done, or until something is broken."""
        task = self._loop.create_task(work, context=self._loop.world)
        task.add_done_callback(lambda _: self._loop.stop())
        self._loop.run_forever()
        if task.done() and not whatever and (error := task.exception()) is not None:
            raise error

    async def _unwind(self) -> None:
        """Bring every coroutine to its end; none of them has an effect any more."""
        everybody = [*self._coordinators, *self._workers]
        for one in everybody:
            if one.process is not None:
                one.process.kill()
                one.graveyard.append(one.process)
        for process in [process for one in everybody for process in one.graveyard]:
            await process.unwind()
        for task in asyncio.all_tasks(self._loop) - {asyncio.current_task()}:
            task.cancel()
        for coordinator in self._coordinators:
            if coordinator.grid is not None:
                coordinator.grid._database.engine.dispose()
        await asyncio.sleep(0)

    def _checked(self) -> None:
        self._invariants.step()
        if self.story.steps % VERIFY_EVERY == 0:
            self._verify()

    def _verify(self) -> None:
        with reading(self._verifier) as connection:
            verified = ledger.verify(connection)
        self._must_add_up(verified)

    def _must_add_up(self, verified: Verification) -> None:
        text = f"ledger verify found: {'; '.join(verified.differences[:5])}"
        self.story.must(verified.ok, text)

    # -------------------------------------------------------------- its parts

    async def _live(self) -> None:
        draws = self._draws
        for coordinator in self._coordinators:
            coordinator.start()
        while not all(coordinator.up for coordinator in self._coordinators):
            await self._clock.sleep(0.1)
        admin, owners, submitters = await self._populate()
        self._make_workers(owners)
        for worker in self._workers:
            worker.start()
        faults = Faults(
            World(
                self._coordinators,
                self._workers,
                self._network,
                self._store,
                self._witness,
                self.story,
                self._clock,
                admin,
                self._policy.lease_s,
            ),
            self._random("faults"),
        )
        self.story.tell(
            f"{len(self._coordinators)} coordinators, {len(self._workers)} workers, "
            f"lease {self._policy.lease_s:g} s; faults: {faults.temper}"
        )
        self._make_people(submitters)
        for person in self._people:
            self._loop.create_task(person.live(), context=self._loop.world)
        await faults.happen(until_s=draws.uniform(30.0, 90.0))
        self.story.tell("all faults end")
        await faults.end()
        await self._all_final()
        await self._clock.sleep(self._policy.heartbeat_s)
        self._final_checks()

    async def _populate(self) -> tuple[Principal, list[tuple[Principal, str]], list[Principal]]:
        """The administrator, owners with the tokens their workers enrol with, and submitters."""
        admin, _ = await self._user("admin", 0, Role.ADMIN)
        owners = [await self._user(f"owner-{n}", 5_000_000) for n in range(3)]
        grants = (40_000_000, 5_000_000, 100_000_000)
        submitters = [
            (await self._user(f"user-{n}", self._draws.choice(grants)))[0] for n in range(3)
        ]
        # One owner submits too: on its own workers, which costs nothing.
        return admin, owners, [*submitters, owners[0][0]]

    async def _user(
        self, user_id: str, grant: int, role: Role = Role.USER
    ) -> tuple[Principal, str]:
        """A new user, logged in, without the cost of hashing a password."""
        user = User(user_id, role, suspended=False, created_at=self._clock.now())
        first = self._coordinators[0]

        async def make(grid: Any) -> str:
            def operation(connection: Connection) -> None:
                grid.users._insert(connection, user, PASSWORD_HASH, grant)

            await grid._database.write(operation)
            return (await grid.users.issue(user_id)).token

        token = await first.ask(make)
        return await first.ask(lambda grid: grid.users.authenticate(token)), token

    def _make_workers(self, owners: list[tuple[Principal, str]]) -> None:
        for number in range(self._draws.randint(2, 6)):
            cpus = (
                float(self._draws.choice((2, 4, 8, 16)))
                if number > 1
                else self._draws.choice((6.0, 24.0))
            )
            room = WireResources(cpus, 16_384, 0, 16_384)
            _, token = self._draws.choice(owners)
            self._workers.append(
                Worker(
                    f"worker {number + 1}",
                    token,
                    WireCapabilities(room, ["python"], ["bubblewrap"]),
                    folder=self._folder / f"worker-{number + 1}",
                    loop=self._loop,
                    network=self._network,
                    coordinators=self._coordinators,
                    witness=self._witness,
                    invariants=self._invariants,
                    story=self.story,
                    draws=self._random(f"worker {number + 1}"),
                    seed=self._name,
                )
            )

    def _make_people(self, submitters: list[Principal]) -> None:
        for who in submitters:
            self._people.append(
                Person(
                    who,
                    self._jobs // len(submitters),
                    coordinators=self._coordinators,
                    others=[other.user_id for other in submitters],
                    clock=self._clock,
                    witness=self._witness,
                    invariants=self._invariants,
                    story=self.story,
                    draws=self._random(who.user_id),
                )
            )

    # -------------------------------------------------------------- the end

    async def _all_final(self) -> None:
        give_up_s = self._clock.monotonic() + CALM_S
        while (unfinished := self._expected()) or self._busy():
            await self._clock.sleep(1.0)
            if self._clock.monotonic() > give_up_s:
                if not unfinished:
                    return
                job = self._invariants.jobs[min(unfinished)]
                self.story.broken(
                    f"job {job.job_id} is still {job.status} ({job}) "
                    f"{CALM_S:g} s after the last fault, and {len(unfinished)} jobs in all"
                )
                await self._clock.sleep(0)
                return

    def _busy(self) -> bool:
        """Whether people still ask for something, or workers still end what was taken from them."""
        engines = [worker.engine for worker in self._workers if worker.engine is not None]
        return not all(p.done for p in self._people) or any(
            len(e.session.attempts) for e in engines
        )

    def _expected(self) -> set[int]:
        """The jobs that are to become final; not those put off to a time that a clock ran back from."""
        jobs = self._invariants.jobs
        far = self._coordinators[0].clock.now() + round(CALM_S * 1e6)
        return {
            number
            for number in self._invariants.unfinished
            if not (jobs[number].attempt == 0 and (jobs[number].due_at or 0) > far)
        }

    def _final_checks(self) -> None:
        self._verify()
        must, replica, witness = self.story.must, self._invariants, self._witness
        missing = sorted(witness.accepted.keys() ^ replica.by_id.keys())
        must(not missing, f"accepted and stored differ in {missing[:3]}")
        for job_id in sorted(witness.cancelled):
            status = replica.jobs[replica.by_id[job_id]].status
            must(status == "cancelled", f"job {job_id} was cancelled and is {status}")
        self._check_output()
        must(sum(replica.ledger.balances.values()) == 0, "all accounts together are not zero")
        for worker in self._workers:
            if worker.engine is not None:
                worker.engine.session.validate()
                counts = {s.value: worker.engine.session.attempts.count(s) for s in AttemptState}
                text = f"{worker.name} still has {counts} and keeps {sorted(worker.kept)}"
                must(not any(counts.values()) and not worker.kept, text)
        for coordinator in self._coordinators:
            grid = coordinator.grid  # none while it is about to start
            for session in grid._dispatcher.sessions.values() if grid is not None else ():
                full = session.free == session.worker.capabilities.resources
                text = f"{coordinator.name} thinks {session.worker_id} holds {list(session.live)}"
                must(full and not session.live, text)

    def _check_output(self) -> None:
        """What a successful attempt wrote is there, whole and once."""
        replica = self._invariants
        written: dict[tuple[int, int], list[bytes]] = {}
        for number, attempt, data in self._store.rows(
            "SELECT job_number, attempt, data FROM output ORDER BY job_number, attempt, frame"
        ):
            written.setdefault((number, attempt), []).append(bytes(data))
        for job in replica.jobs.values():
            if job.status == "succeeded":
                output = b"".join(written.get((job.number, job.attempt), []))
                expected = self._witness.scripts[job.name].output
                text = f"job {job.job_id} wrote {expected!r}, stored is {output!r}"
                self.story.must(output == expected, text)
