"""Balances and transfers: opening a book, posting it, statements, verification.

`transfers` is append-only; a user's balance row always equals the sum of that account's transfers.
"""

from collections.abc import Collection

from sqlalchemy import (
    ColumnElement,
    Connection,
    bindparam,
    case,
    exists,
    func,
    insert,
    select,
    union_all,
    update,
)

from gridx.domain.ledger import (
    MINT,
    Balance,
    Book,
    Kind,
    StatementLine,
    Verification,
    available,
    held,
    is_grids,
    owner_of,
)
from gridx.domain.money import MICROCREDITS, format_credits
from gridx.storage.dialect import ManyRows, lock_issuing, snapshot, upsert
from gridx.storage.tables import balances, jobs, transfers, users

_LOCK = (
    select(balances.c.account, balances.c.amount)
    .where(balances.c.account.in_(bindparam("accounts", expanding=True)))
    .order_by(balances.c.account)
    .with_for_update()
)
_INSERT = ManyRows(lambda _: insert(transfers),
    [
        "transfer_id", "at", "kind", "source", "target", "amount", "source_after", "target_after",
        "job_id", "memo",
    ],
)  # fmt: skip
_UPDATE = ManyRows(
    lambda _: (
        update(balances)
        .where(
            balances.c.account == bindparam("b_account"), balances.c.amount == bindparam("b_before")
        )
        .values(amount=bindparam("b_after"))
    ),
    ["b_account", "b_before", "b_after"],
)


def open_book(connection: Connection, user_ids: Collection[str]) -> Book:
    """A book of both accounts of each user, locked until the transaction ends."""
    accounts = sorted(a for user_id in set(user_ids) for a in (available(user_id), held(user_id)))
    rows = connection.execute(_LOCK, {"accounts": accounts})
    return Book({account: amount for account, amount in rows})


def post(connection: Connection, book: Book) -> None:
    """Store what was moved in `book`."""
    if not book.postings:
        return
    _INSERT.execute(
        connection,
        [
            {
                "transfer_id": p.movement.transfer_id,
                "at": p.movement.at,
                "kind": p.movement.kind.value,
                "source": p.movement.source,
                "target": p.movement.target,
                "amount": p.movement.amount,
                "source_after": p.source_after,
                "target_after": p.target_after,
                "job_id": p.movement.job_id,
                "memo": p.movement.memo,
            }
            for p in book.postings
        ],
    )
    changes = list(book.changes)
    if created := [
        {"account": a, "amount": after} for a, before, after in changes if before is None
    ]:
        connection.execute(insert(balances), created)
    changed = [
        {"b_account": a, "b_before": before, "b_after": after}
        for a, before, after in changes
        if before is not None
    ]
    assert _UPDATE.execute(connection, changed) == len(changed), "a balance changed under its lock"


def create_accounts(connection: Connection, user_id: str) -> None:
    """Both accounts of a new user, empty."""
    connection.execute(
        upsert(connection, balances).on_conflict_do_nothing(),
        [{"account": available(user_id), "amount": 0}, {"account": held(user_id), "amount": 0}],
    )


def balances_of(connection: Connection, user_ids: Collection[str]) -> dict[str, Balance]:
    """What each of these users has."""
    accounts = [a for user_id in user_ids for a in (available(user_id), held(user_id))]
    rows = connection.execute(
        select(balances.c.account, balances.c.amount).where(balances.c.account.in_(accounts))
    )
    amounts = {account: amount for account, amount in rows}
    return {u: Balance(u, amounts.get(available(u), 0), amounts.get(held(u), 0)) for u in user_ids}


def statement(
    connection: Connection, user_id: str, limit: int, before: int | None
) -> list[tuple[int, StatementLine]]:
    """Movements of `user_id`'s available credits, newest first, with their numbers."""
    account = available(user_id)

    def half(column: str):
        query = select(transfers).where(transfers.c[column] == account)
        if before is not None:
            query = query.where(transfers.c.number < before)
        return query.order_by(transfers.c.number.desc()).limit(limit).subquery()

    both = union_all(select(half("source")), select(half("target"))).subquery()
    rows = connection.execute(select(both).order_by(both.c.number.desc()).limit(limit))
    lines: list[tuple[int, StatementLine]] = []
    for row in rows:
        out = row.source == account
        other = row.target if out else row.source
        kind = Kind(row.kind)
        lines.append(
            (
                row.number,
                StatementLine(
                    row.transfer_id,
                    row.at,
                    kind,
                    -row.amount if out else row.amount,
                    row.source_after if out else row.target_after,
                    row.job_id,
                    owner_of(other) if kind in (Kind.TRANSFER, Kind.REWARD) else None,
                    row.memo,
                ),
            )
        )
    return lines


def issued(connection: Connection) -> int:
    """All that was ever issued; nobody issues more until the transaction ends."""
    lock_issuing(connection)
    query = select(*_halves()).where(transfers.c.source == MINT)
    return _whole(*connection.execute(query).one())


