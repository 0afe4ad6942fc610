"""The client for asyncio, and what it does when the network fails it."""

import asyncio
from collections.abc import AsyncGenerator
from decimal import Decimal

import pytest

from gridx import AsyncClient
from gridx.client.calls import JobRequest
from gridx.client.events import LogEnd, LogPiece
from tests.client.conftest import Account
from tests.support.grid import Grid
from tests.support.proxy import Proxy, proxy_to

COUNTING = """
import itertools, time
for number in itertools.count():
    print(number, flush=True)
    time.sleep(0.05)
"""


@pytest.fixture
async def near(grid: Grid, account: Account) -> AsyncGenerator[AsyncClient]:
    """A client with a network that works."""
    async with AsyncClient(grid.url, account.token) as client:
        yield client


@pytest.fixture
async def proxy(grid: Grid) -> AsyncGenerator[Proxy]:
    async with proxy_to(int(grid.url.rpartition(":")[2])) as it:
        yield it


@pytest.fixture
async def far(proxy: Proxy, account: Account) -> AsyncGenerator[AsyncClient]:
    """A client of the same user behind a network that tests can break."""
    async with AsyncClient(f"http://127.0.0.1:{proxy.port}", account.token) as client:
        yield client


async def test_the_same_road_awaited(near: AsyncClient) -> None:
    job = await near.submit("print(1)", name="one")
    view = await job.wait(30)
    assert (view.status, view.stdout) == ("succeeded", "1\n")
    assert await job.logs() == "1\n"
    assert (await job.show()).name == "one"
    again = await (await job.retry()).wait(30)
    assert again.retry_of == job.job_id
    assert len([each async for each in near.jobs()]) == 2
    assert [worker.owner_id async for worker in near.workers()] == ["admin"]
    await near.transfer("admin", "1")
    spent = sum(Decimal(each.cost or 0) for each in (view, again))
    assert spent > 0
    assert Decimal((await near.balance()).available) == 99 - spent
    kinds = {line.kind async for line in near.statement()}
    assert {"grant", "hold", "release", "transfer"} <= kinds
    assert (await near.status()).coordinators == 1


async def test_a_batch_and_its_cancel(near: AsyncClient) -> None:
    sleeper: JobRequest = {"code": "import time; time.sleep(60)"}
    jobs = await near.submit_batch([sleeper] * 3)
    for job in jobs:
        await job.cancel()
    assert {(await job.wait(30)).status for job in jobs} == {"cancelled"}


async def test_changes_are_told_as_they_happen(near: AsyncClient) -> None:
    job = await near.submit("print(1)")
    seen: list[str] = []
    async for change in near.follow_events(job.job_id):
        seen.append(change.status)
        if change.status == "succeeded":
            break
    assert seen[-2:] == ["running", "succeeded"]


async def test_a_lost_answer_neither_doubles_the_job_nor_its_hold(
    near: AsyncClient, far: AsyncClient, proxy: Proxy, account: Account
) -> None:
    await far.status()
    proxy.freeze(forth=False, back=True)
    async with asyncio.TaskGroup() as group:
        submitting = group.create_task(far.submit("import time; time.sleep(60)"))
        arrived: list[str] = []
        while not arrived:
            arrived = [each.job_id async for each in near.jobs()]
        await proxy.drop()
        proxy.resume()
    job = submitting.result()
    assert [each.job_id async for each in near.jobs()] == arrived == [job.job_id]
    assert (await near.balance(account.user_id)).held == "0.637500"
    await job.cancel()
    await job.wait(30)


async def test_a_log_is_followed_across_breaks(
    near: AsyncClient, far: AsyncClient, proxy: Proxy
) -> None:
    job = await near.submit(COUNTING)
    text, breaks = "", 0
    async for told in far.follow_logs(job.job_id):
        if isinstance(told, LogEnd):
            assert told.status == "cancelled"
            break
        assert isinstance(told, LogPiece)
        text += told.text
        if breaks < 2 and len(text) > 10 * (breaks + 1):
            breaks += 1
            await proxy.drop()
        elif breaks == 2:  # it writes for as long as that takes
            await near.job(job.job_id).cancel()
            breaks += 1
    assert breaks == 3
    assert text == await job.logs()
    assert "".join(f"{number}\n" for number in range(10_000)).startswith(text)
