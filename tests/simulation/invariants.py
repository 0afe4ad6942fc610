"""What must hold after every commit: checked on a replica that is fed each row as it is written.

The replica is made of the rows that the store's triggers copy, so nothing can change unseen. Each
new row is held against the one before it (what may follow what), and when a transaction's rows are
in, the jobs they are about are checked as a whole, with their attempts, leases and money. What a
job costs is computed here anew, from the contract and without the product's code.
"""

from fractions import Fraction

import msgspec

from gridx.domain.attempt import OWN_DOING
from tests.simulation.ledger import Ledger, Transfer
from tests.simulation.store import Store
from tests.simulation.story import Story, short
from tests.simulation.virtual import VirtualLoop
from tests.simulation.witness import Witness

FINAL = ("succeeded", "failed", "cancelled")
OVER = (*FINAL, "lost")
NEXT_OF_JOB = {
    "queued": {"queued", "running", *FINAL},
    "running": {"running", "queued", *FINAL},
}
NEXT_OF_ATTEMPT = {
    "assigned": {"assigned", "running", *OVER},
    "running": {"running", *OVER},
    "lost": {"lost", "succeeded", "failed"},
}
OWN_REASONS = {reason.value for reason in OWN_DOING}
MARGIN_S = 0.5
WORKERS_KILLED_MAX = 3


class JobRow(msgspec.Struct, array_like=True, frozen=True):
    """A row of `jobs`, in the order of `store.JOB`."""

    number: int
    job_id: str
    user_id: str
    status: str
    reason: str | None
    exit_code: int | None
    waiting: bool
    attempt: int
    attempts_counted: int
    max_attempts: int
    lease: str | None
    cancel_requested: bool
    price_per_second: int
    reward_ppm: int
    min_cost: int
    held: int
    limit_us: int
    billed_us: int | None
    cost: int | None
    reward: int | None
    finished_at: int | None
    name: str
    retry_on_failure: bool
    due_at: int | None


class AttemptRow(msgspec.Struct, array_like=True, frozen=True):
    """A row of `attempts`, in the order of `store.ATTEMPT`."""

    job_number: int
    number: int
    lease: str
    worker_id: str
    owner_id: str
    status: str
    live: bool
    counted: bool
    reason: str | None
    exit_code: int | None
    started_at: int | None
    wall_us: int | None
    billed_us: int

    @property
    def ended_by_itself(self) -> bool:
        return self.status in ("succeeded", "cancelled") or self.reason in OWN_REASONS


_job_row = msgspec.json.Decoder(JobRow, strict=False).decode
_attempt_row = msgspec.json.Decoder(AttemptRow, strict=False).decode
_transfer_row = msgspec.json.Decoder(Transfer, strict=False).decode


