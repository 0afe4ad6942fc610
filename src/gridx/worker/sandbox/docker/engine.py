"""The connection to a container engine: calls with an end to their patience, and what it tells.

The plain Docker Engine API, so that Podman's socket will do. One stream of events says which
programs and containers have ended; when it ends the engine is lost, and with it all that ran there.
"""

import asyncio
import io
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiodocker
import aiohttp
import msgspec
from aiodocker.containers import DockerContainer
from aiodocker.execs import Exec
from aiodocker.stream import Stream
from msgspec import Struct, field

from gridx.domain.errors import Unavailable
from gridx.tasks import Tasks
from gridx.telemetry import get_logger

CALL_TIMEOUT_S = 30.0
_PULL_TIMEOUT_S = 600.0
_LOST = "the container engine at {socket} stopped or went away"
_ENDS_OF_PROGRAMS = {"exec_die", "exec_died"}  # Docker's word, and Podman's
_ENDS = _ENDS_OF_PROGRAMS | {"die", "died"}
_KILL = "kill"
_LINE_BYTES_MAX = 1 << 20
_GONE = {404, 409}  # no such container, or its removal is under way
_log = get_logger(__name__)


class _Actor(Struct):
    identity: str = field(name="ID", default="")
    about: dict[str, str] = field(name="Attributes", default_factory=dict[str, str])


class _Event(Struct):
    action: str = field(name="Action", default="")
    actor: _Actor = field(name="Actor", default_factory=_Actor)


_read_event = msgspec.json.Decoder(_Event).decode


