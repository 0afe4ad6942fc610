"""People: they submit until they have no credits left, cancel, retry, pay each other, and insist.

A request whose answer is lost is made again, with the same key, at whichever coordinator answers;
what it was meant to do must then have been done exactly once.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from gridx.coordinator.grid import Grid
from gridx.coordinator.idempotency import IdempotencyKey
from gridx.domain.errors import (
    Conflict,
    InsufficientCredits,
    InvalidInput,
    NotFound,
    Unavailable,
)
from gridx.domain.job import JobSpec, Limits
from gridx.domain.resources import Resources
from gridx.domain.user import Principal
from tests.simulation.coordinators import Coordinator, Lost
from tests.simulation.invariants import Invariants
from tests.simulation.programs import End, Script
from tests.simulation.story import Story, short
from tests.simulation.virtual import VirtualClock
from tests.simulation.witness import Witness

T = TypeVar("T")
SHAPES = (Resources(1.0, 256, 0, 256), Resources(2.0, 512, 0, 256))
ENDS: Sequence[End] = ("succeeds", "fails", "out_of_memory", "hangs", "sandbox_error")
END_WEIGHTS = (80, 8, 3, 4, 3)


class Person:
    """One user, who wants `jobs` jobs run."""

    def __init__(
        self,
        who: Principal,
        jobs: int,
        *,
        coordinators: Sequence[Coordinator],
        others: Sequence[str],
        clock: VirtualClock,
        witness: Witness,
        invariants: Invariants,
        story: Story,
        draws: random.Random,
    ) -> None:
        self.who = who
        self.done = False
        self._wanted = jobs
        self._coordinators = coordinators
        self._others = [other for other in others if other != who.user_id]
        self._clock = clock
        self._witness = witness
        self._invariants = invariants
        self._story = story
        self._draws = draws
        self._mine: list[str] = []
        self._batches: list[str] = []
        self._number = 0

    async def live(self) -> None:
        """Do what people do, until all is submitted."""
        try:
            await self._ask_for_work()
        except Exception as error:  # noqa: BLE001  (it ends the run, as whatever is not expected)
            self._story.broken(f"{self.who.user_id} met {error!r}")
        self.done = True

    async def _ask_for_work(self) -> None:
        while self._wanted > 0:
            await self._clock.sleep(self._draws.expovariate(0.7))
            act = self._draws.choices(
                (self._submit_batch, self._submit, self._cancel, self._retry, self._pay,
                 self._cancel_batch),
                (55, 15, 15, 7, 5, 3),
            )[0]  # fmt: skip
            await act()

    # -------------------------------------------------------------- requests

    async def _insist(self, what: Callable[[Grid], Awaitable[T]]) -> T:
        """Ask until somebody answers."""
        while True:
            try:
                return await self._draws.choice(self._coordinators).ask(what)
            except (Lost, Unavailable):
                await self._clock.sleep(self._draws.uniform(0.2, 2.0))

    def _key(self, path: str) -> IdempotencyKey:
        self._number += 1
        name = f"{self.who.user_id}-{self._number}"
        return IdempotencyKey(self.who.user_id, path, name, name)

    def _spec(self, name: str) -> JobSpec:
        draws = self._draws
        end = draws.choices(ENDS, END_WEIGHTS)[0]
        run_s = min(20.0, draws.expovariate(0.6))
        if draws.random() < 0.05:
            end = "ignores_cancel"
        unlucky = 0.3 if draws.random() < 0.1 else 0.0
        puts_off, hurries = draws.random() < 0.05, draws.random() < 0.05
        script = Script(name, run_s, draws.choice((0, 1, 2, 4)), end, unlucky)
        self._witness.scripts[name] = script
        return JobSpec(
            code=script.code,
            name=name,
            resources=SHAPES[draws.random() < 0.15],
            limits=Limits(timeout_s=draws.choice((5.0, 30.0, 60.0))),
            max_attempts=draws.choice((1, 2, 3, 3, 5)),
            retry_on_failure=draws.random() < 0.1,
            priority=draws.choice((0, 0, 0, 5, -5)),
            not_before=self._clock.now() + draws.randint(1, 20_000_000) if puts_off else None,
            deadline=self._clock.now() + draws.randint(30, 600) * 1_000_000 if hurries else None,
        )

    def _accepted(self, names: Sequence[str], job_ids: Sequence[str]) -> None:
        self._story.tell(f"{self.who.user_id} is given {len(job_ids)} jobs, {names[0]} first")
        self._invariants.accepted(list(job_ids))
        for name, job_id in zip(names, job_ids, strict=True):
            self._witness.accepted[job_id] = name
        self._mine += job_ids
        self._wanted -= len(job_ids)

    async def _submit(self) -> None:
        key = self._key("/jobs")
        spec = self._spec(key.key)
        try:
            made = await self._insist(lambda g: g.jobs.submit(self.who, spec, None, key, None))
        except (InsufficientCredits, InvalidInput):  # as when the deadline has passed by now
            self._wanted -= 1
            return
        self._accepted([key.key], [made.job_id])

    async def _submit_batch(self) -> None:
        key = self._key("/jobs/batch")
        count = min(self._wanted, self._draws.choice((3, 30, 100, 200)))
        specs = [self._spec(f"{key.key}.{n}") for n in range(count)]
        while specs:
            batch, batch_key = list(specs), key
            try:
                made = await self._insist(
                    lambda g, batch=batch, key=batch_key: g.jobs.submit_batch(
                        self.who, batch, key, None
                    )
                )
            except InsufficientCredits:
                # To the last credit: half of it, under a key of its own.
                specs = specs[: len(specs) // 2]
                key = self._key("/jobs/batch")
                continue
            except InvalidInput:
                break
            self._accepted([spec.name or "" for spec in batch], made.job_ids)
            self._batches.append(made.batch_id)
            if self._draws.random() < 0.15:
                await self._cancel_batch(made.batch_id)
            return
        self._wanted -= 5

    async def _cancel(self) -> None:
        if not self._mine:
            return
        job_id = self._draws.choice(self._mine[-50:])
        try:
            told = await self._insist(lambda g: g.jobs.cancel(self.who, job_id))
        except Conflict:
            return
        self._story.tell(
            f"{self.who.user_id} cancels job {short(job_id)}: it is {told.status.value}"
            + (", to be cancelled" if told.cancel_requested else "")
        )
        self._witness.cancelled.add(job_id)

    async def _cancel_batch(self, batch_id: str | None = None) -> None:
        if self._batches:
            batch_id = batch_id or self._draws.choice(self._batches[-3:])
            count = await self._insist(lambda g: g.jobs.cancel_batch(self.who, batch_id))
            self._story.tell(f"{self.who.user_id} cancels a batch: {count} jobs")

    async def _retry(self) -> None:
        final = [j for j in self._mine[-80:] if self._invariants.is_final(j)]
        if not final:
            return
        job_id = self._draws.choice(final)
        key = self._key(f"/jobs/{job_id}/retry")
        name = self._witness.accepted[job_id]
        try:
            made = await self._insist(lambda g: g.jobs.retry(self.who, job_id, key))
        except (Conflict, InsufficientCredits):
            return
        self._accepted([name], [made.job_id])

    async def _pay(self) -> None:
        to = self._draws.choice(self._others)
        amount = self._draws.randint(1, 2_000_000)
        key = self._key("/credits/transfer")
        try:
            await self._insist(lambda g: g.accounts.transfer(self.who, to, amount, "rent", key))
        except (InsufficientCredits, NotFound):
            return
        self._story.tell(f"{self.who.user_id} pays {to} {amount}")
