"""A database that goes silent or full: what its callers are told, and what is done of it later."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Collection

import pytest
from sqlalchemy import Connection, select, text
from structlog.testing import capture_logs

from gridx.domain.errors import Unavailable
from gridx.storage.database import AWAY, UNKNOWN, Database
from gridx.storage.pulse import _PATIENCE_S, Pulse
from gridx.storage.tables import balances
from tests.storage.healing import healed
from tests.support.postgres import PostgresServer
from tests.support.proxy import Proxy, proxy_to


def open_account(name: str) -> Callable[[Connection], None]:
    def operation(connection: Connection) -> None:
        connection.execute(balances.insert().values(account=name, amount=0))

    return operation


def accounts(connection: Connection) -> list[str]:
    return sorted(connection.execute(select(balances.c.account)).scalars())


@pytest.fixture
async def proxy(postgres: PostgresServer) -> AsyncGenerator[Proxy]:
    async with proxy_to(postgres.port) as proxy:
        yield proxy
        proxy.resume()


@pytest.fixture
async def distant(
    proxy: Proxy, postgres: PostgresServer, postgres_template: str
) -> AsyncGenerator[Database]:
    """A database with one writer and one reader, behind the proxy."""
    name = postgres.create(template=postgres_template)
    database = Database(
        postgres.url(name, port=proxy.port), readers=1, writers=1, group_size_max=10
    )
    await database.open()
    await database.write(open_account("before"))
    await database.read(accounts)
    yield database
    proxy.resume()
    await database.close()
    postgres.drop(name)


async def test_a_silent_server_is_away_for_all_who_wait(distant: Database, proxy: Proxy) -> None:
    proxy.freeze()
    callers = [distant.write(open_account(f"lost {n}")) for n in range(25)]
    callers += [distant.read(lambda connection: None) for _ in range(25)]
    async with asyncio.timeout(20):
        answers = await asyncio.gather(*callers, return_exceptions=True)
    assert {str(answer) for answer in answers} == {AWAY}
    assert {type(answer) for answer in answers} == {Unavailable}

    proxy.resume()

    assert await healed(distant, accounts) == ["before"], "what was refused is never done later"
    await distant.write(open_account("after"))
    assert await distant.read(accounts) == ["after", "before"]


async def test_while_it_is_away_nobody_waits(distant: Database, proxy: Proxy) -> None:
    proxy.freeze()
    with pytest.raises(Unavailable):
        await distant.read(accounts)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(200):
        with pytest.raises(Unavailable):
            await distant.write(open_account("lost"))
    assert loop.time() - began < 5, "each at once, not each after its own time"


async def test_a_commit_without_an_answer_may_be_done(distant: Database, proxy: Proxy) -> None:
    def operation(connection: Connection) -> None:
        open_account("perhaps")(connection)
        proxy.freeze(forth=False)  # the commit arrives, and its answer does not

    with pytest.raises(Unavailable) as refused:
        await distant.write(operation)
    assert refused.value.message == UNKNOWN

    proxy.resume()

    assert await healed(distant, accounts) == ["before", "perhaps"]


async def test_a_transaction_that_was_cut_before_its_commit_is_not_done(
    distant: Database, proxy: Proxy
) -> None:
    def operation(connection: Connection) -> None:
        open_account("never")(connection)
        proxy.freeze()
        accounts(connection)

    with pytest.raises(Unavailable) as refused:
        await distant.write(operation)
    assert refused.value.message == AWAY

    proxy.resume()

    assert await healed(distant, accounts) == ["before"]


async def test_a_slow_statement_of_a_server_that_answers_is_left_in_peace(
    distant: Database,
) -> None:
    slow = text("SELECT pg_sleep(3)")
    assert await distant.read(lambda connection: connection.execute(slow).rowcount) == 1


async def test_a_process_that_stood_still_takes_no_server_for_silent(
    distant: Database, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    ask = Pulse._ask

    def asking(pulse: Pulse, stuck: bool) -> Collection[int]:
        loop.call_soon_threadsafe(asked.set)
        return ask(pulse, stuck)

    monkeypatch.setattr(Pulse, "_ask", asking)
    with capture_logs() as logs:
        proxy.freeze()
        reading = asyncio.ensure_future(distant.read(accounts))
        await asked.wait()
        proxy.resume()
        threading.Event().wait(_PATIENCE_S + 1)  # nothing runs, the proxy neither
        assert await reading == ["before"]
    assert logs == []


async def test_one_connection_that_died_unseen_is_found(distant: Database, proxy: Proxy) -> None:
    """The server answers whoever connects anew, and says of the old connection that it waits."""
    proxy.strand()
    async with asyncio.timeout(30):
        await distant.write(open_account("on a new connection"))
        assert await healed(distant, accounts) == ["before", "on a new connection"]
