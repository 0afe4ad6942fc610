"""Workers and which connection speaks for them."""

from dataclasses import replace

import pytest
from sqlalchemy import Connection

from gridx.domain.resources import Resources
from gridx.domain.worker import Capabilities, Standing, Worker
from gridx.storage import workers
from tests.storage.rows import AT

OFFER = Capabilities(
    Resources(2.5, 4_096, 1, 9), ("python",), ("bubblewrap",), ("T4",), {"site": "é"}, "linux", "x"
)


def worker(worker_id: str, owner_id: str = "bob") -> Worker:
    return Worker(
        worker_id=worker_id,
        owner_id=owner_id,
        name="a name",
        capabilities=OFFER,
        version="1",
        created_at=AT,
        seen_at=None,
        online=False,
        paused=False,
        draining=False,
        standing=Standing.GOOD,
        admitted=True,
    )


@pytest.fixture
def store(connection: Connection) -> Connection:
    for worker_id, owner in (("w1", "bob"), ("w2", "bob"), ("w3", "carol")):
        workers.insert_worker(connection, worker(worker_id, owner))
    return connection


def test_a_worker_comes_back_as_it_was(store: Connection) -> None:
    assert workers.find_worker(store, "w1") == worker("w1")
    assert workers.lock_worker(store, "w1") == worker("w1")
    assert workers.find_worker(store, "w9") is None


def test_a_change_is_kept(store: Connection) -> None:
    offer = replace(OFFER, languages=("bash",))
    values = {"capabilities": offer, "paused": True, "standing": "banned", "session_id": "s1"}
    workers.update_worker(store, "w1", values)
    wanted = replace(
        worker("w1"), capabilities=offer, paused=True, standing=Standing.BANNED, online=True
    )
    assert workers.find_worker(store, "w1") == wanted
    assert workers.find_worker(store, "w2") == worker("w2")
    assert workers.session_of(store, "w1") == "s1"


def test_only_the_connection_that_speaks_for_a_worker_ends_it(store: Connection) -> None:
    workers.update_worker(store, "w1", {"session_id": "new"})
    assert not workers.end_session(store, "w1", "old", AT)
    assert workers.count_workers(store) == (3, 1)
    assert workers.end_session(store, "w1", "new", AT)
    assert workers.count_workers(store) == (3, 0)


def test_leases_are_renewed_by_session(store: Connection) -> None:
    for worker_id in ("w1", "w2"):
        workers.update_worker(store, worker_id, {"session_id": worker_id, "seen_at": AT})
    workers.mark_seen(store, {"w1": "w1", "w2": "another"}, AT + 10)
    workers.mark_seen(store, {}, AT + 99)
    assert [w.worker_id for w in workers.lock_silent(store, ["w1", "w2", "w3"], AT + 5)] == [
        "w2", "w3",
    ]  # fmt: skip
    assert workers.first_seen(store, ["w1", "w2", "w3"], AT) == AT
    assert workers.first_seen(store, ["w1", "w2", "w3"], AT + 1) == AT + 10
    assert workers.first_seen(store, ["w2", "w3"], AT + 1) is None
    workers.end_silent_sessions(store, AT + 5)
    assert workers.session_of(store, "w1") == "w1"
    assert workers.session_of(store, "w2") is None


def test_workers_are_listed_by_id(store: Connection) -> None:
    assert [w.worker_id for w in workers.list_workers(store, 2, None)] == ["w1", "w2"]
    assert [w.worker_id for w in workers.list_workers(store, 9, "w2")] == ["w3"]
    assert [w.worker_id for w in workers.list_workers(store, 9, None, "carol")] == ["w3"]
    assert workers.count_of_owner(store, "bob") == 2
