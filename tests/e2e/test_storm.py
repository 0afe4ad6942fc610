"""Two thousand mixed jobs under twenty kills: each is final once, rightly, and paid exactly.

On SQLite and on PostgreSQL. The network between one of the workers and the coordinator breaks
besides, in every way that the proxy knows. `STORM_SEED` in the environment brings another storm.
"""

import os

import pytest

from tests.e2e.conftest import OpenHouse
from tests.e2e.house import House
from tests.e2e.storm import Storm, differences, line_to, load
from tests.support.postgres import PostgresServer

JOBS = 2_000
SEED = int(os.environ.get("STORM_SEED", "1"))


def people(house: House) -> Storm:
    alice = house.person("alice")
    house.person("olive")
    house.admin.tell("/credits/grant", {"to": "alice", "amount": "10000"}, 201)
    return Storm(house, alice, SEED)


@pytest.mark.timeout(600)
def test_on_sqlite(open_house: OpenHouse) -> None:
    house = open_house()
    storm = people(house)
    work = load(JOBS)
    with line_to(house.port, SEED) as line:
        storm.line = line
        house.worker("olive")
        house.worker("olive", url=f"http://127.0.0.1:{line.port}")
        strikes = storm.shuffled(
            (storm.kill_coordinator, 9), (storm.kill_a_worker, 11), (line.disturb, 6)
        )
        storm.through(work, strikes)
        assert differences(storm.alice, work) == []


@pytest.mark.timeout(600)
def test_on_postgresql(postgres_house: tuple[House, PostgresServer]) -> None:
    house, server = postgres_house
    storm = people(house)
    work = load(JOBS)

    def kill_postgres() -> None:
        server.process.close()
        server.start_again()

    with line_to(house.port, SEED) as line:
        storm.line = line
        house.worker("olive")
        house.worker("olive", url=f"http://127.0.0.1:{line.port}")
        strikes = storm.shuffled(
            (storm.kill_coordinator, 7), (storm.kill_a_worker, 9), (kill_postgres, 4),
            (line.disturb, 6),
        )  # fmt: skip
        storm.through(work, strikes)
        assert differences(storm.alice, work) == []
