"""The money, counted again: every transfer as it is written, and what each job's hold became."""

from collections import defaultdict

import msgspec

from tests.simulation.story import Story

GRIDS = ("grid:mint", "grid:fees")


class Transfer(msgspec.Struct, array_like=True, frozen=True):
    """A row of `transfers`, in the order of `store.TRANSFER`."""

    kind: str
    source: str
    target: str
    amount: int
    source_after: int | None
    target_after: int | None
    job_id: str | None


class Ledger:
    """Balances and holds, computed from the transfers alone."""

    def __init__(self, story: Story) -> None:
        self.balances: dict[str, int] = defaultdict(int)
        self._of_job: dict[str, dict[tuple[str, str], int]] = defaultdict(lambda: defaultdict(int))
        self._story = story

    def add(self, transfer: Transfer) -> None:
        """One more movement."""
        must = self._story.must
        must(transfer.amount > 0, f"{transfer} moves nothing")
        self.balances[transfer.source] -= transfer.amount
        self.balances[transfer.target] += transfer.amount
        for account, says in (
            (transfer.source, transfer.source_after),
            (transfer.target, transfer.target_after),
        ):
            if account not in GRIDS:
                have = self.balances[account]
                must(have >= 0, f"{account} is below zero: {have} after {transfer}")
                must(have == says, f"{account} has {have} and its line says {says}: {transfer}")
        if transfer.job_id is not None:
            target = transfer.target.partition(":")[0] if transfer.kind == "reward" else ""
            self._of_job[transfer.job_id][transfer.kind, target] += transfer.amount

    def check_open(self, job_id: str, held: int) -> None:
        """A job that is not final has its hold, whole."""
        moved = dict(self._of_job[job_id])
        text = f"job {job_id} is open and its transfers are {moved}, its hold {held}"
        self._story.must(moved == {("hold", ""): held}, text)

    def check_settled(
        self, job_id: str, user_id: str, held: int, cost: int, rewards: dict[str, int]
    ) -> None:
        """The hold of a final job went where it should, to the last micro-credit, once."""
        expected = {("hold", ""): held, ("release", ""): held - cost}
        expected["fee", ""] = cost - sum(rewards.values())
        expected |= {("reward", owner): amount for owner, amount in rewards.items()}
        expected = {what: amount for what, amount in expected.items() if amount}
        moved = dict(self._of_job[job_id])
        text = f"job {job_id} of {user_id}: transfers {moved}, they should be {expected}"
        self._story.must(moved == expected, text)
