"""Real processes for tests: started in a session of their own, waited for by what they print, and
never left behind, whatever the test does.

Waiting blocks the calling thread; a coroutine uses `asyncio.to_thread(process.wait_for, ...)`.
"""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal, NoReturn

import psutil

from tests.support.waiting import WITHIN_S, until

WAIT_S = WITHIN_S
# As from a terminal: a test run in the background of a script ignores SIGINT, and what it starts
# would inherit that. And the kernel ends the process when the test run itself dies. Both programs
# are part of every Debian.
STARTER = ("env", "--default-signal", "setpriv", "--pdeathsig", "KILL", "--")
Stream = Literal["stdout", "stderr"]


@contextmanager
def running(
    *command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Generator["Process"]:
    """A process for the length of a `with` block; whatever is left of its group is killed."""
    process = Process(*command, cwd=cwd, env=env)
    try:
        yield process
    finally:
        process.close()


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """What a fresh user's programs see: this venv first on the path, an empty home, no settings."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        **more,
    }


def free_port() -> int:
    """A TCP port of loopback that nobody listens on, and that stays free until somebody names it.

    It lies below those that the kernel hands out to whoever wants any.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie that nobody collected does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def asleep(nap: str) -> list[psutil.Process]:
    """The processes of this machine that run this very command, `sleep` of a time of its own."""
    everything = psutil.process_iter(["cmdline"])
    return [each for each in everything if each.info["cmdline"] == nap.split()]


def wake(nap: str) -> None:
    """End the one process that sleeps so, once it does: a job that waits for it goes on."""
    for each in until(lambda: asleep(nap), f"somebody runs `{nap}`"):
        each.send_signal(signal.SIGPIPE)  # of which no shell tells


class Process:
    """One running command with everything it printed so far.

    It leads its own session and process group, so that `kill` reaches all it started. It ignores no
    signal, and gets a SIGKILL from the kernel when the test run itself dies.
    """

    def __init__(
        self,
        *command: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        group: str | None = None,
    ) -> None:
        self.command = [str(word) for word in command]
        self._popen = subprocess.Popen(
            [*STARTER, *self.command],
            cwd=cwd,
            env=dict(env) if env is not None else None,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=[] if user else None,
        )
        self._chunks: list[tuple[Stream, bytes]] = []
        self._changed = threading.Condition()
        self._open: set[Stream] = {"stdout", "stderr"}
        self._start_reader("stdout", self._popen.stdout)
        self._start_reader("stderr", self._popen.stderr)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code (minus the signal's number if one ended it), None while it runs."""
        return self._popen.poll()

    @property
    def output(self) -> str:
        """Both streams in the order in which they were read, for people to look at."""
        return self._text(None)

    @property
    def stdout(self) -> str:
        return self._text("stdout")

    @property
    def stderr(self) -> str:
        return self._text("stderr")

    def wait_for(self, pattern: str, timeout_s: float = WAIT_S) -> re.Match[str]:
        """Wait until a stream matches; fail with the output when it ends or is late.

        Each stream for itself: in which order two pipes are read says nothing, and a line of one
        may seem to go on in the other.
        """
        expression = re.compile(pattern, re.MULTILINE)
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not (match := expression.search(self.stdout) or expression.search(self.stderr)):
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    self._fail(f"printed nothing like {pattern!r} in {timeout_s} s")
                if not self._open:
                    self._fail(f"ended without printing anything like {pattern!r}")
                self._changed.wait(left_s)
        return match

    def wait(self, timeout_s: float = WAIT_S) -> int:
        """Wait until it has ended and its output is complete; give the exit code."""
        try:
            code = self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._fail(f"still runs after {timeout_s} s")
        with self._changed:  # not for ever: a child that lives on may keep the streams open
            self._changed.wait_for(lambda: not self._open, timeout=5)
        return code

    def send(self, text: str) -> None:
        """Write to its standard input."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(text.encode())
        self._popen.stdin.flush()

    def close_input(self) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.close()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        self._popen.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = WAIT_S) -> int:
        """Ask it to end, wait, and give its exit code."""
        self.send_signal(number)
        return self.wait(timeout_s)

    def kill(self) -> None:
        """Kill its whole group as a power cut would, and wait for the process itself."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()

    def suspend(self) -> None:
        """Stop its whole group where it stands, as an overloaded machine does."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def family(self) -> set[int]:
        """The ids of its living processes: its session's, and their children in other sessions."""
        members: set[int] = set()
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getsid(process.pid) == self.pid:
                    members |= {process.pid, *(x.pid for x in process.children(recursive=True))}
        return {pid for pid in members if is_alive(pid)}

    def close(self) -> None:
        """Leave nothing behind."""
        self.kill()
        with suppress(BrokenPipeError):
            self.close_input()

    def _start_reader(self, stream: Stream, pipe: IO[bytes] | None) -> None:
        assert pipe is not None

        def read() -> None:
            with pipe:
                while chunk := os.read(pipe.fileno(), 65536):
                    with self._changed:
                        self._chunks.append((stream, chunk))
                        self._changed.notify_all()
            with self._changed:
                self._open.discard(stream)
                self._changed.notify_all()

        threading.Thread(target=read, name=f"{stream} of {self.pid}", daemon=True).start()

    def _text(self, wanted: Stream | None) -> str:
        parts = [chunk for stream, chunk in tuple(self._chunks) if wanted in {None, stream}]
        return b"".join(parts).decode("utf-8", errors="replace")

    def _fail(self, what: str) -> NoReturn:
        raise AssertionError(f"`{' '.join(self.command)}` {what}. Its output:\n{self.output}")
