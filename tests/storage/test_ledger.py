"""Transfers, balances, statements, and what verification finds."""

from collections.abc import Callable, Generator
from itertools import pairwise

import pytest
from sqlalchemy import Connection, Engine, text, update
from sqlalchemy.exc import DBAPIError

from gridx.domain.ledger import FEES, MINT, Kind, Movement, Verification, available, held
from gridx.storage import ledger
from gridx.storage.dialect import is_sqlite
from gridx.storage.jobs import insert_jobs
from gridx.storage.tables import balances, jobs, transfers
from tests.storage.rows import add_jobs, add_user, move, new_job

HOLD = 637_500


@pytest.fixture
def books(connection: Connection) -> Connection:
    """Two users, one of whom has a job that waits."""
    return opened(connection)


@pytest.fixture
def own_books(engine: Engine) -> Generator[Connection]:
    """The same in a database of the test's own: verification wants a transaction of its own."""
    with engine.connect() as connection:
        yield opened(connection)


def opened(connection: Connection) -> Connection:
    add_user(connection, "alice", 10_000_000)
    add_user(connection, "bob", 5_000_000)
    move(connection, Kind.TRANSFER, available("alice"), available("bob"), 1_000_000, memo="thanks")
    add_jobs(connection, [new_job()])
    return connection


# ------------------------------------------------------------------ transfers are for ever


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE transfers SET amount = 1",
        "UPDATE transfers SET memo = NULL WHERE memo = 'thanks'",
        "DELETE FROM transfers",
        "DELETE FROM transfers WHERE kind = 'grant'",
    ],
)
def test_nothing_updates_or_deletes_a_transfer(books: Connection, statement: str) -> None:
    before = books.execute(transfers.select()).all()
    inside = books.begin_nested()
    with pytest.raises(DBAPIError, match="transfers are append-only"):
        books.execute(text(statement))
    inside.rollback()
    assert books.execute(transfers.select()).all() == before


def test_transfers_cannot_be_truncated(books: Connection) -> None:
    if is_sqlite(books):
        return  # it has no such statement: DELETE is tested above
    with pytest.raises(DBAPIError, match="transfers are append-only"):
        books.execute(text("TRUNCATE transfers"))


def test_a_balance_below_zero_is_refused_by_the_database(books: Connection) -> None:
    with pytest.raises(DBAPIError, match="not_below_zero"):
        books.execute(update(balances).values(amount=-1))


def test_a_transfer_of_nothing_is_refused_by_the_database(books: Connection) -> None:
    row = {"transfer_id": "x", "at": 1, "kind": "grant", "source": MINT, "target": "a", "amount": 0}
    with pytest.raises(DBAPIError, match="moves_something"):
        books.execute(transfers.insert().values(row))


# ------------------------------------------------------------------ balances and statements


def test_balances_are_what_was_moved(books: Connection) -> None:
    found = ledger.balances_of(books, ["alice", "bob", "nobody"])
    assert (found["alice"].available, found["alice"].held) == (9_000_000 - HOLD, HOLD)
    assert (found["bob"].available, found["bob"].held) == (6_000_000, 0)
    assert found["nobody"].balance == 0
    assert ledger.total_held(books) == HOLD


def test_the_statement_is_a_chain_of_what_was_available(books: Connection) -> None:
    lines = [line for _, line in ledger.statement(books, "alice", 100, None)]
    assert [(line.kind, line.amount, line.available_after) for line in lines] == [
        (Kind.HOLD, -HOLD, 9_000_000 - HOLD),
        (Kind.TRANSFER, -1_000_000, 9_000_000),
        (Kind.GRANT, 10_000_000, 10_000_000),
    ]
    assert [line.counterpart for line in lines] == [None, "bob", None]
    assert [line.memo for line in lines] == [None, "thanks", None]
    for newer, older in pairwise(lines):
        assert newer.available_after - newer.amount == older.available_after


def test_a_statement_goes_on_behind_its_cursor(books: Connection) -> None:
    whole = ledger.statement(books, "bob", 100, None)
    assert [line.amount for _, line in whole] == [1_000_000, 5_000_000]
    assert whole[0][1].counterpart == "alice"
    first = ledger.statement(books, "bob", 1, None)
    rest = ledger.statement(books, "bob", 100, first[-1][0])
    assert first + rest == whole


