"""What is special about jobs on gVisor's kernel; `test_running` and `test_limits` run there too."""

import asyncio
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from gridx.domain.attempt import Reason
from gridx.worker.sandbox.base import Enforcement, Limits, Program, Sandbox, Stream
from gridx.worker.sandbox.cgroups.groups import all_use_bfq, disks
from gridx.worker.sandbox.gvisor import Gvisor
from gridx.worker.sandbox.running import GRACE_S
from tests.worker.sandbox import traces
from tests.worker.sandbox.runs import Watcher, bash, run

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.parametrize("sandbox", ["gvisor"], indirect=True, scope="module"),
]

WAITS = "echo ready; sleep 60"
HERE = os.uname()
KERNEL = Path("/proc/version").read_text().strip()


async def test_the_report(sandbox: Sandbox) -> None:
    report = await sandbox.probe()
    assert (report.backend, report.works, report.why_not) == ("gvisor", True, "")
    weights = {Enforcement.IO} if not all_use_bfq(disks()) else set[Enforcement]()
    groups = {Enforcement.MEMORY, Enforcement.CPU} if os.geteuid() != 0 else set[Enforcement]()
    assert set(report.lacks) == groups | weights
    assert any("Delegate=yes" in hint for hint in report.advice) == bool(groups)


async def test_a_machine_without_runsc(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await sandbox.probe()).works
    monkeypatch.setenv("PATH", "/nonexistent")
    report = await Gvisor().probe()
    assert not report.works
    assert "runsc" in report.why_not
    assert "sudo apt-get install runsc" in report.advice


async def test_a_runsc_of_the_owners_own(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert (await sandbox.probe()).works
    found = shutil.which("runsc")
    assert found is not None
    shutil.copy(found, tmp_path / "runsc")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    own = Gvisor(waiting_max=0)
    await own.open()
    assert (await bash(own, "echo /opt/*")).stdout == b"/opt/runsc\n"
    await own.close()


async def test_a_job_does_not_see_the_machines_kernel(sandbox: Sandbox) -> None:
    ran = await bash(sandbox, "uname -rv; cat /proc/version; dmesg; cat /proc/cmdline")
    assert ran.stdout.startswith(b"4.4.0 ")
    assert b"Starting gVisor..." in ran.stdout
    for told in (HERE.release, HERE.version, KERNEL):
        assert told.encode() not in ran.stdout


async def test_nobody_has_rights_inside_or_outside(sandbox: Sandbox) -> None:
    watcher = Watcher()
    program = Program("bash", f"grep ^Cap /proc/self/status; {WAITS}")
    ours: list[dict[str, str]] = []

    async def look_when_ready() -> None:
        await watcher.until(b"ready")
        ours.extend(map(_status, _of_runsc()))
        cancel.set()

    cancel = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(look_when_ready())
        await run(sandbox, program, cancel=cancel, watcher=watcher)
    lines = watcher.text(Stream.STDOUT).decode().splitlines()
    assert {line.split()[1] for line in lines if line.startswith("Cap")} == {"0" * 16}
    assert len(ours) >= 2, ours  # the gofer, the sentry
    for each in ours:
        assert each["Uid"].split()[0] != "0"
        assert each["NoNewPrivs"] == "1"


async def test_a_cancel_while_the_jobs_kernel_starts(sandbox: Sandbox) -> None:
    cancel = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, cancel.set)
    ran = await run(sandbox, Program("bash", "sleep 60"), cancel=cancel)
    assert ran.end == (None, Reason.CANCELLED)
    assert ran.outcome.usage.wall_s < GRACE_S


@pytest.mark.parametrize("victim", ["runsc-sandbox", "runsc-gofer"])
async def test_what_dies_of_it_harms_one_attempt_only(sandbox: Sandbox, victim: str) -> None:
    watcher, limits = Watcher(), Limits(timeout_s=20.0)
    async with asyncio.TaskGroup() as tasks:
        job = tasks.create_task(run(sandbox, Program("bash", WAITS), limits, watcher=watcher))
        await watcher.until(b"ready")
        (pid,) = _of_runsc(victim)
        os.kill(pid, signal.SIGKILL)
    assert job.result().end == (None, Reason.SANDBOX_ERROR), job.result()
    assert (await bash(sandbox, "echo again")).stdout == b"again\n"


def _of_runsc(name: str = "") -> list[int]:
    """The processes of `runsc` below this one, or those of them that are called `name`."""
    found: list[int] = []
    for pid in traces.descendants(os.getpid()):
        with suppress(OSError):  # it has just ended
            called = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
            if Path(called).name == name or (not name and "runsc" in called):
                found.append(pid)
    return found


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
