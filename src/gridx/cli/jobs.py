"""Commands about jobs: submit, ps, show, logs, wait, cancel, retry."""

import sys
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from gridx.cli import output
from gridx.cli.command import command
from gridx.cli.remote import Json, Remote
from gridx.cli.run import show_output
from gridx.cli.submission import JobFlags, program, read_batch
from gridx.domain.sandbox import Backend

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gridx.protocol.http import JobSummaryView, JobView

JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, as `gridx ps` shows it.")]
JobIds = Annotated[list[str], typer.Argument(metavar="JOB...", help="Ids of jobs.")]


def add_to(app: typer.Typer) -> None:
    """Declare the commands."""
    command(
        app,
        "submit",
        examples=[
            "gridx submit simulate.py 1000000",
            "gridx submit -c 'echo $SEED' -l bash --env SEED=7 --name seeded",
            "gridx submit --batch jobs.jsonl        # one job a line",
            "gridx wait $(gridx submit train.py)",
        ],
        rest=True,
    )(submit)
    command(
        app,
        "ps",
        examples=[
            "gridx ps",
            "gridx ps --status running",
            "gridx ps --tag nightly --all --json | jq '.[].job_id'",
        ],
    )(ps)
    command(app, "show", examples=["gridx show JOB", "gridx show JOB --json | jq .receipt"])(show)
    command(
        app,
        "logs",
        examples=["gridx logs JOB", "gridx logs -f JOB", "gridx logs JOB --stream stderr"],
    )(logs)
    command(app, "wait", examples=["gridx wait JOB", "gridx wait JOB1 JOB2 --timeout 600"])(wait)
    command(app, "cancel", examples=["gridx cancel JOB", "gridx cancel --batch BATCH"])(cancel)
    command(app, "retry", examples=["gridx retry JOB", "gridx logs -f $(gridx retry JOB)"])(retry)


def submit(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE [ARGS]...", help="The program (- is standard input)."),
    ] = None,
    code: Annotated[
        str | None, typer.Option("-c", metavar="CODE", help="Submit this code instead of a file.")
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Submit all jobs of a JSON or JSONL file, or none."),
    ] = None,
    json: Json = False,
    *,
    flags: JobFlags,
    remote: Remote,
) -> None:
    """Submit a job and print its id."""
    from gridx.client import calls

    if batch is not None:
        if words or code is not None:
            raise typer.BadParameter("--batch takes the place of FILE and -c")
        with remote.client() as client:
            made = client.call(calls.submit_batch(read_batch(batch), client.clock.new_id()))
        if json:
            output.show_json(made)
            return
        print("\n".join(made.job_ids))
        return
    text, language, args = program(code, words or [], flags.language)
    with remote.client() as client:
        request = flags.request(text, language, args)
        answer = client.call(calls.submit(request, client.clock.new_id()))
    if json:
        output.show_json(answer)
        return
    print(answer.job_id)
    if sys.stderr.isatty():
        output.note(output.paint(f"{answer.held} credits are held for it", "dim", sys.stderr))


def ps(
    *,
    status: Annotated[
        str | None, typer.Option(metavar="STATE", help="Only jobs in this state.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only jobs of this name.")
    ] = None,
    tag: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only jobs with this tag.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="BATCH", help="Only jobs of this batch.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1)] = 20,
    everything: Annotated[bool, typer.Option("--all", "-a", help="All of them.")] = False,
    json: Json = False,
    remote: Remote,
) -> None:
    """List your jobs, newest first."""
    with remote.client() as client:
        found = client.jobs(status=status, name=name, tag=tag, batch_id=batch)
        jobs = list(found if everything else islice(found, limit))
        now = client.clock.now()
    if json:
        output.show_json(jobs)
        return
    show_jobs(jobs, now)


def show_jobs(jobs: "Iterable[JobSummaryView]", now: int) -> None:
    """The table of `gridx ps`."""
    output.show_table(
        ("job", "status", "name", "language", "submitted", "ran", "credits"),
        [
            (
                job.job_id,
                job.status if job.status != "failed" else f"failed ({job.reason})",
                job.name,
                job.language,
                output.ago(job.created_at, now),
                output.duration(job.run_s),
                job.cost or f"({job.held})",
            )
            for job in jobs
        ],
        right=("ran", "credits"),
    )


def show(job_id: JobId, json: Json = False, *, remote: Remote) -> None:
    """Show all there is to know about a job."""
    with remote.client() as client:
        view = client.job(job_id).show()
    if json:
        output.show_json(view)
        return
    _show_job(view)


