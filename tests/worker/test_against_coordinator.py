"""Workers with the real coordinator: enrolment, who is not let in, and jobs over broken networks."""

import asyncio
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from gridx.domain.sandbox import Backend
from gridx.worker.identity import Identity, StateDir
from gridx.worker.sandbox.backends import Choice
from gridx.worker.sandbox.bubblewrap import Bubblewrap
from tests.server.running import PASSWORD, Api, Running, running, settings_for
from tests.support.processes import free_port, wake
from tests.support.proxy import proxy_to
from tests.worker.conftest import RunningWorker, StartWorker, ended_in
from tests.worker.coordinator import WAIT_S
from tests.worker.frames import WORKER

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def grid(tmp_path: Path) -> Generator[Running]:
    with running(settings_for(f"sqlite:///{tmp_path / 'grid.db'}")) as grid:
        yield grid


@pytest.fixture
def alice(grid: Running) -> Api:
    return grid.user("alice")


async def until_status(api: Api, job_id: str, *statuses: str) -> dict[str, Any]:
    """The job once it is in one of `statuses`; the API's own wait is for final ones only."""
    async with asyncio.timeout(WAIT_S):
        while True:
            answer = await asyncio.to_thread(api.get, f"/jobs/{job_id}/wait?timeout_s=0.05")
            job: dict[str, Any] = answer.json()
            if job["status"] in statuses:
                return job


async def done(api: Api, job_id: str) -> dict[str, Any]:
    answer = await asyncio.to_thread(api.get, f"/jobs/{job_id}/wait?timeout_s=60")
    job: dict[str, Any] = answer.json()
    assert job["finished_at"] is not None, job
    return job


async def submit(api: Api, code: str, **spec: Any) -> str:
    return await asyncio.to_thread(lambda: api.submit(code=code, **spec))


async def connected(api: Api, count: int = 1) -> list[dict[str, Any]]:
    """The user's workers that are there, once they are `count`."""
    async with asyncio.timeout(WAIT_S):
        while True:
            answer = await asyncio.to_thread(api.get, "/workers")
            online = [w for w in answer.json()["items"] if w["status"] != "offline"]
            if len(online) == count:
                return online


def verify(grid: Running) -> None:
    assert grid.admin.get("/admin/ledger/verify").json()["ok"]


async def last_words(worker: RunningWorker, capture: Capture) -> str:
    assert await worker.exit_code() == 1
    return capture.readouterr().err.splitlines()[-1]


WITH_PASSWORD: dict[str, Any] = {"user_id": "alice", "password": PASSWORD}


# ---------------------------------------------------------------------------------- enrolment


