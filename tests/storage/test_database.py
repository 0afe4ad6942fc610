"""Group commit: what shares a transaction, what spoils it, and a database that goes away."""

import asyncio
import shutil
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

import pytest
from sqlalchemy import Connection, select, text, update
from sqlalchemy.exc import DBAPIError

from gridx.domain.errors import Conflict, GridError, InsufficientCredits, Unavailable
from gridx.storage.database import Database
from gridx.storage.tables import balances
from tests.storage.healing import healed
from tests.support.postgres import PostgresServer
from tests.support.proxy import proxy_to

ACCOUNT = "alice:available"


def open_account(connection: Connection) -> None:
    connection.execute(balances.insert().values(account=ACCOUNT, amount=0))


def amount(connection: Connection) -> int:
    query = select(balances.c.amount).where(balances.c.account == ACCOUNT).with_for_update()
    return connection.execute(query).scalar_one()


def add(count: int) -> Callable[[Connection], int]:
    """Read, think, write: what loses updates unless somebody takes care."""

    def operation(connection: Connection) -> int:
        found = amount(connection)
        connection.execute(update(balances).values(amount=found + count))
        return found + count

    return operation


class Gate:
    """Holds a writer thread up, so that what comes meanwhile becomes one group."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._entered = threading.Event()
        self._open = threading.Event()

    async def __aenter__(self) -> None:
        def operation(_: Connection) -> None:
            self._entered.set()
            assert self._open.wait(10)

        self._held = asyncio.gather(self._database.write(operation))
        await asyncio.to_thread(self._entered.wait, 10)

    async def __aexit__(self, *_: object) -> None:
        self._open.set()
        await self._held


@pytest.fixture
async def commits() -> list[int]:
    return []


@pytest.fixture
async def single(database_url: str, commits: list[int]) -> AsyncGenerator[Database]:
    """A database with one writer, and how many operations each of its commits had."""
    database = Database(
        database_url, readers=1, writers=1, group_size_max=100, on_commit=commits.append
    )
    await database.open()
    await database.write(open_account)
    commits.clear()
    yield database
    await database.close()


async def grouped(database: Database, *operations: Callable[[Connection], object]) -> list[object]:
    """What came of operations that were handed over together."""
    async with Gate(database):
        answers = [asyncio.ensure_future(database.write(operation)) for operation in operations]
        await asyncio.sleep(0)
    return await asyncio.gather(*answers, return_exceptions=True)


def refuse(connection: Connection) -> None:
    amount(connection)
    raise InsufficientCredits("no")


def fail(connection: Connection) -> None:
    add(1_000)(connection)
    raise ZeroDivisionError("a bug")


def break_a_rule(connection: Connection) -> None:
    connection.execute(update(balances).values(amount=-1))


async def test_operations_that_wait_share_a_commit(single: Database, commits: list[int]) -> None:
    assert await grouped(single, *[add(1)] * 20) == list(range(1, 21))
    assert commits == [1, 20]


async def test_a_group_is_bounded(single: Database, commits: list[int]) -> None:
    await grouped(single, *[add(1)] * 250)
    assert commits == [1, 100, 100, 50]


async def test_a_refusal_does_not_spoil_its_group(single: Database, commits: list[int]) -> None:
    first, refused, second = await grouped(single, add(1), refuse, add(1))
    assert (first, second) == (1, 2)
    assert isinstance(refused, InsufficientCredits)
    assert commits == [1, 3]


@pytest.mark.parametrize(
    ("culprit", "error"), [(fail, ZeroDivisionError), (break_a_rule, DBAPIError)]
)
async def test_only_the_culprit_of_a_group_fails(
    single: Database,
    commits: list[int],
    culprit: Callable[[Connection], None],
    error: type[Exception],
) -> None:
    answers = await grouped(single, add(1), add(1), culprit, add(1))
    assert isinstance(answers[2], error)
    assert [answers[i] for i in (0, 1, 3)] == [1, 2, 3]
    assert await single.read(amount_seen) == 3
    assert commits == [1, 1, 1, 1]


def amount_seen(connection: Connection) -> int:
    return connection.execute(select(balances.c.amount)).scalar_one()


async def test_an_answer_comes_after_the_commit(single: Database) -> None:
    for expected in range(1, 20):
        await single.write(add(1))
        assert await single.read(amount_seen) == expected


async def test_items_of_one_operation_become_one_call(single: Database) -> None:
    calls: list[list[int]] = []

    def each(connection: Connection, items: Sequence[int]) -> Sequence[int | GridError]:
        calls.append(list(items))
        return [Conflict("odd") if item % 2 else item * 10 for item in items]

    async with Gate(single):
        waiting = [asyncio.ensure_future(single.write_each(each, item)) for item in range(4)]
        await asyncio.sleep(0)
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert calls == [[0, 1, 2, 3]]
    assert answers[::2] == [0, 20]
    assert all(isinstance(answer, Conflict) for answer in answers[1::2])


async def test_an_item_that_raises_is_tried_alone_and_only_it_fails(single: Database) -> None:
    def each(connection: Connection, items: Sequence[int]) -> Sequence[int | GridError]:
        for item in items:
            add(item)(connection)
        return [1 // item for item in items]

    async with Gate(single):
        waiting = [asyncio.ensure_future(single.write_each(each, item)) for item in (1, 0, 1)]
        await asyncio.sleep(0)
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert (answers[0], answers[2]) == (1, 1)
    assert isinstance(answers[1], ZeroDivisionError)
    assert await single.read(amount_seen) == 2


async def test_a_caller_that_gave_up_harms_nobody(single: Database) -> None:
    async with Gate(single):
        gone = asyncio.ensure_future(single.write(add(1)))
        stays = asyncio.ensure_future(single.write(add(1)))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
    assert await stays == 2


async def test_two_programs_lose_no_update(database_url: str) -> None:
    """On SQLite this is the law of BEGIN IMMEDIATE: a deferred transaction fails or loses some."""
    databases = [Database(database_url, readers=1, writers=2, group_size_max=1) for _ in range(2)]
    for database in databases:
        await database.open()
    await databases[0].write(open_account)
    for database in databases:  # a connection that has read writes as any other
        assert await database.read(amount_seen) == 0
    await asyncio.gather(*(database.write(add(1)) for _ in range(100) for database in databases))
    assert await databases[0].read(amount_seen) == 200
    for database in databases:
        await database.close()


async def test_a_write_transaction_reads_what_nobody_changes_any_more(database_url: str) -> None:
    """The same law by hand: who has read in order to write is not overtaken."""
    first = Database(database_url, readers=1, writers=1, group_size_max=1)
    second = Database(database_url, readers=1, writers=1, group_size_max=1)
    for database in (first, second):
        await database.open()
    await first.write(open_account)
    read, goes_on = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        found = amount(connection)
        read.set()
        assert goes_on.wait(10)
        connection.execute(update(balances).values(amount=found + 1))

    slowly = asyncio.ensure_future(first.write(slow))
    await asyncio.to_thread(read.wait, 10)
    overtaking = asyncio.ensure_future(second.write(add(10)))
    await asyncio.sleep(0)
    goes_on.set()
    await slowly
    assert await overtaking == 11
    for database in (first, second):
        await database.close()


async def test_a_reader_does_not_wait_for_a_writer(database: Database) -> None:
    async with Gate(database):
        assert await database.read(lambda c: c.execute(text("SELECT 1")).scalar()) == 1


async def test_what_was_handed_over_is_finished_before_the_database_closes(
    database_url: str,
) -> None:
    database = Database(database_url, readers=1, writers=2, group_size_max=10)
    await database.open()
    await database.write(open_account)
    waiting = [asyncio.ensure_future(database.write(add(1))) for _ in range(50)]
    await asyncio.sleep(0)
    await database.close()
    assert sorted(await asyncio.gather(*waiting)) == list(range(1, 51))
    await database.close()


async def test_what_comes_while_the_database_closes_is_refused(database_url: str) -> None:
    database = Database(database_url, readers=1, writers=1, group_size_max=10)
    await database.open()
    await database.write(open_account)
    closing = asyncio.ensure_future(database.close())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await database.write(add(1))
    await closing
    with pytest.raises(Unavailable):
        await database.write(add(1))
    with pytest.raises(Unavailable):
        await database.read(amount_seen)


# ------------------------------------------------------------------ a database that goes away


async def test_a_server_that_is_cut_off_is_unavailable_and_heals(
    postgres: PostgresServer, postgres_template: str
) -> None:
    name = postgres.create(template=postgres_template)
    async with proxy_to(postgres.port) as proxy:
        url = postgres.url(name, port=proxy.port)
        database = Database(url, readers=1, writers=1, group_size_max=10)
        await database.open()
        await database.write(open_account)
        await database.read(amount_seen)
        for _ in range(2):
            await proxy.cut()
            with pytest.raises(Unavailable):
                await database.write(add(1))
            with pytest.raises(Unavailable):
                await database.read(amount_seen)
            proxy.resume()
            before = await healed(database, amount_seen)
            assert await database.write(add(1)) == before + 1
        await database.close()
    postgres.drop(name)


async def test_connections_that_broke_unseen_are_replaced_in_time(
    postgres: PostgresServer, postgres_template: str
) -> None:
    name = postgres.create(template=postgres_template)
    async with proxy_to(postgres.port) as proxy:
        url = postgres.url(name, port=proxy.port)
        database = Database(url, readers=1, writers=1, group_size_max=10)
        await database.open()
        await database.write(open_account)
        await database.read(amount_seen)
        await proxy.drop()  # a restart of the server: pooled connections are dead
        assert await database.write(add(1)) == 1
        assert await database.read(amount_seen) == 1
        await database.close()
    postgres.drop(name)


async def test_a_file_that_is_away_is_unavailable_and_heals(
    sqlite_template: Path, tmp_path: Path
) -> None:
    file = tmp_path / "disk" / "grid.db"
    database = Database(f"sqlite:///{file}", readers=1, writers=1, group_size_max=10)
    await database.open()
    await asyncio.to_thread(file.parent.rmdir)  # the disk is not mounted
    with pytest.raises(Unavailable):
        await database.write(open_account)
    with pytest.raises(Unavailable):
        await database.read(amount_seen)
    await asyncio.to_thread(file.parent.mkdir)
    await asyncio.to_thread(shutil.copyfile, sqlite_template, file)
    await database.write(open_account)
    assert await database.write(add(1)) == 1
    await database.close()


async def test_a_full_disk_is_unavailable_and_heals(sqlite_template: Path, tmp_path: Path) -> None:
    file = tmp_path / "grid.db"
    await asyncio.to_thread(shutil.copyfile, sqlite_template, file)
    database = Database(f"sqlite:///{file}", readers=1, writers=1, group_size_max=10)
    await database.open()
    await database.write(open_account)

    def limit(connection: Connection, pages: int) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    def fill(connection: Connection) -> None:
        rows = [{"account": f"{n:070}", "amount": n} for n in range(10_000)]
        connection.execute(balances.insert(), rows)

    await database.write(lambda connection: limit(connection, 1))  # no more than there are
    with pytest.raises(Unavailable):
        await database.write(fill)
    assert await database.write(add(1)) == 1
    await database.write(lambda connection: limit(connection, 1_000_000))
    await database.write(fill)
    await database.close()


async def test_who_is_overtaken_looks_again(database_url: str) -> None:
    """Two programs that both found nothing and both store it: the second sees the first's."""
    databases = [Database(database_url, readers=1, writers=1, group_size_max=1) for _ in range(2)]
    for database in databases:
        await database.open()
    both_looked = threading.Barrier(2)

    def store_once() -> Callable[[Connection], bool]:
        met = False

        def operation(connection: Connection) -> bool:
            nonlocal met
            found = connection.execute(select(balances.c.account)).first()
            if not met and connection.dialect.name == "postgresql":
                met = True
                both_looked.wait(10)
            if found is None:
                open_account(connection)
            return found is None

        return operation

    stored = await asyncio.gather(*(database.write(store_once()) for database in databases))
    assert sorted(stored) == [False, True]
    for database in databases:
        await database.close()


async def test_a_deadlock_is_tried_again(database_url: str) -> None:
    """Two programs that lock the same rows the other way round both get done."""
    databases = [Database(database_url, readers=1, writers=1, group_size_max=1) for _ in range(2)]
    for database in databases:
        await database.open()

    def two_accounts(connection: Connection) -> None:
        rows = [{"account": name, "amount": 0} for name in ("a", "b")]
        connection.execute(balances.insert(), rows)

    await databases[0].write(two_accounts)
    both = threading.Barrier(2)

    def lock(first: str, second: str) -> Callable[[Connection], None]:
        met = False

        def operation(connection: Connection) -> None:
            nonlocal met
            change(connection, first)
            if not met and connection.dialect.name == "postgresql":
                met = True
                both.wait(10)
            change(connection, second)

        return operation

    def change(connection: Connection, account: str) -> None:
        connection.execute(
            update(balances)
            .where(balances.c.account == account)
            .values(amount=balances.c.amount + 1)
        )

    await asyncio.gather(databases[0].write(lock("a", "b")), databases[1].write(lock("b", "a")))
    found = await databases[0].read(lambda c: list(c.execute(select(balances.c.amount)).scalars()))
    assert found == [2, 2]
    for database in databases:
        await database.close()
