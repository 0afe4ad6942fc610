"""`gridx doctor`: what this machine can offer to a grid, and what would help."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from gridx.cli import output
from gridx.cli.command import command
from gridx.cli.remote import Json
from gridx.cli.service.sandboxes import TRUST
from gridx.domain.sandbox import Backend

if TYPE_CHECKING:
    from gridx.worker.probe import MachineReport
    from gridx.worker.sandbox.base import Report


def add_to(app: typer.Typer) -> None:
    """Declare the command."""
    command(app, "doctor", examples=["gridx doctor", "gridx doctor --json"])(doctor)


def doctor(json: Json = False) -> int:
    """Show what this machine can offer to a grid.

    Tries every sandbox out. Exits 1 when none works, because then no worker can run here.
    """
    import asyncio

    from gridx.worker.probe import probe

    report = asyncio.run(probe())
    if json:
        output.show_json(as_data(report))
    else:
        _show(report)
    return 0 if report.works else 1


def as_data(report: "MachineReport") -> dict[str, object]:
    """The report for programs, the strongest sandbox first."""
    return {
        "works": report.works,
        "offer": report.offer,
        "languages": report.languages,
        "gpus": report.gpus,
        "sandboxes": [
            {
                "backend": each.backend,
                "strength": Backend(each.backend).strength,
                "works": each.works,
                "why_not": each.why_not,
                "enforces": sorted(each.enforces),
                "lacks": each.lacks if each.works else (),
                "advice": each.advice,
            }
            for each in report.sandboxes
        ],
    }


def _show(report: "MachineReport") -> None:
    room = report.offer.resources
    gpus = f"{', '.join(report.gpus)} (not offered: no sandbox gives a job one of its own)"
    output.show_fields(
        [
            ("machine", f"{report.offer.os} on {report.offer.arch}"),
            ("processors", f"{room.cpus:g}"),
            ("memory for jobs", f"{room.memory_mb} MB"),
            ("disk for jobs", f"{room.disk_mb} MB, in memory"),
            ("GPUs", gpus if report.gpus else "none"),
            *((each.name, f"{each.version} {each.path}".strip()) for each in report.languages),
        ]
    )
    print()
    output.show_table(
        ("sandbox", "strength", "state", "cannot enforce", "why"),
        [*map(_row, report.sandboxes), _none()],
        right=("strength",),
    )
    if helps := list(_helps(report)):
        print("\nWhat helps")
        output.show_fields(helps)
    if not report.works:
        output.complain("no sandbox works here, so no worker starts: one of the above helps")


def _row(report: "Report") -> tuple[object, ...]:
    lacks = ", ".join(report.lacks) or "nothing is left out"
    return (
        report.backend,
        Backend(report.backend).strength,
        "works" if report.works else "broken",
        lacks if report.works else "",
        report.why_not,
    )


def _none() -> tuple[object, ...]:
    how = f"only with --sandbox none {TRUST}"
    return (
        Backend.NONE.value,
        Backend.NONE.strength,
        output.UNSANDBOXED,
        "all but time and output",
        how,
    )


def _helps(report: "MachineReport") -> Iterator[tuple[str, str]]:
    for each in report.sandboxes:
        for number, hint in enumerate(each.advice):
            yield ("" if number else each.backend), hint