def _halves() -> tuple[ColumnElement[int | None], ColumnElement[int | None]]:
    """The sum of transfers as whole credits and the rest.

    SQLite's sums are of 64 bits, and what passes through an account in all may be more.
    """
    amount = transfers.c.amount
    return func.sum(amount // MICROCREDITS), func.sum(amount % MICROCREDITS)


def _whole(whole: int | None, rest: int | None) -> int:
    return int(whole or 0) * MICROCREDITS + int(rest or 0)


def total_held(connection: Connection) -> int:
    """Credits held for unfinished jobs, of all users."""
    query = select(func.coalesce(func.sum(balances.c.amount), 0)).where(
        balances.c.account.like("%:held")
    )
    return int(connection.scalar(query) or 0)


def verify(connection: Connection) -> Verification:
    """Recompute every balance from the transfers and every hold from the jobs, in one snapshot."""
    snapshot(connection)
    differences: list[str] = []
    sums: dict[str, int] = {}
    for sign, column in ((-1, transfers.c.source), (1, transfers.c.target)):
        for account, *parts in connection.execute(select(column, *_halves()).group_by(column)):
            sums[account] = sums.get(account, 0) + sign * _whole(*parts)
    stored = {a: n for a, n in connection.execute(select(balances.c.account, balances.c.amount))}
    differences += [
        f"{account}: the balance is {format_credits(stored.get(account, 0))}, "
        f"its transfers make {format_credits(sums.get(account, 0))}"
        for account in sorted(stored.keys() | {a for a in sums if not is_grids(a)})
        if stored.get(account, 0) != sums.get(account, 0)
    ]
    for (user_id,) in connection.execute(select(users.c.user_id)):
        differences += [
            f"{account}: the account is missing"
            for account in (available(user_id), held(user_id))
            if account not in stored
        ]
    if (rest := sum(sums.values())) != 0:
        differences.append(f"all accounts together make {format_credits(rest)} instead of zero")
    holds, wrong = _verify_jobs(connection)
    differences += wrong
    differences += _verify_gone(connection)
    differences += _verify_held(connection, stored)
    count = connection.scalar(select(func.count()).select_from(transfers)) or 0
    return Verification(len(stored) + 2, count, holds, tuple(differences))


def _verify_jobs(connection: Connection) -> tuple[int, list[str]]:
    """Each job's transfers against the job: held, cost, reward, released."""
    kinds = {
        (job_id, kind): int(amount)
        for job_id, kind, amount in connection.execute(
            select(transfers.c.job_id, transfers.c.kind, func.sum(transfers.c.amount))
            .join(jobs, jobs.c.job_id == transfers.c.job_id)
            .group_by(transfers.c.job_id, transfers.c.kind)
        )
    }
    differences: list[str] = []
    holds = 0
    for row in connection.execute(
        select(jobs.c.job_id, jobs.c.held, jobs.c.cost, jobs.c.reward, jobs.c.finished_at)
    ):
        holds += 1
        final = row.finished_at is not None
        cost, reward = (row.cost or 0, row.reward or 0) if final else (0, 0)
        expected = {
            Kind.HOLD: row.held,
            Kind.REWARD: reward,
            Kind.FEE: cost - reward,
            Kind.RELEASE: row.held - cost if final else 0,
        }
        for kind, amount in expected.items():
            moved = kinds.get((row.job_id, kind.value), 0)
            if moved != amount:
                differences.append(
                    f"job {row.job_id}: its {kind.value} is {format_credits(amount)}, "
                    f"its transfers make {format_credits(moved)}"
                )
    return holds, differences


def _verify_gone(connection: Connection) -> list[str]:
    """A job that aged out leaves its transfers: what it put into `held` must have come out again.

    Of its receipt no more can be proven than that. There may be many times more of these than of
    jobs, so they are summed where they lie.
    """
    is_hold = transfers.c.kind == Kind.HOLD.value
    account = case((is_hold, transfers.c.target), else_=transfers.c.source)
    left = func.sum(case((is_hold, transfers.c.amount), else_=-transfers.c.amount))
    rows = connection.execute(
        select(transfers.c.job_id, account.label("account"), left.label("left"))
        .where(
            transfers.c.job_id.is_not(None),
            ~exists().where(jobs.c.job_id == transfers.c.job_id),
        )
        .group_by(transfers.c.job_id, account)
        .having(left != 0)
        .order_by(transfers.c.job_id)
    )
    return [
        f"job {row.job_id}: it is gone and its hold was never resolved: "
        f"{format_credits(int(row.left))} of it are left in {row.account}"
        for row in rows
    ]


def _verify_held(connection: Connection, stored: dict[str, int]) -> list[str]:
    """Each user's held account against the holds of that user's unfinished jobs."""
    open_holds = {
        user_id: int(amount)
        for user_id, amount in connection.execute(
            select(jobs.c.user_id, func.sum(jobs.c.held))
            .where(jobs.c.finished_at.is_(None))
            .group_by(jobs.c.user_id)
        )
    }
    differences: list[str] = []
    for account, amount in sorted(stored.items()):
        user_id = owner_of(account)
        if account == held(user_id) and amount != open_holds.get(user_id, 0):
            differences.append(
                f"{account}: the balance is {format_credits(amount)}, the holds of unfinished "
                f"jobs make {format_credits(open_holds.get(user_id, 0))}"
            )
    return differences
