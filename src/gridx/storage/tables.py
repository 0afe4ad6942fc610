"""The schema at a glance: every table of a grid, for SQLite and PostgreSQL alike.

Times (`*_at`) are microseconds since the Unix epoch, money is micro-credits, durations end in `_us`;
structured values that no query looks into are JSON text. On SQLite, tables whose key is not one
number and whose rows are small are kept in the order of their key (no row id, one tree less). `waiting` and `live` repeat what the status
says so that the indexes of the queue and of the leases hold only rows that matter. Rows refer to
each other by number or id without foreign keys: each is written in the transaction of its parent,
and a check of the parent's lock a row would cost more than all else on the hot paths.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Number = BigInteger().with_variant(Integer, "sqlite")
"""A row number; SQLite counts by itself only in a column that is exactly INTEGER."""
Id = String(36)
UserId = String(64)
Word = String(32)

grid = Table(
    "grid",
    metadata,
    Column("name", Word, primary_key=True),
    Column("value", Text, nullable=False),
)
"""What this database is: `product` is always `gridx`."""

coordinators = Table(
    "coordinators",
    metadata,
    Column("coordinator_id", Id, primary_key=True),
    Column("seen_at", BigInteger, nullable=False),
)

# ------------------------------------------------------------------ people

users = Table(
    "users",
    metadata,
    Column("user_id", UserId, primary_key=True),
    Column("password_hash", Text, nullable=False),
    Column("role", Word, nullable=False),
    Column("suspended", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("last_event", BigInteger, nullable=False),
)
"""`last_event` numbers the user's events without gaps, in the order of their commits."""

