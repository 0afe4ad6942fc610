"""Jobs: storing them, finding them, saving what changed of them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Integer, Row, bindparam, func, insert, select, text, update

from gridx.domain.attempt import Reason
from gridx.domain.job import Failure, Job, JobSpec, JobState, JobStatus, Limits, Terms
from gridx.domain.matching import Shape, shape_key, shape_of
from gridx.domain.resources import Resources
from gridx.storage.dialect import ManyRows, next_job_numbers
from gridx.storage.tables import PUT_OFF, UNSTARTED, job_tags, job_texts, jobs

_encode = msgspec.json.Encoder().encode


class _Texts(msgspec.Struct, omit_defaults=True):
    code: str = ""
    command: str | list[str] | None = None
    args: list[str] = []
    env: dict[str, str] = {}
    stdin: str = ""


class _Spec(msgspec.Struct, omit_defaults=True):
    language: str
    resources: Resources
    limits: Limits
    tags: list[str] = []
    require: dict[str, str] = {}
    max_cost: int | None = None
    image: str | None = None
    not_before: int | None = None


class _Limited(msgspec.Struct):
    limits: Limits


_INSERT = ManyRows(lambda _: insert(jobs),
    [
        "number", "job_id", "user_id", "status", "name", "batch_id", "retry_of", "traceparent",
        "spec", "shape", "priority", "max_attempts", "retry_on_failure", "waiting", "attempt",
        "attempts_counted", "cancel_requested", "price_per_second", "reward_ppm", "min_cost",
        "held", "limit_us", "created_at", "queued_at", "due_at", "deadline",
    ],
)  # fmt: skip
_INSERT_TEXTS = ManyRows(lambda _: insert(job_texts), ["number", "texts"])
_INSERT_TAGS = ManyRows(lambda _: insert(job_tags), ["user_id", "tag", "number"])

_decode_texts = msgspec.json.Decoder(_Texts).decode
_decode_spec = msgspec.json.Decoder(_Spec).decode
_decode_limits = msgspec.json.Decoder(_Limited).decode
_decode_failures = msgspec.json.Decoder(tuple[Failure, ...]).decode


class NewJob(Struct, frozen=True, kw_only=True):
    """A job to be stored, on the terms it was submitted under."""

    job_id: str
    user_id: str
    spec: JobSpec
    terms: Terms
    created_at: int
    batch_id: str | None = None
    retry_of: str | None = None
    traceparent: str | None = None


def insert_jobs(connection: Connection, new: Sequence[NewJob]) -> None:
    """Store jobs as queued, in this order; those that are not to begin yet are put off."""
    numbers = next_job_numbers(connection, len(new))
    rows: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    tags: list[dict[str, Any]] = []
    keys: dict[Shape, str] = {}
    for number, job in zip(numbers, new, strict=True):
        spec, terms = job.spec, job.terms
        shape = shape_of(spec)
        if (key := keys.get(shape)) is None:
            key = keys[shape] = shape_key(shape)
        early = spec.not_before is not None and spec.not_before > job.created_at
        due_at = spec.not_before if early else None
        rows.append(
            {
                "number": number,
                "job_id": job.job_id,
                "user_id": job.user_id,
                "status": "queued",
                "name": spec.name,
                "batch_id": job.batch_id,
                "retry_of": job.retry_of,
                "traceparent": job.traceparent,
                "spec": _spec_text(spec),
                "shape": key,
                "priority": spec.priority,
                "max_attempts": spec.max_attempts,
                "retry_on_failure": spec.retry_on_failure,
                "waiting": due_at is None,
                "attempt": 0,
                "attempts_counted": 0,
                "cancel_requested": False,
                "price_per_second": terms.price_per_second,
                "reward_ppm": terms.reward_ppm,
                "min_cost": terms.min_cost,
                "held": terms.hold,
                "limit_us": terms.limit_us,
                "created_at": job.created_at,
                "queued_at": job.created_at,
                "due_at": due_at,
                "deadline": spec.deadline,
            }
        )
        texts.append({"number": number, "texts": _texts_text(spec)})
        tags += [{"user_id": job.user_id, "tag": t, "number": number} for t in set(spec.tags)]
    _INSERT.execute(connection, rows)
    _INSERT_TEXTS.execute(connection, texts)
    _INSERT_TAGS.execute(connection, tags)


def _spec_text(spec: JobSpec) -> str:
    stored = _Spec(
        spec.language, spec.resources, spec.limits, list(spec.tags), dict(spec.require),
        spec.max_cost, spec.image, spec.not_before,
    )  # fmt: skip
    return _encode(stored).decode()


def _texts_text(spec: JobSpec) -> str:
    command = list(spec.command) if isinstance(spec.command, tuple) else spec.command
    stored = _Texts(spec.code, command, list(spec.args), dict(spec.env), spec.stdin)
    return _encode(stored).decode()


def spec_of(row: "Row[Any]", texts: str | None) -> JobSpec:
    """The spec of a row of `jobs`; without `texts` its code, arguments and input stay empty."""
    stored = _decode_spec(row.spec)
    t = _decode_texts(texts) if texts is not None else _Texts()
    return JobSpec(
        code=t.code,
        language=stored.language,
        command=tuple(t.command) if isinstance(t.command, list) else t.command,
        args=tuple(t.args),
        env=t.env,
        stdin=t.stdin,
        name=row.name,
        tags=tuple(stored.tags),
        resources=stored.resources,
        limits=stored.limits,
        image=stored.image,
        require=stored.require,
        priority=row.priority,
        max_attempts=row.max_attempts,
        retry_on_failure=bool(row.retry_on_failure),
        max_cost=stored.max_cost,
        not_before=stored.not_before,
        deadline=row.deadline,
    )


# ------------------------------------------------------------------ reading


def _job(row: "Row[Any]", texts: str | None = None) -> Job:
    return Job(
        job_id=row.job_id,
        user_id=row.user_id,
        status=JobStatus(row.status),
        reason=None if row.reason is None else Reason(row.reason),
        exit_code=row.exit_code,
        spec=spec_of(row, texts),
        limit_us=row.limit_us,
        price_per_second=row.price_per_second,
        held=row.held,
        billed_us=row.billed_us,
        cost=row.cost,
        reward=row.reward,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        worker_id=row.worker_id,
        cancel_requested=bool(row.cancel_requested),
        batch_id=row.batch_id,
        retry_of=row.retry_of,
        traceparent=row.traceparent,
        number=row.number,
    )


def find_job(connection: Connection, job_id: str) -> Job | None:
    """A job with all of its spec."""
    row = connection.execute(
        select(jobs, job_texts.c.texts)
        .join(job_texts, job_texts.c.number == jobs.c.number)
        .where(jobs.c.job_id == job_id)
    ).first()
    return None if row is None else _job(row, row.texts)


def find_states(connection: Connection, job_ids: Collection[str]) -> dict[str, JobState]:
    """Where these jobs stand, without a lock."""
    rows = connection.execute(select(jobs).where(jobs.c.job_id.in_(job_ids)))
    return {row.job_id: state_of(row) for row in rows}


def resources_of(connection: Connection, job_ids: Collection[str]) -> dict[str, Resources]:
    """What each of these jobs takes."""
    rows = connection.execute(select(jobs.c.job_id, jobs.c.spec).where(jobs.c.job_id.in_(job_ids)))
    return {job_id: _decode_spec(spec).resources for job_id, spec in rows}


def list_jobs(
    connection: Connection,
    user_id: str,
    where: Mapping[str, str | None],
    *,
    tag: str | None,
    limit: int,
    before: int | None,
) -> list[Job]:
    """A user's jobs, newest first, without texts; `where` are columns and their values."""
    query = select(jobs).where(jobs.c.user_id == user_id)
    for column, value in where.items():
        if value is not None:
            query = query.where(jobs.c[column] == value)
    if tag is not None:
        query = query.join(
            job_tags,
            (job_tags.c.number == jobs.c.number)
            & (job_tags.c.user_id == user_id)
            & (job_tags.c.tag == tag),
        )
    if before is not None:
        query = query.where(jobs.c.number < before)
    return [_job(r) for r in connection.execute(query.order_by(jobs.c.number.desc()).limit(limit))]


