"""Answers kept by idempotency key, rates, and which coordinators live."""

import threading

import pytest
from sqlalchemy import Connection, Engine, select

from gridx.storage import requests
from gridx.storage.tables import idempotency, rate_limits
from tests.storage.rows import AT

SECOND = 1_000_000


def reserve(connection: Connection, key: str = "k", body: str = "b") -> tuple[str, str] | None:
    return requests.reserve_answer(connection, "alice", "/jobs", key, body_hash=body, now=AT)


def test_a_key_keeps_its_answer(connection: Connection) -> None:
    assert reserve(connection) is None
    requests.keep_answer(connection, "alice", "/jobs", "k", '{"id": 1}')
    assert reserve(connection) == ("b", '{"id": 1}')
    assert reserve(connection, body="other") == ("b", '{"id": 1}')


def test_a_key_is_of_a_user_and_a_path(connection: Connection) -> None:
    reserve(connection)
    for user_id, path in (("bob", "/jobs"), ("alice", "/credits/transfer")):
        kept = requests.reserve_answer(connection, user_id, path, "k", body_hash="b", now=AT)
        assert kept is None


def test_a_key_that_is_given_back_is_fresh(connection: Connection) -> None:
    reserve(connection)
    requests.release_answer(connection, "alice", "/jobs", "k")
    assert reserve(connection) is None


def test_answers_are_forgotten_in_bounded_steps(connection: Connection) -> None:
    for number in range(5):
        requests.reserve_answer(
            connection, "alice", "/jobs", str(number), body_hash="b", now=AT + number
        )
    assert requests.forget_answers(connection, AT + 4, 3) == 3
    assert requests.forget_answers(connection, AT + 4, 3) == 1
    assert list(connection.execute(select(idempotency.c.key)).scalars()) == ["4"]


@pytest.mark.parametrize("first_keeps", [True, False])
def test_a_second_request_waits_for_the_first(engine: Engine, first_keeps: bool) -> None:
    answers: list[object] = []
    holding, waiting = threading.Event(), threading.Event()

    def first() -> None:
        with engine.begin() as connection:
            assert reserve(connection) is None
            holding.set()
            assert waiting.wait(10)
            if first_keeps:
                requests.keep_answer(connection, "alice", "/jobs", "k", "made")
            else:
                requests.release_answer(connection, "alice", "/jobs", "k")

    def second() -> None:
        assert holding.wait(10)
        waiting.set()
        with engine.begin() as connection:
            answers.append(reserve(connection))

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [("b", "made") if first_keeps else None]


def test_of_many_requests_at_once_one_is_the_first(engine: Engine) -> None:
    fresh: list[bool] = []
    start = threading.Barrier(6)

    def ask() -> None:
        start.wait(10)
        with engine.begin() as connection:
            kept = reserve(connection)
            if kept is None:
                requests.keep_answer(connection, "alice", "/jobs", "k", "made")
            else:
                assert kept == ("b", "made")
            fresh.append(kept is None)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fresh) == [False] * 5 + [True]


# ------------------------------------------------------------------ rates


def test_a_rate_allows_a_burst_and_then_its_pace(connection: Connection) -> None:
    def ask(at_s: float) -> bool:
        now = AT + round(at_s * SECOND)
        return requests.allow(connection, "login:alice", now, 3 * SECOND, 60 * SECOND)

    assert [ask(0) for _ in range(21)] == [True] * 20 + [False]
    assert not ask(2.9)
    assert ask(3)
    assert not ask(3)
    assert [ask(600) for _ in range(21)] == [True] * 20 + [False]


def test_rates_are_told_apart_by_key(connection: Connection) -> None:
    for key in ("a", "b", "'; DROP TABLE rate_limits; --"):
        assert requests.allow(connection, key, AT, 60 * SECOND, 60 * SECOND)
        assert not requests.allow(connection, key, AT, 60 * SECOND, 60 * SECOND)


def test_a_refused_try_costs_nothing(connection: Connection) -> None:
    for _ in range(50):
        requests.allow(connection, "a", AT, 60 * SECOND, 60 * SECOND)
    assert requests.allow(connection, "a", AT + 60 * SECOND, 60 * SECOND, 60 * SECOND)


def test_rates_nobody_is_near_are_forgotten(connection: Connection) -> None:
    requests.allow(connection, "old", AT, SECOND, 60 * SECOND)
    requests.allow(connection, "new", AT + 60 * SECOND, SECOND, 60 * SECOND)
    requests.forget_rates(connection, AT + 30 * SECOND)
    assert list(connection.execute(select(rate_limits.c.key)).scalars()) == ["new"]


def test_a_rate_is_one_for_all_programs(engine: Engine) -> None:
    allowed: list[bool] = []
    start = threading.Barrier(4)

    def ask() -> None:
        start.wait(10)
        for _ in range(10):
            with engine.begin() as connection:
                allowed.append(requests.allow(connection, "k", AT, 3 * SECOND, 60 * SECOND))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(allowed) == 20


# ------------------------------------------------------------------ coordinators


def test_coordinators_are_counted_while_they_are_heard_of(connection: Connection) -> None:
    requests.mark_coordinator(connection, "one", AT)
    requests.mark_coordinator(connection, "two", AT + 5)
    requests.mark_coordinator(connection, "one", AT + 10)
    assert requests.count_coordinators(connection, AT + 6) == 1
    assert requests.count_coordinators(connection, AT) == 2
    requests.forget_coordinator(connection, "one")
    assert requests.count_coordinators(connection, AT) == 1
