"""`gridx demo`: a whole grid in a temporary folder, real work by three users, and the proof.

`workload` says what is done, `stage` is the grid it is done on, `report` shows it.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gridx.cli.command import command

if TYPE_CHECKING:
    from gridx.cli.demo.report import Outcome, Screen
    from gridx.cli.demo.stage import Stage
    from gridx.cli.demo.workload import Work
    from gridx.cli.service.local import WorkerChild
    from gridx.protocol.http import JobView


def add_to(app: typer.Typer) -> None:
    """Declare the command."""
    command(app, "demo", examples=["gridx demo", "gridx demo --keep   # and look around in it"])(
        demo
    )


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Go on serving until Ctrl-C, to look around.")
    ] = False,
) -> int:
    """See a whole grid at work: jobs, workers, money, proof.

    Three users give 27 jobs in three languages to two machines of other people, each job in a
    sandbox; then the results, who ran what, and a ledger that adds up to zero.
    """
    from gridx.cli.service import programs
    from gridx.cli.service.local import WorkerChild
    from gridx.telemetry import configure_logging

    programs.need_coordinator()
    configure_logging("warning")
    children: list[WorkerChild] = []
    try:
        children += [WorkerChild(), WorkerChild()]
        with tempfile.TemporaryDirectory(prefix="gridx-demo-") as folder:
            return programs.run_to_end(_play(Path(folder), children, keep=keep))
    finally:
        for child in children:
            child.close()


async def _play(folder: Path, children: "Sequence[WorkerChild]", *, keep: bool) -> int:
    from gridx.cli.demo.report import Screen
    from gridx.cli.demo.stage import OWNERS, need_no_settings_elsewhere, stage
    from gridx.cli.demo.workload import workload
    from gridx.cli.service.programs import settings_of
    from gridx.cli.service.store import storage_url

    need_no_settings_elsewhere()
    settings = settings_of(storage_url=storage_url(folder), server_port=0)
    works = workload()
    screen = Screen()
    machines = " and ".join(f"{name} of {owner}" for owner, name in OWNERS.items())
    screen.say("Grid-X demo", "bold")
    screen.say(f"A coordinator and two workers, {machines}")
    import asyncio

    async with stage(settings, folder, [work.user_id for work in works], children) as grid:
        count = sum(len(work.jobs) for work in works)
        screen.headline(f"{len(works)} users submit {count} jobs to {grid.url}")
        outcome = await _run(grid, works, screen)
        screen.results(outcome)
        screen.who_ran_what(outcome)
        total = screen.money(outcome)
        screen.proof(outcome.ledger)
        succeeded = all(j.status == "succeeded" for jobs in outcome.jobs.values() for j in jobs)
        if keep:
            screen.headline(f"The grid goes on at {grid.url} until Ctrl-C")
            screen.say(f"  gridx login --url {grid.url} --user admin")
            screen.say(f"  password: {grid.password}")
            await asyncio.Event().wait()
    return 0 if succeeded and total == 0 and outcome.ledger.ok else 1


async def _run(grid: "Stage", works: "Sequence[Work]", screen: "Screen") -> "Outcome":
    """Submit everything, wait for everything, and ask for what is to be shown."""
    import asyncio

    from gridx.cli.demo.report import Outcome
    from gridx.cli.demo.stage import OWNERS
    from gridx.client import calls

    machines = {worker_id: OWNERS[owner] for worker_id, owner in grid.workers.items()}

    async def one(work: "Work") -> "list[JobView]":
        client = grid.clients[work.user_id]
        submitted = await client.submit_batch(work.jobs)

        async def finish(job_id: str) -> "JobView":
            view = await client.wait(job_id)
            screen.ended(work.user_id, view, machines.get(view.worker_id or "", "no machine"))
            return view

        return list(await asyncio.gather(*(finish(job.job_id) for job in submitted)))

    with screen.progress(works):
        done = await asyncio.gather(*(one(work) for work in works))
    statements = {
        user_id: [line async for line in client.statement(user_id)]
        for user_id, client in grid.clients.items()
    }
    return Outcome(
        jobs={work.user_id: views for work, views in zip(works, done, strict=True)},
        statements=statements,
        owners=grid.workers,
        machines=machines,
        ledger=await grid.clients["admin"].call(calls.verify_ledger()),
    )