def count_waiting(connection: Connection, user_ids: Collection[str]) -> dict[str, int]:
    """How many jobs of each user wait for a worker, or for their time."""
    counts: dict[str, int] = {}
    for condition in ("jobs.waiting", PUT_OFF):
        rows = connection.execute(
            select(jobs.c.user_id, func.count())
            .where(jobs.c.user_id.in_(user_ids), text(condition))
            .group_by(jobs.c.user_id)
        )
        for user_id, count in rows:
            counts[user_id] = counts.get(user_id, 0) + count
    return counts


def count_by_status(connection: Connection) -> dict[str, int]:
    """How many unfinished jobs there are of each status."""
    rows = connection.execute(
        select(jobs.c.status, func.count())
        .where(jobs.c.finished_at.is_(None))
        .group_by(jobs.c.status)
    )
    return {status: count for status, count in rows}


# ------------------------------------------------------------------ state: lock, change, save


def state_of(row: "Row[Any]") -> JobState:
    """The changeable part of a row of `jobs`."""
    return JobState(
        number=row.number,
        job_id=row.job_id,
        user_id=row.user_id,
        status=JobStatus(row.status),
        reason=None if row.reason is None else Reason(row.reason),
        exit_code=row.exit_code,
        cancel_requested=bool(row.cancel_requested),
        attempt=row.attempt,
        attempts_counted=row.attempts_counted,
        max_attempts=row.max_attempts,
        retry_on_failure=bool(row.retry_on_failure),
        lease=row.lease,
        worker_id=row.worker_id,
        terms=Terms(row.price_per_second, row.reward_ppm, row.min_cost, row.held, row.limit_us),
        queued_at=row.queued_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        shape=row.shape,
        output_bytes=_decode_limits(row.spec).limits.output_bytes,
        due_at=row.due_at,
        deadline=row.deadline,
        failures=_failures(row.failures),
        billed_us=row.billed_us,
        cost=row.cost,
        reward=row.reward,
    )


