"""A storm: a load of mixed jobs while everything that runs them is killed and cut, again and again.

Blows fall when the load has got so far, not when so much time has passed, so that each of them hits
work, on a fast machine and on a slow one. What is struck, and when, follows from the seed.
"""

import asyncio
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

import httpx2

from tests.e2e.house import House
from tests.e2e.people import Json, Person
from tests.support.proxy import Proxy, proxy_to
from tests.support.waiting import until

CLIENTS = 4
BATCH = 20
FINAL_WITHIN_S = 240.0
UP_WITHIN_S = 60.0
ASK_EVERY_S = 0.1
"""Asking is work too, for those who are to start again and for those who run the load."""


@dataclass(frozen=True)
class Expected:
    """A job of the load, and the one end it may come to."""

    spec: Json
    status: str
    reason: str | None
    exit_code: int | None
    stdout: str


def load(jobs: int) -> list[Expected]:
    """Mixed jobs: short and long, three languages, much output and none, good ends and bad."""
    return [_kind(number) for number in range(jobs)]


def _kind(number: int) -> Expected:
    match number % 20:
        case 0 | 10:
            code = (
                f"import time\nfor n in range(5): print({number}, n, flush=True); time.sleep(.02)"
            )
            return _good(number, code, "".join(f"{number} {n}\n" for n in range(5)))
        case 1:
            code = f"console.log({number} * 2)"
            return _good(number, code, f"{number * 2}\n", "javascript")
        case 2 | 12:
            code = f"echo said {number}; exit {number % 100 + 1}"
            spec = _spec(number, code, "bash")
            return Expected(spec, "failed", "exit_code", number % 100 + 1, f"said {number}\n")
        case 3 | 13:
            return _good(number, f"print('{number} ' * 5000)", f"{number} " * 5000 + "\n")
        case n if n % 2:
            return _good(number, f"echo {number}", f"{number}\n", "bash")
        case _:
            return _good(number, f"print({number})", f"{number}\n")


def _good(number: int, code: str, stdout: str, language: str = "python") -> Expected:
    return Expected(_spec(number, code, language), "succeeded", None, 0, stdout)


def _spec(number: int, code: str, language: str) -> Json:
    resources = {"cpus": 0.5, "memory_mb": 128, "disk_mb": 64}
    more = {"name": f"n{number}", "max_attempts": 20, "resources": resources}
    return {"code": code, "language": language, **more}


class Storm:
    """One run: `through` submits the load and strikes `blows` times while it runs."""

    def __init__(self, house: House, alice: Person, seed: int) -> None:
        self.house = house
        self.alice = alice
        self.accepted = 0
        self.line: Line | None = None
        self._random = Random(seed)
        self._lock = threading.Lock()

    def through(self, work: Sequence[Expected], strikes: Sequence[Callable[[], None]]) -> None:
        """Submit all of `work` and wait until it is final, with `strikes` spread over the way."""
        specs = [each.spec for each in work]
        with ThreadPoolExecutor(CLIENTS) as pool:
            parts = [specs[start::CLIENTS] for start in range(CLIENTS)]
            clients = [pool.submit(self._submit, n, part) for n, part in enumerate(parts)]
            way = 2 * len(work)
            for number, strike in enumerate(strikes, 1):
                goal = way * number // (len(strikes) + 1)
                self._until_done(goal, way)
                strike()
            for client in clients:
                client.result()
        if self.line is not None:
            self.line.mend()
        self._until_done(way, way)

    def shuffled(self, *kinds: tuple[Callable[[], None], int]) -> list[Callable[[], None]]:
        """Each kind of strike so many times, in the order of this seed."""
        strikes = [strike for strike, count in kinds for _ in range(count)]
        self._random.shuffle(strikes)
        return strikes

    def kill_coordinator(self) -> None:
        assert self.house.process is not None
        self.house.process.kill()
        self.house.process.close()
        self.house.start()

    def kill_a_worker(self) -> None:
        """Kill one at random, and start it again on what it left, which needs a line that works."""
        if self.line is not None:
            self.line.mend()
        number = self._random.randrange(len(self.house.workers))
        struck = self.house.workers.pop(number)
        struck.process.close()
        again = self.house.start_worker("olive", url=struck.url, state=struck.state)
        self.house.workers.insert(number, self.house.workers.pop())
        until(lambda: self._answers(lambda: self.house.is_online(again)), "it is back", UP_WITHIN_S)

    def _until_done(self, goal: int, way: int) -> None:
        what = f"{goal} of {way}"
        until(lambda: self._progress() >= goal, what, FINAL_WITHIN_S, every_s=ASK_EVERY_S)

    def _submit(self, client: int, specs: Sequence[Json]) -> None:
        """Half of them one by one, half in batches; each until it is accepted, however often."""
        person = Person(self.alice.url, "alice", self.alice.token)
        half = len(specs) // 2
        for number, spec in enumerate(specs[:half]):
            self._insist(person, "/jobs", spec, f"one-{client}-{number}", 1)
        for start in range(half, len(specs), BATCH):
            part = list(specs[start : start + BATCH])
            key = f"batch-{client}-{start}"
            self._insist(person, "/jobs/batch", {"jobs": part}, key, len(part))
        person.close()

    def _insist(self, person: Person, path: str, body: Json, key: str, jobs: int) -> None:
        def accepted() -> bool:
            try:
                answer = person.post(path, body, key=key)
            except httpx2.HTTPError:
                return False
            assert answer.status_code in (201, 503), answer.text
            return answer.status_code == 201

        until(accepted, f"{path} is accepted", UP_WITHIN_S, every_s=ASK_EVERY_S)
        with self._lock:
            self.accepted += jobs

    def _progress(self) -> int:
        """How many jobs were accepted, and those again that are final."""
        accepted = self.accepted
        try:
            status = self.alice.get("/status")
        except httpx2.HTTPError:
            return 0
        if status.status_code != 200:
            return 0
        waiting = status.json()["queue_size"] + status.json()["running"]
        return accepted + max(0, accepted - waiting)

    @staticmethod
    def _answers(question: Callable[[], bool]) -> bool:
        try:
            return question()
        except (httpx2.HTTPError, AssertionError):
            return False


