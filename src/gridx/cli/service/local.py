"""Workers of this machine as child processes of a program that serves a grid.

A child is started at once, so that it loads while the coordinator does; it gets its order when
there is an address and a token. It stays in our process group and dies with us.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass

from gridx.domain.errors import Unavailable

LEAVE_WITHIN_S = 6.0
ACCEPTED_WITHIN_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a child is to be: whose worker, where, with which folder for its state."""

    url: str
    token: str | None
    user_id: str
    state_dir: str
    name: str | None = None
    slots: int | None = None
    ca: str | None = None


class WorkerChild:
    """One worker process; call `close` whatever happens."""

    def __init__(self, log_level: str = "warning", log_format: str = "auto") -> None:
        """Start it; it waits for its order."""
        # Ctrl-C goes to the whole group, but it is we who end the child, in our order: what is
        # ignored here when it starts, it ignores from its first moment.
        words = (str(os.getpid()), log_level, log_format)
        usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gridx.cli.service.child", *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # Settings are the coordinator's, and some of them are secrets.
                env={k: v for k, v in os.environ.items() if not k.startswith("GRIDX_")},
            )
        finally:
            signal.signal(signal.SIGINT, usual)

    async def start(self, order: Order) -> str:
        """Make it a worker; gives its id once the coordinator has accepted it.

        Raises `Unavailable` when it was not; it has said why on standard error.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
            self._process.stdin.flush()
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(ACCEPTED_WITHIN_S):
                line = await asyncio.to_thread(self._process.stdout.readline)
        except TimeoutError:
            line = b""
        if not line:
            raise Unavailable(
                "The local worker could not start: `gridx doctor` shows what this machine lacks, "
                "and --no-worker starts the coordinator alone"
            )
        worker_id: str = json.loads(line)["worker_id"]
        return worker_id

    async def ended(self) -> int:
        """Its exit code, once it has ended by itself."""
        return await asyncio.to_thread(self._process.wait)

    async def leave(self) -> None:
        """Have it hand over what it runs and end; kill it when it does not."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                await asyncio.to_thread(self._process.wait, LEAVE_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def close(self) -> None:
        """Leave nothing of it behind."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