def _failures(stored: str | None) -> tuple[Failure, ...]:
    return () if stored is None else _decode_failures(stored)


_LOCK = (
    select(jobs)
    .where(jobs.c.job_id.in_(bindparam("job_ids", expanding=True)))
    .order_by(jobs.c.number)
    .with_for_update()
)


def lock_jobs(connection: Connection, job_ids: Collection[str]) -> dict[str, JobState]:
    """The jobs with these ids, which nobody else changes until the transaction ends."""
    rows = connection.execute(_LOCK, {"job_ids": sorted(set(job_ids))})
    return {row.job_id: state_of(row) for row in rows}


def lock_queued_of_user(connection: Connection, user_id: str, limit: int) -> list[JobState]:
    """Jobs of a user that are queued, locked, oldest first."""
    condition = (jobs.c.user_id == user_id) & (jobs.c.status == "queued")
    return _lock_unfinished(connection, condition, limit)


def lock_unfinished_of_batch(
    connection: Connection, user_id: str | None, batch_id: str
) -> list[JobState]:
    """Jobs of a batch (of one user, when given) that are not final, locked."""
    condition = jobs.c.batch_id == batch_id
    if user_id is not None:
        condition &= jobs.c.user_id == user_id
    return _lock_unfinished(connection, condition, None)