def differences(alice: Person, work: Sequence[Expected]) -> list[str]:
    """What did not come out as it must: each job once, final, with its own end and output."""
    listed = alice.items("/jobs?limit=500")
    with ThreadPoolExecutor(CLIENTS) as pool:
        jobs = pool.map(alice.job, [each["job_id"] for each in listed])
        found = {job["name"]: job for job in jobs}
    wrong = [] if len(listed) == len(work) else [f"{len(listed)} jobs instead of {len(work)}"]
    for each in work:
        name = each.spec["name"]
        if name not in found:
            wrong.append(f"{name} is missing")
            continue
        job = found[name]
        ends = [a for a in job["attempts"] if a["status"] in ("succeeded", "failed")]
        own = [a for a in ends if a["reason"] != "sandbox_error"]
        came = (job["status"], job["reason"], job["exit_code"], job["stdout"])
        if came != (each.status, each.reason, each.exit_code, each.stdout[: 64 * 1024]):
            wrong.append(f"{name}: {came} with {job['attempts']}")
        elif len(own) != 1 or job["attempts"][-1] != own[0]:
            wrong.append(f"{name} ended {len(own)} times: {job['attempts']}")
    return wrong


class Line:
    """A breakable line to a coordinator, in a thread of its own: a proxy and its loop."""

    def __init__(self, proxy: Proxy, loop: asyncio.AbstractEventLoop, seed: int) -> None:
        self._proxy = proxy
        self._loop = loop
        self._random = Random(seed)

    @property
    def port(self) -> int:
        return self._proxy.port

    def disturb(self) -> None:
        """Cut it, freeze one of its ways, or slow it down, until it is mended."""
        self.mend()
        asyncio.run_coroutine_threadsafe(self._disturb(), self._loop).result(30)

    def mend(self) -> None:
        """Let everything through again, at once."""
        asyncio.run_coroutine_threadsafe(self._mend(), self._loop).result(30)

    async def _mend(self) -> None:
        self._proxy.delay_s = 0.0
        self._proxy.resume()

    async def _disturb(self) -> None:
        match self._random.randrange(4):
            case 0:
                await self._proxy.cut()
            case 1:
                self._proxy.freeze(back=False)
            case 2:
                self._proxy.freeze(forth=False)
            case _:
                self._proxy.delay_s = 0.2


@contextmanager
def line_to(port: int, seed: int) -> Generator[Line]:
    """A line to a port of loopback for the length of a `with` block."""
    opened: list[Line] = []
    over: list[asyncio.Event] = []
    ready = threading.Event()

    async def serve() -> None:
        over.append(asyncio.Event())
        async with proxy_to(port) as proxy:
            opened.append(Line(proxy, asyncio.get_running_loop(), seed))
            ready.set()
            await over[0].wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="line")
    thread.start()
    assert ready.wait(10)
    try:
        yield opened[0]
    finally:
        opened[0]._loop.call_soon_threadsafe(over[0].set)
        thread.join()
