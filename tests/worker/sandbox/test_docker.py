"""The docker backend beyond what every backend does: its containers, its images, its engine."""

import asyncio
import json
import signal
import sys
import textwrap
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gridx.domain.attempt import Reason
from gridx.domain.errors import Unavailable
from gridx.worker.sandbox.base import Enforcement, Limits, Program
from gridx.worker.sandbox.docker.backend import Docker
from gridx.worker.sandbox.docker.images import Pull
from tests.support.docker import IMAGE, DockerEngine, docker_engine
from tests.support.processes import running
from tests.support.waiting import until
from tests.worker.sandbox.runs import Watcher, bash, run

pytestmark = [pytest.mark.xdist_group("docker")]

WAITS = Program("bash", "echo ready; sleep 999")


@pytest.fixture(scope="module")
def docker() -> Generator[DockerEngine]:
    """An engine of this module's own, whose containers it may count."""
    with docker_engine() as engine:
        yield engine


@asynccontextmanager
async def opened(docker: DockerEngine, **options: object) -> AsyncGenerator[Docker]:
    """A backend on that engine; in the end no container of it is left."""
    given = {"socket": docker.socket, "image": IMAGE, "waiting_max": 0} | options
    sandbox = Docker(**given)  # pyright: ignore[reportArgumentType]
    try:
        await sandbox.open()
        yield sandbox
    finally:
        await sandbox.close()
    await until_there_are(docker, 0)


async def until_there_are(docker: DockerEngine, count: int) -> list[str]:
    """Wait until the engine has exactly so many containers."""

    def found() -> tuple[list[str]] | None:
        there = docker.containers()
        return (there,) if len(there) == count else None

    (there,) = await asyncio.to_thread(until, found, f"there are {count} containers")
    return there


async def until_they_wait(sandbox: Docker, count: int) -> set[str]:
    """Wait until so many containers wait for a program; their ids."""
    await asyncio.to_thread(until, lambda: len(waiting(sandbox)) == count, "so many wait")
    return waiting(sandbox)


def waiting(sandbox: Docker) -> set[str]:
    return {each.identity for each in (tuple(sandbox._pool._waiting) if sandbox._pool else ())}


def inspect(docker: DockerEngine, container: str) -> dict[str, dict[str, object]]:
    return json.loads(docker.ask("inspect", container))[0]


async def test_what_a_container_is_allowed(docker: DockerEngine) -> None:
    watcher, cancel = Watcher(), asyncio.Event()
    limits = Limits(memory_mb=100, disk_mb=20, processes=7, cpus=0.5)
    async with opened(docker) as sandbox, asyncio.TaskGroup() as tasks:
        job = tasks.create_task(run(sandbox, WAITS, limits, cancel=cancel, watcher=watcher))
        await watcher.until(b"ready")
        (container,) = docker.containers()
        found = inspect(docker, container)
        cancel.set()
    assert job.result().end == (None, Reason.CANCELLED)
    host, config = found["HostConfig"], found["Config"]
    expected = {
        "AutoRemove": True, "CapDrop": ["ALL"], "CapAdd": None, "CpuQuota": 50_000,
        "CpuShares": 512, "Devices": None, "IpcMode": "none", "NetworkMode": "none",
        "PidsLimit": 9, "Privileged": False, "ReadonlyRootfs": True, "Binds": None,
    }  # fmt: skip
    assert {name: host[name] for name in expected} == expected
    assert host["Memory"] == host["MemorySwap"] == (100 + 20 + 8) << 20
    assert host["LogConfig"] == {"Type": "none", "Config": {}}
    assert "no-new-privileges" in str(host["SecurityOpt"])
    assert int(str(config["User"]).split(":")[0]) >= 1000


async def test_containers_wait_and_are_used_once(docker: DockerEngine) -> None:
    names = Program("bash", "ls -A /tmp /work | grep main; touch /tmp/x /work/x")
    async with opened(docker, waiting_max=2) as sandbox:
        first = await until_they_wait(sandbox, 2)
        ran = await run(sandbox, names, Limits())
        second = await until_they_wait(sandbox, 2)
        again = await run(sandbox, names, Limits())
    assert ran.stdout == again.stdout == b"main.sh\n", (ran, again)
    assert len(first & second) == 1


async def test_those_that_wait_are_of_the_shape_of_the_last_job(docker: DockerEngine) -> None:
    async with opened(docker, waiting_max=1) as sandbox:
        first = await until_they_wait(sandbox, 1)
        await run(sandbox, Program("bash", "exit 0"), Limits(memory_mb=77))
        await asyncio.to_thread(until, lambda: waiting(sandbox) - first, "another one waits")
        (found,) = await until_they_wait(sandbox, 1)
        memory = inspect(docker, found)["HostConfig"]["Memory"]
    assert memory == (77 + 256 + 8) << 20