_LOCK_WAITING_SINCE = (
    select(jobs)
    .where(text("jobs.waiting"), jobs.c.queued_at < bindparam("before"))
    .order_by(jobs.c.queued_at)
    .limit(bindparam("limit", type_=Integer))
    .with_for_update(skip_locked=True)
)


def lock_waiting_since(connection: Connection, before: int, limit: int) -> list[JobState]:
    """Jobs that have waited in a queue since before this time, locked, skipping those in use."""
    rows = connection.execute(_LOCK_WAITING_SINCE, {"before": before, "limit": limit})
    return [state_of(row) for row in rows]


_LOCK_PAST_DEADLINE = (
    select(jobs)
    .where(text(UNSTARTED), jobs.c.deadline <= bindparam("now"))
    .order_by(jobs.c.deadline)
    .limit(bindparam("limit", type_=Integer))
    .with_for_update(skip_locked=True)
)


def lock_past_deadline(connection: Connection, now: int, limit: int) -> list[JobState]:
    """Jobs that have not started by their deadline, locked, skipping those in use."""
    rows = connection.execute(_LOCK_PAST_DEADLINE, {"now": now, "limit": limit})
    return [state_of(row) for row in rows]


def _lock_unfinished(connection: Connection, condition: Any, limit: int | None) -> list[JobState]:
    query = (
        select(jobs)
        .where(condition, jobs.c.finished_at.is_(None))
        .order_by(jobs.c.number)
        .with_for_update()
    )
    rows = connection.execute(query if limit is None else query.limit(limit))
    return [state_of(row) for row in rows]


def batch_exists(connection: Connection, user_id: str | None, batch_id: str) -> bool:
    query = select(jobs.c.number).where(jobs.c.batch_id == batch_id).limit(1)
    if user_id is not None:
        query = query.where(jobs.c.user_id == user_id)
    return connection.execute(query).first() is not None


_SAVED = (
    "status",
    "reason",
    "exit_code",
    "waiting",
    "attempt",
    "attempts_counted",
    "lease",
    "worker_id",
    "cancel_requested",
    "billed_us",
    "cost",
    "reward",
    "queued_at",
    "started_at",
    "finished_at",
    "shape",
    "due_at",
    "failures",
)
_SAVE = ManyRows(
    lambda _: (
        update(jobs)
        .where(
            jobs.c.number == bindparam("b_number"),
            jobs.c.status == bindparam("b_status"),
            jobs.c.lease.is_not_distinct_from(bindparam("b_lease")),
        )
        .values({name: bindparam(f"v_{name}") for name in _SAVED})
    ),
    ["b_number", "b_status", "b_lease", *(f"v_{name}" for name in _SAVED)],
)


def save_jobs(connection: Connection, changes: Sequence[tuple[JobState, JobState]]) -> None:
    """Save jobs as (before, after), each guarded by its status and lease before."""
    if not changes:
        return
    rows = [
        {
            "b_number": before.number,
            "b_status": before.status.value,
            "b_lease": before.lease,
            "v_status": after.status.value,
            "v_reason": None if after.reason is None else after.reason.value,
            "v_exit_code": after.exit_code,
            "v_waiting": after.waiting,
            "v_attempt": after.attempt,
            "v_attempts_counted": after.attempts_counted,
            "v_lease": after.lease,
            "v_worker_id": after.worker_id,
            "v_cancel_requested": after.cancel_requested,
            "v_billed_us": after.billed_us,
            "v_cost": after.cost,
            "v_reward": after.reward,
            "v_queued_at": after.queued_at,
            "v_started_at": after.started_at,
            "v_finished_at": after.finished_at,
            "v_shape": after.shape,
            "v_due_at": after.due_at,
            "v_failures": _encode(after.failures).decode() if after.failures else None,
        }
        for before, after in changes
    ]
    assert _SAVE.execute(connection, rows) == len(rows), "a job changed under its lock"
