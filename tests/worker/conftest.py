"""What the worker's tests share: a coordinator, and workers that run in the test's own loop."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gridx.domain.sandbox import Backend
from gridx.worker.agent import run_worker
from gridx.worker.options import WorkerOptions
from gridx.worker.sandbox.backends import Choice
from tests.support.processes import Process, clean_environment
from tests.support.waiting import until
from tests.worker.coordinator import WAIT_S, Coordinator


@pytest.fixture
async def coordinator() -> AsyncGenerator[Coordinator]:
    coordinator = Coordinator()
    async with coordinator.serving():
        yield coordinator


class RunningWorker:
    """A worker in a task of this loop."""

    def __init__(self, options: WorkerOptions) -> None:
        loop = asyncio.get_running_loop()
        self._accepted: asyncio.Future[str] = loop.create_future()
        self._task = loop.create_task(run_worker(options, accepted=self._accepted.set_result))

    async def accepted(self) -> str:
        """Wait until it has been welcomed, and has kept who it is; its id."""
        async with asyncio.timeout(WAIT_S):
            return await self._accepted

    async def exit_code(self) -> int:
        """Wait until it has ended by itself."""
        async with asyncio.timeout(WAIT_S):
            return await self._task

    async def stop(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


StartWorker = Callable[..., RunningWorker]


@pytest.fixture
async def start_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[StartWorker]:
    """Starts workers with the options given, on one state folder; stops them in the end.

    What was lost they dial again soon: how long they wait is a test of the dialer.
    """
    monkeypatch.setattr("gridx.worker.connection.BACKOFF_FIRST_S", 0.02)
    async with AsyncExitStack() as stack:

        def start(*urls: str, **options: Any) -> RunningWorker:
            settings: dict[str, Any] = {
                "state_dir": tmp_path / "state",
                "name": "desk",
                "interactive": False,
                "handle_signals": False,
                "slots": 2,
                "sandbox": Choice((Backend.BUBBLEWRAP,)),
            }
            worker = RunningWorker(WorkerOptions(urls=urls, **(settings | options)))
            stack.push_async_callback(worker.stop)
            return worker

        yield start


async def ended_in(spool: Path) -> None:
    """Wait until a file of the spool ends in `finished`; the disk has no event for it."""

    def ended() -> bool:
        return any(b"finished" in path.read_bytes() for path in spool.iterdir())

    await asyncio.to_thread(until, ended, "the program has ended")


class Workers:
    """Starts worker processes in one home folder."""

    def __init__(self, home: Path, url: str) -> None:
        self._home = home
        self._url = url
        self._running: list[Process] = []

    def start(self, *options: str, behind: Sequence[str] = ()) -> Process:
        """A worker's process; `behind` is a command that runs it."""
        environment = clean_environment(self._home, GRIDX_TOKEN="user-token")
        gridx = str(Path(sys.executable).with_name("gridx")) if behind else "gridx"
        command = (*behind, gridx, "worker", "--url", self._url, "--slots", "2", *options)
        self._running.append(process := Process(*command, env=environment))
        return process

    def close(self) -> None:
        for process in self._running:
            process.close()


@pytest.fixture
async def workers(coordinator: Coordinator, tmp_path: Path) -> AsyncGenerator[Workers]:
    workers = Workers(tmp_path, coordinator.url)
    yield workers
    await asyncio.to_thread(workers.close)


@asynccontextmanager
async def silent_server() -> AsyncGenerator[int]:
    """A port that takes connections and never says a word."""
    open_writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers.append(writer)
        with suppress(ConnectionError):
            while await reader.read(65_536):
                pass

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in open_writers:
            writer.close()