async def test_a_password_enrols_once_and_is_not_needed_again(
    grid: Running, alice: Api, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker(grid.url, **WITH_PASSWORD)
    [first] = await connected(alice)
    job = await done(alice, await submit(alice, "print(6 * 7)"))
    assert (job["status"], job["stdout"]) == ("succeeded", "42\n")
    await worker.stop()
    await connected(alice, 0)

    start_worker(grid.url)
    [second] = await connected(alice)
    assert second["worker_id"] == first["worker_id"]
    for path in (tmp_path / "state").rglob("*"):
        assert path.is_dir() or PASSWORD.encode() not in path.read_bytes()


async def test_what_its_sandbox_cannot_enforce_is_shown_and_refused_to_whoever_requires_it(
    grid: Running, alice: Api, start_worker: StartWorker
) -> None:
    start_worker(grid.url, **WITH_PASSWORD)
    [view] = await connected(alice)
    lacks = (await Bubblewrap().probe()).lacks
    assert view["lacks"] == {"bubblewrap": [each.value for each in lacks]}
    held = {"enforces": "files, network"}
    job = await done(alice, await submit(alice, "print(1)", require=held))
    assert job["status"] == "succeeded"
    for each in lacks:
        job_id = await submit(alice, "print(1)", require={"enforces": each.value})
        await done(alice, await submit(alice, "print(2)"))  # which came after it
        assert alice.get(f"/jobs/{job_id}").json()["status"] == "queued"


async def test_the_stored_token_is_the_workers_and_nobody_elses(
    grid: Running, alice: Api, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker(grid.url, **WITH_PASSWORD)
    await worker.accepted()
    await worker.stop()
    state = StateDir(tmp_path / "state")
    identity = state.load()
    state.close()
    assert identity is not None
    thief = Api(grid.client, "alice", identity.worker_token)
    for path in ("/jobs", "/credits/alice", "/workers", "/auth/keys"):
        assert thief.get(path).status_code in (401, 403), path


@pytest.mark.parametrize("user_id", ["alice", "nobody"])
async def test_a_wrong_password(
    grid: Running, alice: Api, start_worker: StartWorker, capsys: Capture, user_id: str
) -> None:
    worker = start_worker(grid.url, user_id=user_id, password="not the password")
    assert "password is wrong" in await last_words(worker, capsys)


async def test_a_token_of_nobody(grid: Running, start_worker: StartWorker, capsys: Capture) -> None:
    line = await last_words(start_worker(grid.url, token="made-up"), capsys)
    assert "refused this worker" in line


async def test_a_grid_that_is_not_the_one_it_enrolled_in(
    grid: Running, alice: Api, start_worker: StartWorker, capsys: Capture, tmp_path: Path
) -> None:
    state = StateDir(tmp_path / "state")
    state.save(Identity(WORKER, "token-of-another-grid", "alice"))
    state.close()
    assert "enrol again" in await last_words(start_worker(grid.url), capsys)
    start_worker(grid.url, **WITH_PASSWORD)
    [worker] = await connected(alice)
    assert worker["worker_id"] == WORKER


async def test_a_suspended_owner(
    grid: Running, alice: Api, start_worker: StartWorker, capsys: Capture
) -> None:
    worker = start_worker(grid.url, **WITH_PASSWORD)
    await worker.accepted()
    assert grid.admin.post("/users/alice/suspend").status_code == 200
    assert "suspended" in await last_words(worker, capsys)
    assert "suspended" in await last_words(start_worker(grid.url), capsys)
    assert "suspended" in await last_words(start_worker(grid.url, **WITH_PASSWORD), capsys)


async def test_a_banned_worker(
    grid: Running, alice: Api, start_worker: StartWorker, capsys: Capture
) -> None:
    worker = start_worker(grid.url, **WITH_PASSWORD)
    worker_id = await worker.accepted()
    assert grid.admin.post(f"/workers/{worker_id}/ban").status_code == 200
    assert "banned" in await last_words(worker, capsys)
    assert "banned" in await last_words(start_worker(grid.url), capsys)
    assert "banned" in await last_words(start_worker(grid.url, **WITH_PASSWORD), capsys)


async def test_the_same_worker_twice(
    grid: Running, alice: Api, start_worker: StartWorker, tmp_path: Path, capsys: Capture
) -> None:
    worker = start_worker(grid.url, **WITH_PASSWORD)
    await worker.accepted()
    other = tmp_path / "copy"
    other.mkdir()
    (other / "identity.json").write_bytes((tmp_path / "state" / "identity.json").read_bytes())
    start_worker(grid.url, state_dir=other)
    assert "replaced" in await last_words(worker, capsys)
    await connected(alice)


# ---------------------------------------------------------------------------- broken networks


async def test_a_cut_in_the_middle_of_a_job_runs_it_once(
    grid: Running, alice: Api, start_worker: StartWorker
) -> None:
    port = int(grid.url.rpartition(":")[2])
    async with proxy_to(port) as proxy:
        start_worker(f"http://127.0.0.1:{proxy.port}", **WITH_PASSWORD)
        await connected(alice)
        code = "import time\nfor n in range(20):\n    print(n, flush=True)\n    time.sleep(0.08)\n"
        job_id = await submit(alice, code)
        await until_status(alice, job_id, "running")
        for _ in range(3):
            await proxy.drop()
            await connected(alice)
        await proxy.cut()
        await connected(alice, 0)
        proxy.resume()
        job = await done(alice, job_id)
    assert job["status"] == "succeeded"
    assert job["stdout"] == "".join(f"{n}\n" for n in range(20))
    assert [attempt["status"] for attempt in job["attempts"]] == ["succeeded"]
    verify(grid)


async def test_a_job_that_ends_while_the_coordinator_is_away_is_not_run_again(
    tmp_path: Path, start_worker: StartWorker
) -> None:
    port = free_port()
    settings = settings_for(f"sqlite:///{tmp_path / 'grid.db'}", {"server.port": port})
    nap = f"sleep 1000.{port}"
    with running(settings) as grid:
        start_worker(grid.url, user_id="admin", password=PASSWORD)
        await connected(grid.admin)
        job_id = await submit(grid.admin, f"{nap}; echo done", language="bash")
        await until_status(grid.admin, job_id, "running")
    await asyncio.to_thread(wake, nap)
    await ended_in(tmp_path / "state" / "spool")
    with running(settings) as grid:
        job = await done(grid.admin, job_id)
        assert (job["status"], job["stdout"]) == ("succeeded", "done\n")
        assert len(job["attempts"]) == 1
        verify(grid)


async def test_a_job_nobody_heard_of_since_its_assignment_arrives_whole(
    grid: Running, alice: Api, start_worker: StartWorker, tmp_path: Path
) -> None:
    async with proxy_to(int(grid.url.rpartition(":")[2])) as proxy:
        start_worker(f"http://127.0.0.1:{proxy.port}", **WITH_PASSWORD)
        await connected(alice)
        proxy.freeze(back=False)
        job_id = await submit(alice, "print('all of it')")
        await ended_in(tmp_path / "state" / "spool")
        await proxy.drop()
        proxy.resume()
        job = await done(alice, job_id)
    assert (job["status"], job["stdout"]) == ("succeeded", "all of it\n")
    assert [attempt["sandbox"] for attempt in job["attempts"]] == ["bubblewrap"]
    verify(grid)


async def test_a_worker_without_a_sandbox_runs_its_owners_jobs_only(
    grid: Running, alice: Api, start_worker: StartWorker
) -> None:
    start_worker(grid.url, sandbox=Choice((Backend.NONE,), Backend.NONE), **WITH_PASSWORD)
    (worker,) = await connected(alice)
    assert (worker["sandboxes"], worker["unsandboxed"]) == (["none"], True)
    assert not worker["serves_others"]
    bob = await asyncio.to_thread(grid.user, "bob")
    others = await submit(bob, "print('no')")
    job = await done(alice, await submit(alice, "print('yes')"))
    assert (job["status"], job["stdout"]) == ("succeeded", "yes\n")
    assert [attempt["sandbox"] for attempt in job["attempts"]] == ["none"]
    waits = (await asyncio.to_thread(bob.get, f"/jobs/{others}")).json()
    assert (waits["status"], waits["attempts"]) == ("queued", [])


async def test_a_leaving_worker_hands_its_job_to_another(
    grid: Running, alice: Api, start_worker: StartWorker, tmp_path: Path
) -> None:
    one = start_worker(grid.url, **WITH_PASSWORD)
    other = start_worker(grid.url, state_dir=tmp_path / "other", **WITH_PASSWORD)
    workers = {await worker.accepted(): worker for worker in (one, other)}
    nap = f"sleep 1000.{grid.url.rpartition(':')[2]}"
    job_id = await submit(alice, f"echo here; {nap}; echo there", language="bash")
    job = await until_status(alice, job_id, "running")
    await workers[job["worker_id"]].stop()
    await until_status(alice, job_id, "running")
    await asyncio.to_thread(wake, nap)
    job = await done(alice, job_id)
    assert job["status"] == "succeeded"
    assert [attempt["status"] for attempt in job["attempts"]] == ["lost", "succeeded"]
    assert job["stdout"] == "here\nthere\n"
    verify(grid)


# ------------------------------------------------------------------------------- at the reins


async def test_cancel_ends_a_running_job(
    grid: Running, alice: Api, start_worker: StartWorker
) -> None:
    start_worker(grid.url, **WITH_PASSWORD)
    await connected(alice)
    job_id = await submit(alice, "while True: pass")
    await until_status(alice, job_id, "running")
    assert (await asyncio.to_thread(alice.post, f"/jobs/{job_id}/cancel")).status_code == 200
    assert (await done(alice, job_id))["status"] == "cancelled"
    verify(grid)


async def test_a_paused_worker_takes_nothing_until_it_is_resumed(
    grid: Running, alice: Api, start_worker: StartWorker
) -> None:
    start_worker(grid.url, **WITH_PASSWORD)
    [worker] = await connected(alice)
    path = f"/workers/{worker['worker_id']}"
    assert alice.post(f"{path}/pause").json()["status"] == "paused"
    job_id = await submit(alice, "print(1)")
    answer = await asyncio.to_thread(alice.get, f"/jobs/{job_id}/wait?timeout_s=0.5")
    assert answer.json()["status"] == "queued"
    assert alice.post(f"{path}/resume").json()["status"] == "online"
    assert (await done(alice, job_id))["status"] == "succeeded"


async def test_a_drained_worker_finishes_its_job_and_ends(
    grid: Running, alice: Api, start_worker: StartWorker
) -> None:
    running_worker = start_worker(grid.url, **WITH_PASSWORD)
    [worker] = await connected(alice)
    job_id = await submit(alice, "import time; time.sleep(0.5); print(1)")
    await until_status(alice, job_id, "running")
    assert alice.post(f"/workers/{worker['worker_id']}/drain").status_code == 200
    assert (await done(alice, job_id))["status"] == "succeeded"
    assert await running_worker.exit_code() == 0
    await connected(alice, 0)
