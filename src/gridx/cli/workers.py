"""`gridx workers`: what offers to run jobs, and the owner's hand on it."""

from typing import TYPE_CHECKING, Annotated

import typer

from gridx.cli import output
from gridx.cli.command import command, group, runnable
from gridx.cli.remote import Json, Remote
from gridx.domain.errors import Conflict, NotFound
from gridx.domain.ids import is_uuid4

if TYPE_CHECKING:
    from gridx.client.sync import Client
    from gridx.protocol.http import WorkerView

WorkerId = Annotated[
    str, typer.Argument(metavar="WORKER", help="A worker's id, or its name if nobody shares it.")
]


def add_to(app: typer.Typer) -> None:
    """Declare the commands."""
    workers = group(
        "workers",
        "List the workers, and pause, resume or drain your own.",
        ["gridx workers", "gridx workers pause lab-2", "gridx workers --json"],
    )
    workers.callback(invoke_without_command=True)(runnable(list_by_default))
    command(workers, "list", examples=["gridx workers list", "gridx workers list --json"])(
        list_workers
    )
    command(workers, "show", examples=["gridx workers show lab-2"])(show)
    for name, text in (
        ("pause", "Take no more work; what runs goes on."),
        ("resume", "Take work again."),
        ("drain", "Take no more work, finish what runs, then end."),
    ):
        add_change(workers, name, text, name)
    app.add_typer(workers)


def add_change(app: typer.Typer, name: str, text: str, change: str) -> None:
    """Declare a command that changes a worker's state by `change` of the API."""

    def run(worker: WorkerId, json: Json = False, *, remote: Remote) -> None:
        from gridx.client import calls

        with remote.client() as client:
            changed = client.call(calls.change_worker(find_worker(client, worker), change))
        output.show_json(changed) if json else print(f"{changed.name}  {changed.status}")

    run.__doc__ = text
    prefix = app.info.name
    examples = [f"gridx {prefix} {name} WORKER", f"gridx {prefix} {name} lab-2"]
    command(app, name, examples=examples)(run)


def list_by_default(context: typer.Context, json: Json = False, *, remote: Remote) -> None:
    if context.invoked_subcommand is None:
        list_workers(json, remote=remote)


def list_workers(json: Json = False, *, remote: Remote) -> None:
    """List the workers you may see."""
    with remote.client() as client:
        found = list(client.workers())
        now = client.clock.now()
    if json:
        output.show_json(found)
        return
    output.show_table(
        ("worker", "name", "owner", "status", "free cpus", "free MB", "jobs", "seen"),
        [
            (
                worker.worker_id,
                worker.name,
                worker.owner_id,
                _status(worker),
                f"{worker.free.get('cpus', 0):g}/{worker.resources.get('cpus', 0):g}",
                f"{worker.free.get('memory_mb', 0):g}/{worker.resources.get('memory_mb', 0):g}",
                worker.running,
                output.ago(worker.seen_at, now),
            )
            for worker in found
        ],
        right=("free cpus", "free MB", "jobs"),
    )


def show(worker: WorkerId, json: Json = False, *, remote: Remote) -> None:
    """Show all there is to know about a worker."""
    from gridx.client import calls

    with remote.client() as client:
        view = client.call(calls.worker(find_worker(client, worker)))
    output.show_json(view) if json else _show_worker(view)


def find_worker(client: "Client", text: str) -> str:
    """The id of the worker with this id or name."""
    if is_uuid4(text):
        return text
    found = [worker.worker_id for worker in client.workers() if worker.name == text]
    if not found:
        raise NotFound(f"There is no worker named {text!r}: `gridx workers` lists them")
    if len(found) > 1:
        raise Conflict(
            f"{len(found)} workers are named {text!r}: give the id, {' or '.join(found)}"
        )
    return found[0]


def _status(worker: "WorkerView") -> str:
    """Its status, with what keeps it from serving others, and loudly when it has no sandbox."""
    if not worker.admitted:
        status = f"{worker.status} (not admitted)"
    elif worker.serves_others or worker.unsandboxed:
        status = worker.status
    else:
        status = f"{worker.status} (sandbox too weak)"
    return f"{output.UNSANDBOXED} {status}" if worker.unsandboxed else status


def _show_worker(view: "WorkerView") -> None:
    output.show_fields(
        [
            ("worker", view.worker_id),
            ("name", view.name),
            ("owner", view.owner_id),
            ("status", _status(view)),
            ("why", view.why),
            ("admitted", "yes" if view.admitted else "no: it serves its owner only"),
            ("serves", "everybody" if view.serves_others else "its owner only"),
            ("offers", output.amounts(view.resources)),
            ("free", output.amounts(view.free)),
            ("running", view.running),
            ("load", None if view.load is None else f"{view.load:.2f}"),
            ("languages", ", ".join(view.languages)),
            ("sandboxes", ", ".join(view.sandboxes)),
            ("images", ", ".join(view.images)),
            *((f"{name} lacks", ", ".join(them)) for name, them in view.lacks.items() if them),
            ("gpus", ", ".join(view.gpus)),
            ("labels", ", ".join(f"{name}={value}" for name, value in view.labels.items())),
            ("system", f"{view.os}, {view.arch}"),
            ("version", view.version),
            ("since", view.created_at),
            ("seen", view.seen_at),
        ]
    )
