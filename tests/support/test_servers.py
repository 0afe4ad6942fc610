"""The test servers run, give every test a database of its own, and end without a trace."""

import asyncio
import sqlite3
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, text

from tests.support.nats import NatsServer, nats_server
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.processes import is_alive
from tests.support.proxy import proxy_to


@pytest.mark.parametrize("turn", ["first", "second"])
def test_databases_are_not_shared(empty_database_url: str, turn: str) -> None:
    create = "CREATE TABLE only_mine (turn TEXT)"
    if empty_database_url.startswith("sqlite:///"):
        with sqlite3.connect(empty_database_url.removeprefix("sqlite:///")) as lite:
            lite.execute(create)
        lite.close()
    else:
        with psycopg.connect(empty_database_url) as connection:
            connection.execute(create)


@pytest.mark.parametrize("turn", ["first", "second"])
def test_a_database_has_the_schema_and_nothing_else(database_url: str, turn: str) -> None:
    engine = create_engine(database_url)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM jobs")).scalar() == 0
        connection.execute(text("DROP TABLE jobs"))
    engine.dispose()


def test_a_copy_holds_what_its_template_holds(postgres: PostgresServer) -> None:
    template = postgres.create()
    with psycopg.connect(postgres.url(template)) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    copy = postgres.create(template)
    with psycopg.connect(postgres.url(copy)) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    postgres.drop(template)
    postgres.drop(copy)


def test_dropping_ends_connections_that_were_left_open(postgres: PostgresServer) -> None:
    name = postgres.create()
    with psycopg.connect(postgres.url(name)) as forgotten:
        postgres.drop(name)
        with pytest.raises(psycopg.OperationalError):
            forgotten.execute("SELECT 1")


async def test_postgres_is_reached_through_a_proxy(postgres: PostgresServer) -> None:
    async with proxy_to(postgres.port) as proxy:
        url = postgres.url("postgres", port=proxy.port)
        connection = await psycopg.AsyncConnection.connect(url)
        async with connection:
            answer = await connection.execute("SELECT 1")
            assert await answer.fetchone() == (1,)
            await proxy.cut()
            with pytest.raises(psycopg.OperationalError):
                await connection.execute("SELECT 1")


def test_postgres_ends_without_a_trace() -> None:
    with postgres_server() as server:
        with psycopg.connect(server.url("postgres")) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
            assert row is not None
            folder = Path(row[0]).parent
            assert folder.is_dir()
        family = server.process.family()
        assert len(family) > 1
    assert server.process.exit_code == 0
    assert not any(is_alive(pid) for pid in family)
    assert not folder.exists()


async def test_nats_carries_messages(nats: NatsServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", nats.port)
    writer.write(b"CONNECT {}\r\nSUB jobs.wake 1\r\nPUB jobs.wake 4\r\nhint\r\n")
    async with asyncio.timeout(20):
        heard = await reader.readuntil(b"hint\r\n")
    assert b"MSG jobs.wake 1 4\r\nhint" in heard
    writer.close()
    await writer.wait_closed()


def test_nats_starts_again_on_its_port() -> None:
    with nats_server() as first:
        first.process.kill()
        with nats_server(first.port) as second:
            assert second.url == first.url