def logs(
    job_id: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job is final.")
    ] = False,
    stream: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only stdout or stderr.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="The bytes as the program wrote them.")
    ] = False,
    *,
    remote: Remote,
) -> None:
    """Print what a job wrote, or follow it while it writes."""
    from gridx.client import calls

    if stream not in (None, "stdout", "stderr"):
        raise typer.BadParameter("--stream is stdout or stderr")
    with remote.client() as client:
        if follow:
            show_output(client, job_id, talks=sys.stderr.isatty(), stream=stream)
        elif raw:
            sys.stdout.buffer.write(client.call(calls.raw_logs(job_id, stream)))
            sys.stdout.flush()
        else:
            output.write(client.job(job_id).logs(stream), sys.stdout)


def wait(
    job_ids: JobIds,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Give up after so long (exit 1).")
    ] = None,
    json: Json = False,
    *,
    remote: Remote,
) -> int:
    """Wait for jobs to end.

    Exits 0 when all of them succeeded, else 1."""
    done: list[JobView] = []
    with remote.client() as client:
        started = client.clock.monotonic()
        for job_id in job_ids:
            spent_s = client.clock.monotonic() - started
            left_s = None if timeout is None else max(0.0, timeout - spent_s)
            view = client.wait(job_id, left_s)
            done.append(view)
            if not json:
                print(f"{view.job_id}  {view.status}{f' ({view.reason})' if view.reason else ''}")
    if json:
        output.show_json(done)
    return 0 if all(view.status == "succeeded" for view in done) else 1


def cancel(
    job_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[JOB]...", help="Ids of jobs.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="BATCH", help="Every unfinished job of this batch.")
    ] = None,
    json: Json = False,
    *,
    remote: Remote,
) -> None:
    """Cancel jobs.

    A running one is told to end, and is killed 5 s later."""
    from gridx.client import calls

    if not job_ids and batch is None:
        raise typer.BadParameter("give the jobs to cancel, or --batch BATCH")
    with remote.client() as client:
        if batch is not None:
            count = client.call(calls.cancel_batch(batch))
            output.show_json(count) if json else print(f"{count.cancelled} jobs cancelled")
        answers = [client.job(job_id).cancel() for job_id in job_ids or ()]
    if json and answers:
        output.show_json(answers)
        return
    for answer in answers:
        print(f"{answer.job_id}  {answer.status if answer.status != 'running' else 'cancelling'}")


def retry(job_id: JobId, json: Json = False, *, remote: Remote) -> None:
    """Submit a finished job again, as a new one."""
    from gridx.client import calls

    with remote.client() as client:
        answer = client.call(calls.retry(job_id, client.clock.new_id()))
    output.show_json(answer) if json else print(answer.job_id)


def _show_job(view: "JobView") -> None:
    limits = view.limits
    output.show_fields(
        [
            ("job", view.job_id),
            ("name", view.name),
            ("tags", ", ".join(view.tags)),
            ("user", view.user_id),
            ("status", f"{view.status} (cancelling)" if _is_ending(view) else view.status),
            ("reason", view.reason),
            ("exit code", view.exit_code),
            ("language", view.language),
            ("asks for", output.amounts(view.resources)),
            ("time limit", output.duration(limits.get("timeout_s"))),
            ("submitted", view.created_at),
            ("started", view.started_at),
            ("finished", view.finished_at),
            ("waited", output.duration(view.queued_s)),
            ("ran", output.duration(view.run_s)),
            ("worker", view.worker_id),
            ("retry of", view.retry_of),
            ("held", view.held),
            ("cost", view.cost),
            ("why", view.receipt.why if view.receipt else None),
        ]
    )
    if view.attempts:
        print()
        _show_attempts(view)
    for name, text in (("stdout", view.stdout), ("stderr", view.stderr)):
        if text:
            print(f"\n{output.paint(name, 'bold')}")
            output.write(text if text.endswith("\n") else text + "\n", sys.stdout)


def _is_ending(view: "JobView") -> bool:
    return view.cancel_requested and view.status == "running"


def _show_attempts(view: "JobView") -> None:
    output.show_table(
        ("attempt", "status", "exit", "worker", "sandbox", "wall", "cpu", "peak memory"),
        [
            (
                each.number,
                each.status if not each.reason else f"{each.status} ({each.reason})",
                each.exit_code,
                each.worker_id,
                output.UNSANDBOXED if each.sandbox == Backend.NONE else each.sandbox,
                output.duration(each.usage.wall_s if each.usage else None),
                output.duration(each.usage.cpu_s if each.usage else None),
                f"{each.usage.peak_memory_mb:.0f} MB" if each.usage else None,
            )
            for each in view.attempts
        ],
        right=("exit", "wall", "cpu", "peak memory"),
    )
