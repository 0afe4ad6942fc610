"""A grid as the first schema kept it: rows in every table, written by SQL, as no code of today would.

Alice has a job that succeeded on Olive's machine, one that runs there and one that waits; Bob's has
failed. The ledger adds up, and every worker and coordinator is long gone.
"""

from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, MetaData, Table, text

from gridx.coordinator.users import secret_hash
from gridx.storage import schema

SECRET = "a secret of the first days"
AT = 1_700_000_000_000_000
WORKER = "00000000-0000-4000-8000-0000000000aa"
DONE, RUNNING, WAITING, FAILED = (f"00000000-0000-4000-8000-00000000000{n}" for n in range(1, 5))
LEASE = "00000000-0000-4000-8000-0000000000ff"
HOLD, COST, REWARD, GRANT = 637_500, 21_250, 18_062, 100_000_000
CAPABILITIES = (
    '{"resources":{"cpus":2.0,"memory_mb":2048,"gpus":0,"disk_mb":4096},'
    '"languages":["python"],"sandboxes":["bubblewrap"],"gpus":[],"labels":{},'
    '"os":"linux","arch":"x86_64"}'
)


def fill(engine: Engine) -> None:
    """Make the first schema in an empty database, and a grid's rows in it."""
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    with engine.connect() as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        known = MetaData()
        known.reflect(connection)
        for name, rows in ROWS.items():
            for row in rows:
                _insert(connection, known.tables[name], row)
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT setval('job_number', 4)"))
        empty = [
            name
            for name, table in known.tables.items()
            if connection.execute(table.select().limit(1)).first() is None
        ]
        assert empty == [], "every table of the first schema has rows"


def _insert(connection: Connection, table: Table, row: dict[str, Any]) -> None:
    missing = {
        column.name: False
        for column in table.columns
        if not column.nullable and column.name not in row and str(column.type) == "BOOLEAN"
    }
    connection.execute(table.insert().values({**missing, **row}))


def _user(user_id: str, role: str = "user") -> dict[str, Any]:
    return {
        "user_id": user_id, "password_hash": "unused", "role": role, "created_at": AT,
        "last_event": 9,
    }  # fmt: skip


def _job(number: int, job_id: str, user_id: str, status: str, **more: Any) -> dict[str, Any]:
    return {
        "number": number, "job_id": job_id, "user_id": user_id, "status": status,
        "spec": '{"language":"python","resources":{"cpus":1.0,"memory_mb":256,"gpus":0,'
                '"disk_mb":256},"limits":{"timeout_s":60.0,"output_bytes":1048576,'
                '"processes":64},"tags":["old"]}',
        "shape": "433d101b833ef25dfb924f392b6e0558", "priority": 0, "max_attempts": 3, "retry_on_failure": False,
        "waiting": False, "attempt": 1, "attempts_counted": 1, "cancel_requested": False,
        "price_per_second": 10_625, "reward_ppm": 850_000, "min_cost": 5_000, "held": HOLD,
        "limit_us": 60_000_000, "created_at": AT, "queued_at": AT, **more,
    }  # fmt: skip


def _attempt(job_number: int, lease: str, status: str, **more: Any) -> dict[str, Any]:
    return {
        "job_number": job_number, "number": 1, "lease": lease, "worker_id": WORKER,
        "owner_id": "olive", "status": status, "live": status == "running", "counted": True,
        "sandbox": "bubblewrap", "assigned_at": AT, "started_at": AT, "billed_us": 0, **more,
    }  # fmt: skip


def _event(number: int, user_id: str, job_id: str, status: str) -> dict[str, Any]:
    return {"user_id": user_id, "number": number, "at": AT, "job_id": job_id, "status": status}


def _moved(kind: str, source: str, target: str, amount: int, job_id: str | None) -> dict[str, Any]:
    return {
        "transfer_id": WORKER, "at": AT, "kind": kind, "source": source, "target": target,
        "amount": amount, "job_id": job_id,
    }  # fmt: skip


