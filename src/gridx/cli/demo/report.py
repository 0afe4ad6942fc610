"""What the demo shows: progress while it runs, then results, who ran what, and the money."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from rich import box
from rich.console import Console, Group
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from gridx.cli import output
from gridx.cli.demo.workload import Work, price_of, statistics_of
from gridx.domain.money import format_credits
from gridx.protocol.http import JobView, LedgerReportView, StatementLineView

SHADES = {"@": "blue", "#": "bright_magenta", "%": "magenta", "x": "bright_red", "*": "red"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo's grid did: each user's jobs in their order, and each user's statement."""

    jobs: Mapping[str, Sequence[JobView]]
    statements: Mapping[str, Sequence[StatementLineView]]
    owners: Mapping[str, str]
    machines: Mapping[str, str]
    ledger: LedgerReportView


@dataclass(slots=True)
class Screen:
    """Prints the demo, with bars that move where there is a terminal."""

    console: Console = field(default_factory=output.console)
    _bars: dict[str, TaskID] = field(default_factory=dict[str, TaskID])
    _progress: Progress | None = None

    def say(self, text: str = "", style: str = "") -> None:
        self.console.print(Text(text, style=style))

    def headline(self, text: str) -> None:
        self.console.print()
        self.console.print(Text(text, style="bold"))

    def progress(self, works: Sequence[Work]) -> AbstractContextManager[object]:
        """Bars for each user's jobs while inside, on a terminal."""
        if not sys.stdout.isatty():
            return nullcontext()
        self._progress = Progress(
            TextColumn("  {task.fields[user]:<6}", style="bold"),
            BarColumn(bar_width=28, complete_style="cyan", finished_style="green"),
            MofNCompleteColumn(),
            TextColumn("{task.description}", style="dim"),
            console=self.console,
        )
        for work in works:
            self._bars[work.user_id] = self._progress.add_task(
                work.title, total=len(work.jobs), user=work.user_id
            )
        return self._progress

    def ended(self, user_id: str, job: JobView, machine: str) -> None:
        """One job is final."""
        if self._progress is not None:
            self._progress.advance(self._bars[user_id])
            return
        ran = output.duration(job.run_s)
        self.say(f"  {user_id:<6} {job.name:<11} {job.status:<9} {ran:>8} on {machine}")

    # -------------------------------------------------------------- at the end

    def results(self, outcome: Outcome) -> None:
        """What the three users wanted to know."""
        texts = {user: [job.stdout for job in jobs] for user, jobs in outcome.jobs.items()}
        self.headline("Results")
        price = price_of(texts["alice"])
        self.say(
            f"  alice  the option is worth {price.estimate:.4f} ± {price.error:.4f} "
            f"({price.paths:,} paths; exactly {price.exact:.4f})"
        )
        found = statistics_of(texts["bob"])
        self.say(f"  bob    {found.words} words in {found.lines} lines; the long ones most often:")
        most = found.often[0][1]
        for word, count in found.often:
            line = Text(f"           {word:<12}")
            line.append("█" * round(count / most * 24), style="cyan").append(f" {count}")
            self.console.print(line)
        self.say("  carol  the Mandelbrot set:")
        rows = "".join(texts["carol"]).splitlines()
        self.console.print(Panel(_picture(rows), box=box.ROUNDED, expand=False))

    def who_ran_what(self, outcome: Outcome) -> None:
        """Machines, whose they are, whose jobs they ran, and what that earned."""
        table = _table(("machine", "owner", "ran for", "jobs", "busy", "earned"), right=3)
        for worker_id, owner in outcome.owners.items():
            ran = [
                (user, job)
                for user, jobs in outcome.jobs.items()
                for job in jobs
                if job.worker_id == worker_id
            ]
            counts = Counter(user for user, _ in ran)
            busy_s = sum(job.run_s or 0.0 for _, job in ran)
            earned = sum(_micro(job.receipt.reward) for _, job in ran if job.receipt)
            table.add_row(
                outcome.machines[worker_id],
                owner,
                ", ".join(f"{user} {count}" for user, count in sorted(counts.items())),
                str(len(ran)),
                f"{busy_s:.2f} s",
                format_credits(earned),
            )
        self.headline("Who ran what")
        self.console.print(Padding(table, (0, 0, 0, 1)))

    def money(self, outcome: Outcome) -> int:
        """Each user's statement, the grid's two accounts, and their sum; gives that sum."""
        kinds = ("grant", "hold", "release", "reward")
        table = _table(("account", "granted", "held", "released", "earned", "balance"), right=1)
        sums = Counter[str]()
        for user, lines in outcome.statements.items():
            parts = {kind: sum(_micro(x.amount) for x in lines if x.kind == kind) for kind in kinds}
            charged = sum(_micro(x.amount) for x in lines if x.kind not in kinds)
            balance = _micro(lines[0].available_after) if lines else 0
            assert sum(parts.values()) + charged == balance, (
                f"the statement of {user} does not add up"
            )
            table.add_row(user, *(_signed(parts[kind]) for kind in kinds), format_credits(balance))
            sums.update(parts)
            sums["balance"] += balance
        receipts = [job.receipt for jobs in outcome.jobs.values() for job in jobs if job.receipt]
        fees = sum(_micro(receipt.fee) for receipt in receipts)
        total = sums["balance"] + fees - sums["grant"]
        table.add_section()
        table.add_row(
            "all users", *(_signed(sums[kind]) for kind in kinds), _signed(sums["balance"])
        )
        table.add_row("grid fees", "", "", "", "", _signed(fees))
        table.add_row("grid mint", "", "", "", "", _signed(-sums["grant"]))
        table.add_section()
        table.add_row(
            Text("sum", style="bold"), "", "", "", "",
            Text(format_credits(total), style="bold green" if total == 0 else "bold red"),
        )  # fmt: skip
        self.headline("The money: what became of everybody's credits")
        self.console.print(Padding(table, (0, 0, 0, 1)))
        return total

    def proof(self, ledger: LedgerReportView) -> None:
        """What `gridx ledger verify` found."""
        counts = f"{ledger.accounts} accounts, {ledger.transfers} transfers, {ledger.holds} holds"
        verdict = "it all adds up" if ledger.ok else "IT DOES NOT ADD UP"
        self.say(f"  ledger verify: {counts}: {verdict}", "green" if ledger.ok else "bold red")
        for difference in ledger.differences:
            self.say(f"    {difference}", "red")


def _picture(rows: Sequence[str]) -> Group:
    lines: list[Text] = []
    for row in rows:
        line = Text(no_wrap=True)
        for character in row:
            line.append(character, style=SHADES.get(character, "dim"))
        lines.append(line)
    return Group(*lines)


def _table(columns: Sequence[str], *, right: int) -> Table:
    """A table whose columns from `right` on are numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", collapse_padding=True)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index >= right else "left", no_wrap=True)
    return table


def _micro(amount: str) -> int:
    whole, _, places = amount.lstrip("-").partition(".")
    size = int(whole) * 1_000_000 + int(places.ljust(6, "0"))
    return -size if amount.startswith("-") else size


def _signed(amount: int) -> str:
    return f"{'+' if amount > 0 else ''}{format_credits(amount)}" if amount else ""
