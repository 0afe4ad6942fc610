"""A real warden for tests: in a process of its own, as a worker's is, with bubblewrap behind it."""

import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from gridx.clock import SystemClock
from gridx.domain.sandbox import Backend
from gridx.worker.apart.proxies import Warden
from gridx.worker.sandbox.backends import Choice
from gridx.worker.sandbox.base import Sandbox

CHOICE = Choice((Backend.BUBBLEWRAP,))
_MAIN = """
import socket, sys
from gridx.domain.sandbox import Backend
from gridx.worker.apart import warden
from gridx.worker.sandbox.backends import Choice

end, agent_lives = map(int, sys.argv[1:])
sys.exit(warden.main(socket.socket(fileno=end), agent_lives, Choice((Backend.BUBBLEWRAP,))))
"""


def start() -> tuple[socket.socket, int, int]:
    """A warden process: our end of the line to it, its id, and what it must not outlive."""
    ours, theirs = socket.socketpair()
    agent_lives, lifeline = os.pipe()
    words = (sys.executable, "-c", _MAIN, str(theirs.fileno()), str(agent_lives))
    process = subprocess.Popen(words, pass_fds=(theirs.fileno(), agent_lives))
    theirs.close()
    os.close(agent_lives)
    pid = process.pid
    process.returncode = 0  # whoever asks for its end is somebody else
    return ours, pid, lifeline


@asynccontextmanager
async def sandbox_of_a_warden() -> AsyncGenerator[tuple[Warden, Sandbox]]:
    """A warden with the one sandbox that it offers."""
    warden = Warden(*start())
    async with warden.open_backends(SystemClock(), CHOICE) as offered:
        yield warden, offered[Backend.BUBBLEWRAP]