def _held(job_id: str, user_id: str) -> dict[str, Any]:
    return _moved("hold", f"{user_id}:available", f"{user_id}:held", HOLD, job_id)


FINAL = {"started_at": AT, "finished_at": AT + 2_000_000, "billed_us": 2_000_000}
ROWS: dict[str, list[dict[str, Any]]] = {
    "coordinators": [{"coordinator_id": WORKER, "seen_at": AT}],
    "users": [_user("admin", "admin"), _user("alice"), _user("bob"), _user("olive")],
    "tokens": [{
        "token_id": WORKER, "kind": "login", "secret_hash": secret_hash(SECRET),
        "user_id": "alice", "scopes": "credits:read credits:transfer jobs workers", "created_at": AT,
    }],
    "invites": [{"secret_hash": "0" * 64, "created_by": "admin", "created_at": AT}],
    "audit": [{"at": AT, "actor": "admin", "action": "admit", "subject": WORKER}],
    "rate_limits": [{"key": "login-user:alice", "arrival": AT}],
    "idempotency": [{
        "user_id": "alice", "path": "/jobs", "key": "k", "body_hash": "0" * 64,
        "result": "{}", "created_at": AT,
    }],
    "balances": [
        {"account": "admin:available", "amount": 0}, {"account": "admin:held", "amount": 0},
        {"account": "alice:available", "amount": GRANT - COST - 2 * HOLD},
        {"account": "alice:held", "amount": 2 * HOLD},
        {"account": "bob:available", "amount": GRANT}, {"account": "bob:held", "amount": 0},
        {"account": "olive:available", "amount": REWARD}, {"account": "olive:held", "amount": 0},
    ],
    "transfers": [
        _moved("grant", "grid:mint", "alice:available", GRANT, None),
        _moved("grant", "grid:mint", "bob:available", GRANT, None),
        _held(DONE, "alice"), _held(RUNNING, "alice"), _held(WAITING, "alice"),
        _held(FAILED, "bob"),
        _moved("reward", "alice:held", "olive:available", REWARD, DONE),
        _moved("fee", "alice:held", "grid:fees", COST - REWARD, DONE),
        _moved("release", "alice:held", "alice:available", HOLD - COST, DONE),
        _moved("release", "bob:held", "bob:available", HOLD, FAILED),
    ],
    "jobs": [
        _job(1, DONE, "alice", "succeeded", exit_code=0, cost=COST, reward=REWARD,
             worker_id=WORKER, name="old", **FINAL),
        _job(2, RUNNING, "alice", "running", lease=LEASE, worker_id=WORKER, started_at=AT),
        _job(3, WAITING, "alice", "queued", waiting=True, attempt=0, attempts_counted=0),
        _job(4, FAILED, "bob", "failed", reason="lost", cost=0, reward=0, **FINAL),
    ],
    "job_texts": [{"number": n, "texts": '{"code":"print(1)"}'} for n in range(1, 5)],
    "job_tags": [{"user_id": "alice", "tag": "old", "number": n} for n in (1, 2, 3)],
    "attempts": [
        _attempt(1, DONE, "succeeded", exit_code=0, finished_at=AT + 2_000_000, wall_us=2_000_000,
                 cpu_us=1_000_000, peak_memory_mb=12.5) | {"billed_us": 2_000_000},
        _attempt(2, LEASE, "running"),
        _attempt(4, FAILED, "lost", reason="lost", finished_at=AT + 2_000_000),
    ],
    "output": [{
        "job_number": 1, "attempt": 1, "frame": 0, "stream": "stdout", "start": 0,
        "data": b"of the first days\n",
    }],
    "events": [
        _event(8, "alice", DONE, "succeeded"), _event(9, "alice", WAITING, "queued"),
        _event(9, "bob", FAILED, "failed"),
    ],
    "workers": [{
        "worker_id": WORKER, "owner_id": "olive", "name": "attic", "version": "1.0",
        "capabilities": CAPABILITIES, "created_at": AT, "seen_at": AT, "session_id": WORKER,
        "standing": "good", "admitted": True,
    }],
}  # fmt: skip