tokens = Table(
    "tokens",
    metadata,
    Column("token_id", Id, primary_key=True),
    Column("kind", Word, nullable=False),
    Column("secret_hash", String(64), nullable=False, unique=True),
    Column("user_id", UserId, nullable=False, index=True),
    Column("worker_id", Id, index=True),
    Column("name", Text),
    Column("scopes", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
)
"""Log-in tokens, API keys and workers' tokens; a revoked one is gone."""

invites = Table(
    "invites",
    metadata,
    Column("secret_hash", String(64), primary_key=True),
    Column("created_by", UserId, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("amount", BigInteger),
    Column("used_by", UserId),
)

audit = Table(
    "audit",
    metadata,
    Column("number", Number, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", UserId, nullable=False),
    Column("action", Word, nullable=False),
    Column("subject", String(1024), nullable=False),
)

rate_limits = Table(
    "rate_limits",
    metadata,
    Column("key", String(160), primary_key=True),
    Column("arrival", BigInteger, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("user_id", UserId, primary_key=True),
    Column("path", String(160), primary_key=True),
    Column("key", String(200), primary_key=True),
    Column("body_hash", String(64), nullable=False),
    Column("result", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False, index=True),
)

# ------------------------------------------------------------------ money

balances = Table(
    "balances",
    metadata,
    Column("account", String(80), primary_key=True),
    Column("amount", BigInteger, nullable=False),
    CheckConstraint("amount >= 0", name="not_below_zero"),
    sqlite_with_rowid=False,
)
"""Users' accounts; the grid's own are summed from `transfers`."""

transfers = Table(
    "transfers",
    metadata,
    Column("number", Number, primary_key=True),
    Column("transfer_id", Id, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("kind", Word, nullable=False),
    Column("source", String(80), nullable=False),
    Column("target", String(80), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("source_after", BigInteger),
    Column("target_after", BigInteger),
    Column("job_id", Id),
    Column("memo", Text),
    CheckConstraint("amount > 0", name="moves_something"),
    Index("ix_transfers_source_number", "source", "number"),
    Index("ix_transfers_target_number", "target", "number"),
)
"""Every movement of credits, for ever: triggers refuse to change or delete a row."""

# ------------------------------------------------------------------ jobs

PUT_OFF = "due_at IS NOT NULL"
UNSTARTED = "deadline IS NOT NULL AND started_at IS NULL AND finished_at IS NULL"

jobs = Table(
    "jobs",
    metadata,
    Column("number", Number, primary_key=True, autoincrement=False),
    Column("job_id", Id, nullable=False, unique=True),
    Column("user_id", UserId, nullable=False),
    Column("status", Word, nullable=False),
    Column("reason", Word),
    Column("exit_code", Integer),
    Column("name", Text),
    Column("batch_id", Id),
    Column("retry_of", Id),
    Column("traceparent", String(64)),
    Column("spec", Text, nullable=False),
    Column("shape", String(32), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("retry_on_failure", Boolean, nullable=False),
    Column("waiting", Boolean, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("attempts_counted", Integer, nullable=False),
    Column("lease", Id),
    Column("worker_id", Id),
    Column("cancel_requested", Boolean, nullable=False),
    Column("price_per_second", BigInteger, nullable=False),
    Column("reward_ppm", Integer, nullable=False),
    Column("min_cost", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("limit_us", BigInteger, nullable=False),
    Column("billed_us", BigInteger),
    Column("cost", BigInteger),
    Column("reward", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("queued_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    Column("due_at", BigInteger),
    Column("deadline", BigInteger),
    Column("failures", Text),
    Index("ix_jobs_user_id_number", "user_id", "number"),
    Index("ix_jobs_batch_id", "batch_id", sqlite_where=text("batch_id IS NOT NULL"),
          postgresql_where=text("batch_id IS NOT NULL")),
    Index("ix_jobs_queue", "user_id", "shape", text("priority DESC"), "number",
          sqlite_where=text("waiting"), postgresql_where=text("waiting")),
    Index("ix_jobs_unfinished", "status", sqlite_where=text("finished_at IS NULL"),
          postgresql_where=text("finished_at IS NULL")),
    Index("ix_jobs_queued_at", "queued_at", sqlite_where=text("waiting"),
          postgresql_where=text("waiting")),
    Index("ix_jobs_due_at", "due_at", sqlite_where=text(PUT_OFF), postgresql_where=text(PUT_OFF)),
    Index("ix_jobs_put_off", "user_id", sqlite_where=text(PUT_OFF),
          postgresql_where=text(PUT_OFF)),
    Index("ix_jobs_deadline", "deadline", sqlite_where=text(UNSTARTED),
          postgresql_where=text(UNSTARTED)),
)  # fmt: skip
"""`waiting` is: queued, without a live attempt, and in no need to wait for its `due_at`; `lease` is
that of the live attempt. `shape` names the queue; `failures` are the workers that it shuns.
"""

job_texts = Table(
    "job_texts",
    metadata,
    Column("number", Number, primary_key=True, autoincrement=False),
    Column("texts", Text, nullable=False),
)
"""Code, command, arguments, environment and input: apart, so that a job's row stays small."""

job_tags = Table(
    "job_tags",
    metadata,
    Column("user_id", UserId, primary_key=True),
    Column("tag", String(64), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_number", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("lease", Id, nullable=False, unique=True),
    Column("worker_id", Id, nullable=False),
    Column("owner_id", UserId, nullable=False),
    Column("status", Word, nullable=False),
    Column("live", Boolean, nullable=False),
    Column("counted", Boolean, nullable=False),
    Column("reason", Word),
    Column("exit_code", Integer),
    Column("sandbox", Word),
    Column("assigned_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    Column("wall_us", BigInteger),
    Column("cpu_us", BigInteger),
    Column("peak_memory_mb", Float),
    Column("billed_us", BigInteger, nullable=False),
    Index("ix_attempts_worker_id", "worker_id", sqlite_where=text("live"),
          postgresql_where=text("live")),
    sqlite_with_rowid=False,
)  # fmt: skip

output = Table(
    "output",
    metadata,
    Column("job_number", BigInteger, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("frame", Integer, primary_key=True, autoincrement=False),
    Column("stream", Word, nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
)
"""What attempts wrote, in order of arrival; `start` is the first byte's place in its stream."""

events = Table(
    "events",
    metadata,
    Column("user_id", UserId, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("job_id", Id, nullable=False),
    Column("status", Word, nullable=False),
    Column("reason", Word),
    Column("attempt", Integer),
    Column("cancel_requested", Boolean, nullable=False),
    Index("ix_events_job_id_number", "job_id", "number"),
    sqlite_with_rowid=False,
)

# ------------------------------------------------------------------ workers

workers = Table(
    "workers",
    metadata,
    Column("worker_id", Id, primary_key=True),
    Column("owner_id", UserId, nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("capabilities", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger),
    Column("session_id", Id),
    Column("paused", Boolean, nullable=False),
    Column("draining", Boolean, nullable=False),
    Column("standing", Word, nullable=False),
    Column("admitted", Boolean, nullable=False),
    Column("set_aside_until", BigInteger),
    Column("set_aside_why", Text),
)
"""`session_id` names the connection that speaks for the worker, null while it has none; the grid has
set it aside until `set_aside_until`, null when it has not.
"""
