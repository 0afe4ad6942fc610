"""A thousand workers whose coordinator is killed: all come back, each with its lease."""

import asyncio
from dataclasses import dataclass, field

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from gridx.clock import SystemClock
from gridx.domain.errors import Unavailable
from gridx.protocol.frames import (
    Assign,
    Codec,
    FromCoordinator,
    Hello,
    LeaseRef,
    Started,
    Welcome,
    WireCapabilities,
    WireResources,
)
from gridx.worker.connection import Address, Dialer, trust
from tests.e2e.conftest import OpenHouse
from tests.e2e.house import House
from tests.e2e.people import Person
from tests.support.waiting import until

WORKERS = 1_000
WITHIN_S = 90
ROOM = WireResources(cpus=1.0, memory_mb=256, gpus=0, disk_mb=256)
OFFER = WireCapabilities(ROOM, ["python"], ["bubblewrap"])


@dataclass
class Crowd:
    """All workers together: how many are welcome now, and what they got."""

    welcome: int = 0
    holding: int = 0
    kept: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def came(self, kept: int) -> None:
        self.welcome += 1
        self.kept += kept

    async def until(self, what: str, count: int) -> None:
        async with asyncio.timeout(WITHIN_S):
            while getattr(self, what) < count:
                self.changed.clear()
                await self.changed.wait()


class Member:
    """One worker: connected again and again, with the one attempt it got."""

    def __init__(self, dialer: Dialer, name: str, crowd: Crowd) -> None:
        self._dialer = dialer
        self._name = name
        self._crowd = crowd
        self._codec = Codec("gridx.v1")
        self._worker_id: str | None = None
        self._running: list[LeaseRef] = []

    async def live(self) -> None:
        while True:
            _, socket = await self._dialer.dial()
            try:
                hello = Hello(self._name, "2", OFFER, self._worker_id, self._running)
                await socket.send(self._codec.encode(hello))
                while True:
                    await self._hear(socket, self._codec.from_coordinator(await socket.recv()))
            except ConnectionClosed as closed:
                self._crowd.welcome -= 1
                self._dialer.lost(Unavailable(str(closed)))
            finally:
                socket.transport.abort()

    async def _hear(self, socket: ClientConnection, frame: FromCoordinator) -> None:
        if isinstance(frame, Welcome):
            self._dialer.token = frame.worker_token or self._dialer.token
            self._dialer.accepted()
            self._worker_id = frame.worker_id
            for kept in frame.keep:  # its start may not have been stored
                await self._say_started(socket, kept.job_id, kept.attempt, kept.lease)
            self._crowd.came(len(frame.keep))
        elif isinstance(frame, Assign):
            for a in frame.attempts:
                self._running.append(LeaseRef(a.job_id, a.attempt, a.lease))
                await self._say_started(socket, a.job_id, a.attempt, a.lease)
                self._crowd.holding += 1
        self._crowd.changed.set()

    async def _say_started(
        self, socket: ClientConnection, job_id: str, attempt: int, lease: str
    ) -> None:
        await socket.send(self._codec.encode(Started(job_id, attempt, lease)))


@pytest.mark.timeout(300)
async def test_a_thousand_workers_come_back(open_house: OpenHouse) -> None:
    house = open_house(GRIDX_LEASES__LEASE_S="120", GRIDX_LEASES__HEARTBEAT_S="60")
    alice, olive = house.person("alice"), house.person("olive")
    house.admin.tell("/credits/grant", {"to": "alice", "amount": "10000"}, 201)
    crowd = Crowd()
    addresses, tls = [Address.parse(house.url)], trust(None)
    members = [
        Member(Dialer(addresses, olive.token, tls, SystemClock()), f"w{number}", crowd)
        for number in range(WORKERS)
    ]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each.live()) for each in members]
        await crowd.until("welcome", WORKERS)
        jobs = {"jobs": [{"code": "pass", "limits": {"timeout_s": 600}}] * WORKERS}
        await asyncio.to_thread(alice.tell, "/jobs/batch", jobs, 201)
        await crowd.until("holding", WORKERS)
        restart(house)  # it is back before they know: the worst case for a stampede
        await crowd.until("kept", WORKERS)
        await asyncio.to_thread(until, lambda: running(alice) == WORKERS, "all of them run")
        for task in tasks:
            task.cancel()
    assert crowd.holding == WORKERS, "none is run again"


def running(alice: Person) -> int:
    return alice.ask("/status")["running"]


def restart(house: House) -> None:
    assert house.process is not None
    house.process.kill()
    house.process.close()
    house.start()
