"""`gridx credits` and `gridx ledger`: what one has, where it went, and the proof that it adds up."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gridx.cli import output
from gridx.cli.command import command, group, runnable
from gridx.cli.remote import Json, Remote, user_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gridx.protocol.http import StatementLineView, TransferView

Of = Annotated[
    str | None, typer.Option("--user", "-u", metavar="NAME", help="Another user (administrators).")
]
To = Annotated[str, typer.Argument(metavar="USER", help="Who gets them.")]
Amount = Annotated[
    str, typer.Argument(metavar="AMOUNT", help="Credits with at most six places, like 12.5.")
]
Memo = Annotated[str | None, typer.Option(metavar="TEXT", help="What it is for.")]


def add_to(app: typer.Typer) -> None:
    """Declare the commands."""
    money = group(
        "credits",
        "Your balance, your statement, and transfers.",
        ["gridx credits", "gridx credits statement", "gridx credits transfer bob 12.5"],
    )
    money.callback(invoke_without_command=True)(runnable(balance_by_default))
    command(money, "balance", examples=["gridx credits balance", "gridx credits balance --json"])(
        balance
    )
    command(
        money, "statement", examples=["gridx credits statement", "gridx credits statement --all"]
    )(statement)
    command(
        money,
        "transfer",
        examples=["gridx credits transfer bob 12.5", "gridx credits transfer bob 1 --memo lunch"],
    )(transfer)
    app.add_typer(money)
    ledger = group("ledger", "The grid's ledger.", ["gridx ledger verify"])
    command(
        ledger,
        "verify",
        examples=[
            "gridx ledger verify                 # ask the coordinator, as an administrator",
            "gridx ledger verify --data DIR      # read the store of `gridx up --data DIR`",
        ],
    )(verify)
    app.add_typer(ledger)


def balance_by_default(context: typer.Context, json: Json = False, *, remote: Remote) -> None:
    if context.invoked_subcommand is None:
        balance(json=json, remote=remote)


def balance(user: Of = None, json: Json = False, *, remote: Remote) -> None:
    """Show what you can spend, and what is held."""
    with remote.client() as client:
        have = client.balance(user_of(client, user))
    if json:
        output.show_json(have)
        return
    output.show_fields(
        [
            ("user", have.user_id),
            ("available", have.available),
            ("held", have.held),
            ("balance", have.balance),
        ]
    )


def statement(
    user: Of = None,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1)] = 20,
    everything: Annotated[bool, typer.Option("--all", "-a", help="All of it.")] = False,
    json: Json = False,
    *,
    remote: Remote,
) -> None:
    """Show the movements of credits, newest first."""
    with remote.client() as client:
        found = client.statement(user_of(client, user))
        lines = list(found if everything else islice(found, limit))
    output.show_json(lines) if json else show_statement(lines)


def show_statement(lines: "Iterable[StatementLineView]") -> None:
    """The table of a statement."""
    output.show_table(
        ("at", "kind", "amount", "available", "with", "job", "memo"),
        [
            (
                line.at[:19].replace("T", " "),
                line.kind,
                f"+{line.amount}" if not line.amount.startswith("-") else line.amount,
                line.available_after,
                line.counterpart,
                line.job_id,
                line.memo,
            )
            for line in lines
        ],
        right=("amount", "available"),
    )


def transfer(
    to: To, amount: Amount, memo: Memo = None, json: Json = False, *, remote: Remote
) -> None:
    """Give credits of your own to another user."""
    with remote.client() as client:
        made = client.transfer(to, amount, memo)
    show_transfer(made, json=json)


def show_transfer(made: "TransferView", *, json: bool) -> None:
    """What was moved, in a line."""
    if json:
        output.show_json(made)
        return
    print(f"{made.amount} credits to {made.to} ({made.id})")


def verify(
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Read the store in this data folder, also while it runs."),
    ] = None,
    json: Json = False,
    *,
    remote: Remote,
) -> int:
    """Prove that the ledger adds up.

    Recomputes every balance and every hold; exits 1 when anything differs."""
    from gridx.client import calls
    from gridx.protocol.http import LedgerReportView

    if data is not None:
        from gridx.cli.service.store import verify_store

        report: LedgerReportView = verify_store(data)
    else:
        with remote.client() as client:
            report = client.call(calls.verify_ledger())
    if json:
        output.show_json(report)
    else:
        counts = f"{report.accounts} accounts, {report.transfers} transfers, {report.holds} holds"
        print(f"{'the ledger adds up' if report.ok else 'THE LEDGER DOES NOT ADD UP'}: {counts}")
        for difference in report.differences:
            print(f"  {difference}")
    return 0 if report.ok else 1
