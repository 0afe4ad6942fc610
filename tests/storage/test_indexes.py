"""Queries on the hot paths use their index: their cost does not grow with what lies behind."""

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event, insert, text

from gridx.domain.job import JobSpec
from gridx.domain.ledger import MINT, Book, Kind, Movement, available, held
from gridx.domain.matching import shape_key, shape_of
from gridx.storage import attempts, events, jobs, ledger, queues, requests, tables, users
from gridx.storage.dialect import is_sqlite
from tests.storage.rows import AT, new_attempt, new_id, new_job

QUEUE = shape_key(shape_of(new_job().spec))
# What is asked, and the indexes that its first statement goes by (on SQLite a unique
# constraint's index has a name of its own).
CASES: dict[str, tuple[Callable[[Connection], object], tuple[str, ...]]] = {
    "claim": (lambda c: queues.claim(c, "alice", QUEUE, 5, AT), ("ix_jobs_queue",)),
    "find queues": (queues.find_queues, ("ix_jobs_queue",)),
    "oldest waiting": (queues.oldest_waiting, ("ix_jobs_queued_at",)),
    "expiry": (lambda c: jobs.lock_waiting_since(c, AT, 5), ("ix_jobs_queued_at",)),
    "put off": (queues.earliest_due, ("ix_jobs_due_at",)),
    "due": (lambda c: queues.queue_due(c, AT, 5), ("ix_jobs_due_at",)),
    "waiting of a user": (lambda c: jobs.count_waiting(c, ["alice"]), ("ix_jobs_queue",)),
    "deadlines": (lambda c: jobs.lock_past_deadline(c, AT, 5), ("ix_jobs_deadline",)),
    "own jobs": (
        lambda c: jobs.list_jobs(c, "alice", {}, tag=None, limit=5, before=10**9),
        ("ix_jobs_user_id_number",),
    ),
    "a batch": (lambda c: jobs.batch_exists(c, None, new_id()), ("ix_jobs_batch_id",)),
    "cancel a batch": (
        lambda c: jobs.lock_unfinished_of_batch(c, "alice", new_id()), ("ix_jobs_batch_id",),
    ),
    "unfinished by status": (jobs.count_by_status, ("ix_jobs_unfinished",)),
    "a job": (lambda c: jobs.find_job(c, new_id()), ("uq_jobs_job_id|autoindex_jobs",)),
    "leases of a worker": (
        lambda c: attempts.live_leases_of_worker(c, new_id()), ("ix_attempts_worker_id",),
    ),
    "workers with leases": (attempts.workers_with_leases, ("ix_attempts_worker_id",)),
    "by lease": (
        lambda c: attempts.lock_by_leases(c, [new_id()]),
        ("uq_attempts_lease|autoindex_attempts",),
    ),
    "output": (lambda c: attempts.read_output(c, 1, 1), ("pk_output|autoindex_output",)),
    "statement": (
        lambda c: ledger.statement(c, "alice", 5, 10**9),
        ("ix_transfers_source_number", "ix_transfers_target_number"),
    ),
    "events": (
        lambda c: events.read(c, "alice", 5, None, 5), ("pk_events|autoindex_events|PRIMARY KEY",),
    ),
    "a token": (
        lambda c: users.find_principal(c, "x"), ("uq_tokens_secret_hash|autoindex_tokens",),
    ),
    "old answers": (lambda c: requests.forget_answers(c, AT, 5), ("ix_idempotency_created_at",)),
}  # fmt: skip


@contextmanager
def plans_of(connection: Connection) -> Generator[list[str]]:
    """The plan of each query that runs inside."""
    found: list[str] = []
    explaining = False

    def before(
        connection: Connection, cursor: Any, statement: str, parameters: Any, *_: object
    ) -> None:
        nonlocal explaining
        if explaining or not statement.lstrip().upper().startswith("SELECT"):
            return
        explaining = True
        word = "EXPLAIN QUERY PLAN" if is_sqlite(connection) else "EXPLAIN"
        rows = connection.exec_driver_sql(f"{word} {statement}", parameters)
        found.append("\n".join(" ".join(map(str, row)) for row in rows))
        explaining = False

    event.listen(connection, "before_cursor_execute", before)
    try:
        yield found
    finally:
        event.remove(connection, "before_cursor_execute", before)


def fill(connection: Connection) -> None:
    """Enough rows of enough users that reading a table through is dearer than using its index."""
    user_ids = ["alice", *(f"user-{number}" for number in range(400))]
    connection.execute(
        insert(tables.users),
        [
            {"user_id": user_id, "password_hash": "", "role": "user", "suspended": False,
             "created_at": AT, "last_event": 0}
            for user_id in user_ids
        ],
    )  # fmt: skip
    connection.execute(
        insert(tables.tokens),
        [
            {"token_id": new_id(), "kind": "login", "secret_hash": new_id(), "user_id": user_id,
             "scopes": "", "created_at": AT}
            for user_id in user_ids
        ],
    )  # fmt: skip
    new = [new_job(user_id, batch=new_id()) for user_id in user_ids for _ in range(5)]
    timed = JobSpec(not_before=AT + 10**9, deadline=AT + 10**10)
    new += [new_job(user_id, timed) for user_id in user_ids for _ in range(5)]
    jobs.insert_jobs(connection, new)
    states = jobs.find_states(connection, [job.job_id for job in new])
    attempts.insert_attempts(
        connection, [(state.number, new_attempt(state, new_id())) for state in states.values()]
    )
    book = Book({})
    for job in new:
        grant = (new_id(), AT, Kind.GRANT, MINT, available(job.user_id), job.terms.hold)
        hold = (new_id(), AT, Kind.HOLD, available(job.user_id), held(job.user_id), job.terms.hold)
        for movement in (grant, hold):
            book.move(Movement(*movement))
    ledger.post(connection, book)
    connection.commit()
    connection.execute(text("ANALYZE"))
    connection.commit()
    if not is_sqlite(connection):
        # A few pages are cheap to read through: ask how it would be done with many.
        for way in ("seqscan", "bitmapscan"):
            connection.execute(text(f"SET enable_{way} = off"))


def test_hot_queries_go_by_their_index(engine: Engine) -> None:
    wrong: list[str] = []
    with engine.connect() as connection:
        fill(connection)
        for name, (operation, wanted) in CASES.items():
            with plans_of(connection) as plans:
                operation(connection)
            missing = [index for index in wanted if re.search(index, plans[0]) is None]
            wrong += [f"{name}: no {index} in\n{plans[0]}" for index in missing]
            wrong += [f"{name}: {plan}" for plan in plans if "Seq Scan" in plan]
        connection.rollback()
    assert not wrong, "\n\n".join(wrong)
