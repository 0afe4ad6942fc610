"""The ledger's words: accounts, kinds of movement, and what a movement is.

Each user has two accounts, `available` and `held`; the grid has `mint`, from which grants come (the
only one that goes below zero), and `fees`. A movement takes an amount from one account and puts it
into another, once, for ever; a hold is resolved once.
"""

from dataclasses import dataclass
from enum import StrEnum

MINT = "grid:mint"
FEES = "grid:fees"


class Kind(StrEnum):
    """What a movement is for."""

    GRANT = "grant"
    TRANSFER = "transfer"
    HOLD = "hold"
    REWARD = "reward"
    FEE = "fee"
    RELEASE = "release"


def available(user_id: str) -> str:
    """The account a user spends from."""
    return f"{user_id}:available"


def held(user_id: str) -> str:
    """The account that covers a user's unfinished jobs."""
    return f"{user_id}:held"


def owner_of(account: str) -> str:
    """The user of an account (`grid` for the grid's own)."""
    return account.partition(":")[0]


def is_grids(account: str) -> bool:
    """Whether `account` is one of the grid's own, which have no balance row."""
    return account in (MINT, FEES)


@dataclass(frozen=True, slots=True)
class Movement:
    """`amount` micro-credits from one account to another."""

    transfer_id: str
    at: int
    kind: Kind
    source: str
    target: str
    amount: int
    job_id: str | None = None
    memo: str | None = None

    def __post_init__(self) -> None:
        assert self.amount > 0, "a movement moves something"
        assert self.source != self.target, "a movement has two sides"


@dataclass(frozen=True, slots=True)
class Balance:
    """What a user has: `available` to spend, `held` for unfinished jobs, in micro-credits."""

    user_id: str
    available: int
    held: int

    @property
    def balance(self) -> int:
        return self.available + self.held


@dataclass(frozen=True, slots=True)
class StatementLine:
    """A movement as one user sees it: signed, with what was available after it."""

    transfer_id: str
    at: int
    kind: Kind
    amount: int
    available_after: int
    job_id: str | None
    counterpart: str | None
    memo: str | None


@dataclass(frozen=True, slots=True)
class Verification:
    """What recomputing the ledger found."""

    accounts: int
    transfers: int
    holds: int
    differences: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.differences