async def test_it_says_what_it_enforces(docker: DockerEngine) -> None:
    report = await Docker(socket=docker.socket, image=IMAGE).probe()
    lacks = (Enforcement.IO,)  # which no container engine is told of
    assert (report.backend, report.works, report.lacks) == ("docker", True, lacks), report
    await until_there_are(docker, 0)


async def test_another_runtime_is_asked_for_by_name(docker: DockerEngine) -> None:
    async with opened(docker, runtime="runc") as sandbox:
        assert (await bash(sandbox, "echo fine")).stdout == b"fine\n"
    report = await Docker(socket=docker.socket, image=IMAGE, runtime="nowhere").probe()
    assert not report.works
    assert "nowhere" in report.why_not


async def test_a_container_that_its_job_ends_is_the_jobs_doing(docker: DockerEngine) -> None:
    """It takes the keeper's holder away, and the process that would come in its place."""
    code = (
        "import os, time\n"
        "while True:\n"
        "  for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    try:\n"
        "      if open(f'/proc/{pid}/comm').read() == 'cat\\n': os.kill(int(pid), 9)\n"
        "      if os.fork() == 0: time.sleep(99)\n"
        "    except OSError: pass"
    )
    async with opened(docker) as sandbox:
        ran = await run(sandbox, Program("python", code), Limits(timeout_s=3.0, processes=5))
        assert ran.outcome.reason in {Reason.PROCESS_LIMIT, Reason.EXIT_CODE, Reason.TIMEOUT}, ran
        assert (await bash(sandbox, "echo fine")).stdout == b"fine\n"


async def test_all_dies_with_the_worker_and_the_next_one_sweeps_up(docker: DockerEngine) -> None:
    code = f"""
        import asyncio
        from pathlib import Path
        from gridx.worker.sandbox.base import Enforcement, Limits, Program
        from gridx.worker.sandbox.docker.backend import Docker

        said = asyncio.Event()

        async def main():
            sandbox = Docker(socket=Path("{docker.socket}"), image="{IMAGE}", waiting_max=1)
            await sandbox.open()
            # A job that stops what would notice that the worker is gone.
            job = "for p in /proc/[0-9]*; do grep -qx cat $p/comm && kill -STOP ${{p#/proc/}}; done"
            program = Program("bash", job + "; echo ready; sleep 999")
            hear = lambda stream, piece: said.set()
            limits = Limits(timeout_s=99)
            run = asyncio.ensure_future(
                sandbox.run("a", program, limits, hear, asyncio.Event())
            )
            await said.wait()
            while len(sandbox._pool._waiting) != 1:  # one that is half made would stay as it is
                await asyncio.sleep(0.02)
            print("ready", flush=True)
            await run

        asyncio.run(main())
    """
    with running(sys.executable, "-c", textwrap.dedent(code)) as worker:
        await asyncio.to_thread(worker.wait_for, "ready")
        worker.send_signal(signal.SIGKILL)
        await asyncio.to_thread(worker.wait)
    await until_there_are(docker, 1)  # the one that waited has ended by itself
    async with opened(docker) as sandbox:
        await until_there_are(docker, 0)
        assert (await bash(sandbox, "echo fine")).stdout == b"fine\n"


async def test_what_a_living_worker_uses_is_not_swept(docker: DockerEngine) -> None:
    async with opened(docker, waiting_max=1):
        (waiting,) = await until_there_are(docker, 1)
        other = Docker(socket=docker.socket, image=IMAGE, waiting_max=0)
        await other.open()
        assert await until_there_are(docker, 1) == [waiting]
        await other.close()


async def test_an_engine_that_stops_in_the_middle_of_a_job_and_comes_back(
    docker: DockerEngine,
) -> None:
    watcher = Watcher()
    async with opened(docker, waiting_max=1) as sandbox:
        async with asyncio.TaskGroup() as tasks:
            job = tasks.create_task(run(sandbox, WAITS, watcher=watcher))
            await watcher.until(b"ready")
            await asyncio.to_thread(docker.stop)
        try:
            ended, away = job.result(), await bash(sandbox, "echo fine")
        finally:
            docker.start()  # in this thread: it would end with the one that started it
        assert ended.end == away.end == (None, Reason.SANDBOX_ERROR), (ended, away)
        assert "engine" in ended.outcome.detail
        assert "start it" in away.outcome.detail
        assert (await bash(sandbox, "echo fine")).stdout == b"fine\n"


@pytest.mark.parametrize(
    ("installed", "helps"),
    [
        (["dockerd", "podman"], "sudo systemctl start docker"),
        (["podman"], "systemctl --user start podman.socket"),
        ([], "sudo apt-get install docker.io"),
    ],
)
async def test_an_engine_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: list[str], helps: str
) -> None:
    for name in installed:
        (tmp_path / name).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox = Docker(socket=tmp_path / "docker.sock")
    with pytest.raises(Unavailable, match="does not answer; start it"):
        await sandbox.open()
    report = await sandbox.probe()
    assert (report.works, report.advice) == (False, (helps,))
    assert str(tmp_path) in report.why_not
    await sandbox.close()


