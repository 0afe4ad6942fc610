"""Grids to measure: real programs on free ports in temporary folders, with an administrator."""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from tests.support.postgres import postgres_server
from tests.support.processes import Process, clean_environment, free_port, running

from benchmarks.wire import Wire

PASSWORD = "benchmark-password"
RICH = {"GRIDX_PRICING__INITIAL_GRANT": "100000000"}


@dataclass(frozen=True, slots=True)
class Grid:
    """A running grid: its process, port, a token of its administrator, and its environment."""

    process: Process
    port: int
    token: str
    env: Mapping[str, str]


@asynccontextmanager
async def coordinator(
    storage_url: str | None = None, core: int | None = None
) -> AsyncGenerator[Grid]:
    """A coordinator alone, on SQLite unless told otherwise, kept to one core if given."""
    with tempfile.TemporaryDirectory(prefix="gridx-bench-") as name:
        folder = Path(name)
        url = storage_url or f"sqlite:///{folder / 'grid.db'}"
        env = clean_environment(
            folder, GRIDX_STORAGE__URL=url, GRIDX_ADMIN_PASSWORD=PASSWORD, **RICH
        )
        with running("gridx", "init", env=env) as made:
            assert made.wait() == 0, made.output
        port = free_port()
        with running("gridx", "coordinator", "--port", str(port), env=env) as process:
            await asyncio.to_thread(wait_until_listening, process, port)
            if core is not None:
                pin(process.pid, core)
            yield Grid(process, port, await log_in(port), env)


@asynccontextmanager
async def killed_and_started(grid: Grid) -> AsyncGenerator[float]:
    """Kill a coordinator with -9 and start it again; gives the moment of that start."""
    grid.process.kill()
    began = time.monotonic()
    with running("gridx", "coordinator", "--port", str(grid.port), env=grid.env):
        yield began


@contextmanager
def up(slots: int, **more: str) -> Generator[tuple[Process, int, float]]:
    """`gridx up` in a new folder: its process, its port, and seconds until it said it is ready."""
    with tempfile.TemporaryDirectory(prefix="gridx-bench-") as name:
        folder = Path(name)
        env = clean_environment(folder, GRIDX_ADMIN_PASSWORD=PASSWORD, **RICH, **more)
        port = free_port()
        began = time.monotonic()
        command = ("gridx", "up", "--data", folder / "data", "--port", str(port))
        with running(*command, "--slots", str(slots), env=env) as process:
            process.wait_for("Grid-X is ready at")
            yield process, port, time.monotonic() - began


@contextmanager
def durable_postgres() -> Generator[str]:
    """The address of a PostgreSQL database that flushes its commits."""
    with postgres_server({"fsync": "on", "synchronous_commit": "on"}) as server:
        yield server.url(server.create())


async def log_in(port: int, user_id: str = "admin") -> str:
    """A token of a user with the benchmark's password."""
    async with Wire(port) as wire:
        answer = await wire.ask("POST", "/auth/token", {"user_id": user_id, "password": PASSWORD})
    return str(answer["token"])


def wait_until_listening(process: Process, port: int) -> None:
    """Wait until the coordinator says where it serves."""
    process.wait_for(rf":{port}\b")


def pin(pid: int, core: int) -> None:
    """Keep a process and its threads to one core."""
    for thread in psutil.Process(pid).threads():
        os.sched_setaffinity(thread.id, {core})


def resident_mb(pid: int) -> float:
    """Memory of a process that nobody else shares with it, and its part of what is shared."""
    return psutil.Process(pid).memory_full_info().pss / 1024 / 1024