def test_a_guarded_balance_is_not_overwritten(books: Connection) -> None:
    book = ledger.open_book(books, ["alice"])
    books.execute(update(balances).values(amount=balances.c.amount + 1))
    book.move(Movement("id", 1, Kind.GRANT, MINT, available("alice"), 5))
    with pytest.raises(AssertionError, match="changed under its lock"):
        ledger.post(books, book)


# ------------------------------------------------------------------ verification


def verify(own_books: Connection) -> Verification:
    """What verification finds, in a transaction of its own."""
    own_books.commit()
    with own_books.engine.connect() as connection:
        return ledger.verify(connection)


def test_sound_books_are_found_sound(own_books: Connection) -> None:
    verified = verify(own_books)
    assert verified.differences == ()
    assert (verified.accounts, verified.transfers, verified.holds) == (6, 4, 1)


def plant_balance(connection: Connection) -> None:
    connection.execute(
        update(balances).where(balances.c.account == available("bob")).values(amount=7_000_000)
    )


def plant_unknown_account(connection: Connection) -> None:
    connection.execute(balances.insert().values(account="eve:available", amount=9))


def plant_missing_account(connection: Connection) -> None:
    connection.execute(balances.delete().where(balances.c.account == held("bob")))


def plant_transfer(connection: Connection) -> None:
    insert_transfer(connection, available("bob"), FEES, 7)


def plant_job_without_hold(connection: Connection) -> None:
    insert_jobs(connection, [new_job("bob")])


def plant_hold_without_job(connection: Connection) -> None:
    move(connection, Kind.HOLD, available("bob"), held("bob"), 11, job_id="gone")


def plant_larger_hold(connection: Connection) -> None:
    connection.execute(update(jobs).values(held=HOLD + 1))


def plant_final_job_whose_hold_stays(connection: Connection) -> None:
    connection.execute(update(jobs).values(status="failed", finished_at=1, cost=0, reward=0))


def plant_cost_that_was_not_paid(connection: Connection) -> None:
    job_id = connection.scalar(jobs.select().with_only_columns(jobs.c.job_id))
    move(connection, Kind.RELEASE, held("alice"), available("alice"), HOLD, job_id=job_id)
    connection.execute(
        update(jobs).values(status="succeeded", finished_at=1, cost=5_000, reward=100)
    )


def plant_second_release(connection: Connection) -> None:
    job_id = connection.scalar(jobs.select().with_only_columns(jobs.c.job_id))
    move(connection, Kind.RELEASE, held("alice"), available("alice"), 5, job_id=job_id)


def insert_transfer(connection: Connection, source: str, target: str, amount: int) -> None:
    connection.execute(
        transfers.insert().values(
            transfer_id="planted", at=1, kind="fee", source=source, target=target, amount=amount
        )
    )


@pytest.mark.parametrize(
    ("plant", "named"),
    [
        (plant_balance, "bob:available: the balance is 7.000000, its transfers make 6.000000"),
        (plant_unknown_account, "eve:available: the balance is 0.000009"),
        (plant_missing_account, "bob:held: the account is missing"),
        (plant_transfer, "bob:available: the balance is 6.000000, its transfers make 5.999993"),
        (plant_job_without_hold, "its hold is 0.637500, its transfers make 0.000000"),
        (plant_hold_without_job, "job gone: it is gone and its hold was never resolved"),
        (plant_larger_hold, "its hold is 0.637501, its transfers make 0.637500"),
        (plant_final_job_whose_hold_stays, "its release is 0.637500, its transfers make 0.000000"),
        (plant_cost_that_was_not_paid, "its fee is 0.004900, its transfers make 0.000000"),
        (plant_second_release, "its release is 0.000000, its transfers make 0.000005"),
    ],
)
def test_every_planted_difference_is_found(
    own_books: Connection, plant: Callable[[Connection], None], named: str
) -> None:
    plant(own_books)
    verified = verify(own_books)
    assert not verified.ok
    assert any(named in difference for difference in verified.differences), verified.differences