async def test_closing_ends_what_runs(docker: DockerEngine) -> None:
    watcher = Watcher()
    async with opened(docker) as sandbox, asyncio.TaskGroup() as tasks:
        job = tasks.create_task(run(sandbox, WAITS, watcher=watcher))
        await watcher.until(b"ready")
        await sandbox.close()
    assert job.result().end == (None, Reason.SANDBOX_ERROR)


async def test_a_run_that_is_abandoned_ends_its_job(docker: DockerEngine) -> None:
    watcher = Watcher()
    async with opened(docker) as sandbox:
        async with asyncio.TaskGroup() as tasks:
            job = tasks.create_task(run(sandbox, WAITS, watcher=watcher))
            await watcher.until(b"ready")
            job.cancel()
        await until_there_are(docker, 0)


@pytest.fixture(scope="module")
def another_image(docker: DockerEngine) -> str:
    """The same files with an environment of its own, and another time with a volume."""
    root = docker.folder / "root.tar"
    docker.import_image("lab/other:1", root, "ENV OF_THE_IMAGE=yes", 'ENTRYPOINT ["false"]')
    docker.import_image("lab/volume:1", root, "VOLUME /var/big")
    return "lab/other:1"


async def test_a_job_runs_in_the_image_it_names(docker: DockerEngine, another_image: str) -> None:
    show = "echo $OF_THE_IMAGE"
    async with opened(docker, images_allowed=["lab/*"]) as sandbox:
        ran = await run(sandbox, Program("bash", show, image=another_image))
        assert (ran.end, ran.stdout) == ((0, None), b"yes\n"), ran
        ran = await run(sandbox, Program("bash", show, image=IMAGE))
        assert (ran.end, ran.stdout) == ((0, None), b"\n"), ran


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ("lab/secret:1", "image lab/secret:1 is not on this worker's list"),
        ("free/missing:1", "image free/missing:1 is not on this machine, and --pull is never"),
        ("free/volume:1", "declares volumes"),
    ],
)
async def test_an_image_that_is_refused(
    docker: DockerEngine, another_image: str, image: str, told: str
) -> None:
    docker.ask("tag", "lab/volume:1", "free/volume:1")
    async with opened(docker, images_allowed=["free/*"]) as sandbox:
        ran = await run(sandbox, Program("bash", "echo ran", image=image))
        assert (ran.end, ran.stdout) == ((None, Reason.SANDBOX_ERROR), b"")
        assert told in ran.outcome.detail
        assert (await bash(sandbox, "echo fine")).stdout == b"fine\n"


@pytest.mark.parametrize("pull", [Pull.MISSING, Pull.ALWAYS])
async def test_an_image_that_cannot_be_pulled(docker: DockerEngine, pull: Pull) -> None:
    name = "127.0.0.1:9/nobody/serves:this"
    async with opened(docker, images_allowed=["127.0.0.1:9/**"]) as sandbox:
        sandbox._rules = type(sandbox._rules)(IMAGE, ("127.0.0.1:9/**",), pull)
        ran = await run(sandbox, Program("bash", "echo ran", image=name))
        assert ran.end == (None, Reason.SANDBOX_ERROR)
        assert "the container engine refused" in ran.outcome.detail, ran


async def test_a_default_image_that_is_missing_is_told_at_once(docker: DockerEngine) -> None:
    sandbox = Docker(socket=docker.socket, image="nobody/has:this")
    with pytest.raises(Unavailable, match="docker pull nobody/has:this"):
        await sandbox.open()
    report = await sandbox.probe()
    assert (report.works, report.advice) == (False, ("docker pull nobody/has:this",))
    await sandbox.close()


async def test_an_ordinary_user_is_told_what_cannot_be_told_apart(docker: DockerEngine) -> None:
    """Who may not look at a container's disk knows neither that it is full nor what it takes."""
    code = f"""
        import asyncio
        from pathlib import Path
        from gridx.worker.sandbox.docker.backend import Docker
        report = asyncio.run(Docker(socket=Path("{docker.socket}"), image="{IMAGE}").probe())
        print(report.works, report.why_not, [each.value for each in report.lacks])
    """
    docker.folder.chmod(0o711)
    docker.socket.chmod(0o666)
    become = Path(__file__).with_name("ordinary_user.py")
    command = (sys.executable, str(become), sys.executable, "-c", textwrap.dedent(code))
    with running(*command, cwd=Path("/")) as probing:
        await asyncio.to_thread(probing.wait)
    docker.socket.chmod(0o660)
    assert probing.stdout == "True  ['memory', 'io', 'disk']\n", probing.output