class Invariants:
    """The replica and the rules."""

    def __init__(self, store: Store, witness: Witness, loop: VirtualLoop, story: Story) -> None:
        self.jobs: dict[int, JobRow] = {}
        self.by_id: dict[str, int] = {}
        self.attempts: dict[int, dict[int, AttemptRow]] = {}
        self.by_lease: dict[str, AttemptRow] = {}
        self.unfinished: set[int] = set()
        self.ledger = Ledger(story)
        self._assigned_at_s: dict[str, float] = {}
        self._store = store
        self._witness = witness
        self._loop = loop
        self._story = story

    def step(self) -> None:
        """Check what the last commit did."""
        touched: dict[int, None] = {}
        for what, line in self._store.new_rows():
            if what == "jobs":
                job = _job_row(line)
                self._job_written(job)
                touched[job.number] = None
            elif what == "attempts":
                attempt = _attempt_row(line)
                self._attempt_written(attempt)
                touched[attempt.job_number] = None
            else:
                self.ledger.add(_transfer_row(line))
        for number in touched:
            self._check_job(self.jobs[number])

    # -------------------------------------------------------------- what may follow what

    def _job_written(self, job: JobRow) -> None:
        must = self._story.must
        before = self.jobs.get(job.number)
        self.jobs[job.number] = job
        if before is None:
            self.by_id[job.job_id] = job.number
            self.unfinished.add(job.number)
            must(job.status == "queued", f"job {job.job_id} began as {job.status}")
            return
        who = f"job {job.job_id}"
        if before.status in FINAL:
            must(job == before, f"{who} was {before.status} and is changed: {before} -> {job}")
            return
        must(job.status in NEXT_OF_JOB[before.status], f"{who}: {before.status} -> {job.status}")
        must(job.attempt - before.attempt in (0, 1), f"{who} skipped an attempt")
        must(not before.cancel_requested or job.cancel_requested, f"{who} forgot its cancel")
        if before.cancel_requested and before.status == "running":
            must(job.status != "queued", f"{who} was to be cancelled and is queued again")
        if job.status in FINAL:
            self.unfinished.discard(job.number)
        if job.status != before.status:
            reason = f" ({job.reason})" if job.reason else ""
            self._story.tell(f"job {short(job.job_id)} is {job.status}{reason}")

    def _attempt_written(self, attempt: AttemptRow) -> None:
        must = self._story.must
        job = self.jobs[attempt.job_number]
        mine = self.attempts.setdefault(attempt.job_number, {})
        before = mine.get(attempt.number)
        mine[attempt.number] = self.by_lease[attempt.lease] = attempt
        who = f"attempt {attempt.number} of job {job.job_id} (lease {attempt.lease})"
        if before is None:
            must(attempt.status == "assigned", f"{who} began as {attempt.status}")
            must(attempt.number == len(mine), f"{who} has a number that is not the next")
            self._assigned_at_s[attempt.lease] = self._loop.time()
            self._story.tell(
                f"job {short(job.job_id)} attempt {attempt.number} is assigned to worker "
                f"{short(attempt.worker_id)} as lease {short(attempt.lease)}"
            )
            return
        follows = NEXT_OF_ATTEMPT.get(before.status, set[str]())
        must(attempt.status in follows, f"{who}: {before.status} -> {attempt.status}")
        same = (attempt.lease, attempt.worker_id) == (before.lease, before.worker_id)
        must(same, f"{who} changed hands")
        if before.status == "lost":
            must(attempt.number == max(mine), f"{who} counts although a newer one was assigned")
        if attempt.status in (before.status, "running"):
            return
        self._story.tell(
            f"job {short(job.job_id)} attempt {attempt.number} is {attempt.status}"
            + (f" ({attempt.reason})" if attempt.reason else "")
        )
        if attempt.status == "lost":
            self._check_loss(who, attempt)

    def _check_loss(self, who: str, attempt: AttemptRow) -> None:
        """A lease is lost only for a reason, and then it counts unless it was handed over."""
        since_s = self._assigned_at_s[attempt.lease] - MARGIN_S
        excused = self._witness.trouble.excuses(attempt.worker_id, since_s)
        self._story.must(excused, f"{who} was lost though nothing had happened to its worker")
        handed = attempt.worker_id in self._witness.left
        self._story.must(attempt.counted or handed, f"{who} was lost and does not count")

    # -------------------------------------------------------------- a job as a whole

    def _check_job(self, job: JobRow) -> None:
        must = self._story.must
        who = f"job {job.job_id}"
        mine = self.attempts.get(job.number, {})
        live = [attempt for attempt in mine.values() if attempt.live]
        must(len(live) <= 1, f"{who} has {len(live)} live leases")
        lease = live[0].lease if live else None
        must(job.lease == lease, f"{who} says its lease is {job.lease}, it is {lease}")
        for attempt in mine.values():
            must(attempt.live == (attempt.status in ("assigned", "running")), f"{who}: live is off")
        waits = job.status == "queued" and lease is None and job.due_at is None
        must(job.waiting == waits, f"{who} is {'not ' if waits else ''}in the queue")
        must(job.attempt == len(mine), f"{who} is at attempt {job.attempt} of {len(mine)}")
        if live:
            must(live[0].number == job.attempt, f"{who}: an old attempt is live")
            is_running = live[0].status == "running"
            must((job.status == "running") == is_running, f"{who} is {job.status}, its attempt not")
        else:
            must(job.status != "running", f"{who} runs without a lease")
        counted = sum(attempt.counted for attempt in mine.values())
        must(counted == job.attempts_counted, f"{who} counts {job.attempts_counted} of {counted}")
        must(counted <= job.max_attempts, f"{who} had {counted} of {job.max_attempts} attempts")
        if job.status in FINAL:
            self._check_end(job, list(mine.values()))
        else:
            self.ledger.check_open(job.job_id, job.held)

    def _check_end(self, job: JobRow, attempts: list[AttemptRow]) -> None:
        must = self._story.must
        who = f"job {job.job_id}"
        if job.status == "succeeded":
            newest = max(attempts, key=lambda a: a.number)
            must(newest.status == "succeeded", f"{who} succeeded, its newest attempt did not")
            ran = self._witness.runs.get(newest.lease)
            must(ran and ran.exit_code == 0, f"{who} succeeded by lease {newest.lease}: {ran}")
        if job.status == "failed" and job.reason in ("lost", "sandbox_error"):
            killed = {a.worker_id for a in attempts if a.counted and a.status == "lost"}
            gave_up = job.reason == "lost" and len(killed) >= WORKERS_KILLED_MAX
            tried = job.attempts_counted == job.max_attempts
            must(tried or gave_up, f"{who} failed with tries left")
        for attempt in attempts:
            self._check_bill(job, attempt)
        expected = _settled(job, attempts)
        says = (job.billed_us, job.cost, job.reward)
        must(says == expected[:3], f"{who} is settled as {says}, it should be {expected[:3]}")
        self.ledger.check_settled(job.job_id, job.user_id, job.held, expected[1], expected[3])

    def _check_bill(self, job: JobRow, attempt: AttemptRow) -> None:
        who = f"attempt {attempt.number} of job {job.job_id} (lease {attempt.lease})"
        bound = 0
        if attempt.ended_by_itself and attempt.owner_id != job.user_id:
            ran = self._witness.runs.get(attempt.lease)
            bound = min(round(ran.wall_s * 1e6) if ran else 0, job.limit_us)
        self._story.must(
            0 <= attempt.billed_us <= bound,
            f"{who} is billed {attempt.billed_us} us where at most {bound} are due",
        )

    # -------------------------------------------------------------- what outsiders are told

    def is_final(self, job_id: str) -> bool:
        return self.jobs[self.by_id[job_id]].status in FINAL

    def accepted(self, job_ids: list[str]) -> None:
        """Somebody was told that these jobs are accepted."""
        for job_id in job_ids:
            self._story.must(job_id in self.by_id, f"job {job_id} was accepted and is not stored")

    def acknowledged(self, job_id: str, lease: str) -> None:
        """A worker was told that the end of its attempt is stored."""
        attempt = self.by_lease.get(lease)
        stored = attempt is not None and attempt.wall_us is not None
        self._story.must(stored, f"lease {lease} of job {job_id} was acknowledged, not stored")

    def dropped(self, job_id: str, lease: str) -> None:
        """A worker was told that it has lost a lease."""
        attempt = self.by_lease.get(lease)
        if attempt is not None:
            text = f"lease {lease} of job {job_id} was dropped and is live"
            self._story.must(not attempt.live, text)


def _settled(job: JobRow, attempts: list[AttemptRow]) -> tuple[int, int, int, dict[str, int]]:
    """What a final job's attempts make it cost: billed time, cost, reward, reward by owner."""
    ended = [a for a in attempts if a.ended_by_itself and a.started_at is not None]
    billed = sum(a.billed_us for a in ended)
    cost = round(Fraction(job.price_per_second * billed, 1_000_000))
    if any(a.owner_id != job.user_id for a in ended):
        cost = max(cost, job.min_cost)
    cost = left = min(cost, job.held)
    rewards: dict[str, int] = {}
    for a in ended:
        share = Fraction(job.reward_ppm, 1_000_000) * job.price_per_second
        amount = min(left, int(share * Fraction(a.billed_us, 1_000_000)))
        left -= amount
        if amount:
            rewards[a.owner_id] = rewards.get(a.owner_id, 0) + amount
    return billed, cost, sum(rewards.values()), rewards
