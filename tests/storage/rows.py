"""Rows to store: users, jobs and attempts with all that a test does not care about filled in."""

import uuid
from collections.abc import Sequence

from msgspec.structs import replace
from sqlalchemy import Connection

from gridx.domain.attempt import Attempt, AttemptStatus
from gridx.domain.job import JobSpec, JobState, Terms
from gridx.domain.ledger import MINT, Kind, Movement, available, held
from gridx.domain.user import Role, User
from gridx.storage import attempts, jobs, ledger, users
from gridx.storage.jobs import NewJob

TERMS = Terms(10_625, 850_000, 5_000, 637_500, 60_000_000)
AT = 1_700_000_000_000_000


def new_id() -> str:
    return str(uuid.uuid4())


def add_user(connection: Connection, user_id: str, grant: int = 0) -> None:
    users.insert_user(connection, User(user_id, Role.USER, suspended=False, created_at=AT), "hash")
    ledger.create_accounts(connection, user_id)
    if grant:
        move(connection, Kind.GRANT, MINT, available(user_id), grant)


def move(
    connection: Connection,
    kind: Kind,
    source: str,
    target: str,
    amount: int,
    *,
    job_id: str | None = None,
    memo: str | None = None,
) -> str:
    """Post one movement; its id."""
    transfer_id = new_id()
    parties = {a.partition(":")[0] for a in (source, target)} - {"grid"}
    book = ledger.open_book(connection, parties)
    book.move(Movement(transfer_id, AT, kind, source, target, amount, job_id, memo))
    ledger.post(connection, book)
    return transfer_id


def new_job(
    user_id: str = "alice", spec: JobSpec | None = None, *, at: int = AT, batch: str | None = None
) -> NewJob:
    return NewJob(
        job_id=new_id(),
        user_id=user_id,
        spec=spec or JobSpec(code="print(1)"),
        terms=TERMS,
        created_at=at,
        batch_id=batch,
    )


def add_jobs(connection: Connection, new: Sequence[NewJob]) -> list[JobState]:
    """Store jobs with their holds; as they stand then."""
    jobs.insert_jobs(connection, new)
    for job in new:
        source, target = available(job.user_id), held(job.user_id)
        move(connection, Kind.HOLD, source, target, job.terms.hold, job_id=job.job_id)
    states = jobs.find_states(connection, [job.job_id for job in new])
    return [states[job.job_id] for job in new]


def new_attempt(job: JobState, worker_id: str, owner_id: str = "bob") -> Attempt:
    return Attempt(
        job_id=job.job_id,
        number=job.attempt + 1,
        lease=new_id(),
        worker_id=worker_id,
        owner_id=owner_id,
        status=AttemptStatus.ASSIGNED,
        reason=None,
        exit_code=None,
        counted=False,
        assigned_at=AT,
        started_at=None,
        finished_at=None,
        usage=None,
        billed_us=0,
        sandbox=None,
    )


def assign(connection: Connection, job: JobState, worker_id: str) -> tuple[JobState, Attempt]:
    """Give a waiting job to a worker, as the dispatcher does."""
    attempt = new_attempt(job, worker_id)
    after = replace(job, attempt=attempt.number, lease=attempt.lease)
    jobs.save_jobs(connection, [(job, after)])
    attempts.insert_attempts(connection, [(job.number, attempt)])
    return after, attempt