class Engine:
    """One connection; `lost` is done once it is of no use any more."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.is_podman = False
        self._connector = aiohttp.UnixConnector(str(socket), limit=0)
        self._docker = aiodocker.Docker(url="unix://localhost", connector=self._connector)
        self._ends: dict[str, asyncio.Future[int]] = {}
        self._killed: set[str] = set()
        self._heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._tasks = Tasks()

    @property
    def alive(self) -> bool:
        return not self.lost.done()

    async def open(self, label: str) -> None:
        """Connect, and hear of what ends among the containers with `label`."""
        with self._telling("answer"):
            async with asyncio.timeout(CALL_TIMEOUT_S):
                version = await self._docker.version()
                self.is_podman = "Podman" in str(version.get("Components"))
                self._tasks.start("hear the container engine", self._hear(label))
                if failure := await self._heard:
                    raise Unavailable(failure)

    async def close(self) -> None:
        self._lose()
        await self._tasks.close()
        await self._docker.close()
        await self._connector.close()

    async def answers(self) -> bool:
        """Whether it answers now; true as well once it is lost, which whoever uses it hears."""
        try:
            await self._ask("GET", "_ping")
        except Unavailable:
            return not self.alive
        return True

    def expect_end(self, identity: str) -> asyncio.Future[int]:
        """Done, with its exit code, when the program or container of this id has ended."""
        return self._ends.setdefault(identity, asyncio.get_running_loop().create_future())

    def was_killed(self, identity: str) -> bool:
        """Whether a signal was sent to a container through the engine, by us or by others."""
        return identity in self._killed

    def forget(self, identity: str) -> None:
        self._ends.pop(identity, None)
        self._killed.discard(identity)

    async def image(self, name: str) -> dict[str, Any] | None:
        """The engine's description of an image; None when it has none of that name."""
        with self._telling("look for an image"):
            async with asyncio.timeout(CALL_TIMEOUT_S):
                try:
                    return await self._docker.images.inspect(name)
                except aiodocker.DockerError as failure:
                    if failure.status != 404:
                        raise
                    return None

    async def pull(self, name: str) -> None:
        with self._telling(f"pull image {name}"):
            async with asyncio.timeout(_PULL_TIMEOUT_S):
                await self._docker.images.pull(name)

    async def labelled(self, label: str) -> list[tuple[str, dict[str, str], str]]:
        """Every container with this label, running or not: its id, labels and state."""
        filters = json.dumps({"label": [label]})
        found = await self._ask("GET", "containers/json", params={"all": "1", "filters": filters})
        return [(str(each["Id"]), each["Labels"], str(each["State"])) for each in found]

    async def create(self, body: dict[str, object]) -> str:
        """Make a container; its id."""
        return str((await self._ask("POST", "containers/create", body=body))["Id"])

    async def start(self, identity: str) -> None:
        await self._ask("POST", f"containers/{identity}/start")

    async def process_of(self, identity: str) -> int:
        """The host's id of a container's first process; 0 when it does not run."""
        found = await self._ask("GET", f"containers/{identity}/json")
        return int(found["State"].get("Pid") or 0)

    async def ran_out_of_memory(self, identity: str) -> bool:
        """Whether the engine saw the kernel end a process of the container for its memory."""
        found = await self._ask("GET", f"containers/{identity}/json")
        return bool(found["State"].get("OOMKilled"))

    async def limit_processes(self, identity: str, most: int) -> None:
        await self._ask("POST", f"containers/{identity}/update", body={"PidsLimit": most})

    async def signal(self, identity: str, name: str) -> None:
        await self._ask("POST", f"containers/{identity}/kill", params={"signal": name})

    async def remove(self, identity: str) -> None:
        """End a container with all that runs in it, and remove it; one that is gone is fine."""
        await self._ask(
            "DELETE", f"containers/{identity}", params={"force": "1"}, gone_is_fine=True
        )

    async def attach(self, identity: str) -> Stream:
        """The input and output of a container's first process."""
        with self._telling("attach to a container"):
            async with asyncio.timeout(CALL_TIMEOUT_S):
                container = DockerContainer(self._docker, id=identity)
                stream = container.attach(stdin=True, stdout=True)
                return await stream.__aenter__()

    async def run_in(self, identity: str, command: list[str]) -> tuple[str, Stream]:
        """Start another program in a container; its id, its input and outputs."""
        streams = {"AttachStdin": True, "AttachStdout": True, "AttachStderr": True, "Tty": False}
        body: dict[str, object] = {"Cmd": command, **streams}
        program = str((await self._ask("POST", f"containers/{identity}/exec", body=body))["Id"])
        self.expect_end(program)
        with self._telling("start the program"):
            async with asyncio.timeout(CALL_TIMEOUT_S):
                stream = Exec(self._docker, program, tty=False).start(detach=False)
                return program, await stream.__aenter__()

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: dict[str, object] | None = None,
        params: dict[str, str] | None = None,
        gone_is_fine: bool = False,
    ) -> Any:
        data = None if body is None else io.BytesIO(json.dumps(body).encode())  # may be megabytes
        url, headers = f"http://engine/{path}", {"Content-Type": "application/json"}
        with self._telling(f"{method} {path.rpartition('/')[2][:20]}"):
            async with (
                asyncio.timeout(CALL_TIMEOUT_S),
                self._docker.session.request(
                    method, url, data=data, params=params, headers=headers
                ) as answer,
            ):
                said = await answer.text()
                if gone_is_fine and answer.status in _GONE:
                    return None
                if answer.status >= 400:
                    raise aiodocker.DockerError(answer.status, _message(said))
                return json.loads(said) if said.strip() else None

    async def _hear(self, label: str) -> None:
        # Not the start of a program: that event repeats all its words.
        events = [*_ENDS, _KILL]
        filters = json.dumps({"type": ["container"], "label": [label], "event": events})
        forever = aiohttp.ClientTimeout(total=None)
        try:
            async with self._docker.session.get(
                "http://engine/events", params={"filters": filters}, timeout=forever
            ) as answer:
                answer.raise_for_status()
                self._heard.set_result("")
                pending = b""
                async for piece in answer.content.iter_any():
                    *lines, pending = (pending + piece).split(b"\n")
                    for line in filter(None, lines):
                        self._take(_read_event(line))
                    if len(pending) > _LINE_BYTES_MAX:
                        break
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            _log.info("container_engine_silent", why=str(failure))
        finally:
            self._lose()

    def _take(self, event: _Event) -> None:
        about = event.actor.about
        if event.action == _KILL:
            self._killed.add(event.actor.identity)
        if event.action not in _ENDS:
            return
        identity = (
            about.get("execID") if event.action in _ENDS_OF_PROGRAMS else event.actor.identity
        )
        end = self._ends.get(identity or "")
        if end is not None and not end.done():
            end.set_result(int(about.get("exitCode") or about.get("containerExitCode") or 0))

    def _lose(self) -> None:
        if self.alive:
            self.lost.set_result(_LOST.format(socket=self.socket))
        if not self._heard.done():
            self._heard.set_result(self._unreachable())

    @contextmanager
    def _telling(self, what: str) -> Generator[None]:
        """Whatever goes wrong with the engine becomes `Unavailable`, for a person."""
        try:
            yield
        except aiodocker.DockerError as failure:
            if failure.status == 900:
                raise Unavailable(self._unreachable()) from failure
            raise Unavailable(f"the container engine refused: {failure.message}") from failure
        except TimeoutError as failure:
            raise Unavailable(
                f"the container engine at {self.socket} was asked to {what} and did not in time"
            ) from failure
        except (aiohttp.ClientError, OSError, AssertionError, RuntimeError) as failure:
            raise Unavailable(self._unreachable()) from failure

    def _unreachable(self) -> str:
        return (
            f"the container engine at {self.socket} does not answer; start it, or name another "
            "with --container-socket"
        )


def find_socket() -> Path | None:
    """The socket of the engine on this machine: where it is told, or where it usually is."""
    told = os.environ.get("DOCKER_HOST", "")
    if told.startswith("unix://"):
        return Path(told.removeprefix("unix://"))
    own = Path(os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}"))
    usual = (
        Path("/var/run/docker.sock"),
        own / "docker.sock",
        own / "podman" / "podman.sock",
        Path("/run/podman/podman.sock"),
    )
    return next((each for each in usual if each.is_socket()), None)


def _message(said: str) -> str:
    try:
        return str(json.loads(said)["message"])
    except (ValueError, KeyError, TypeError):
        return said.strip()[:300]
