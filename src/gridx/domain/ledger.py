"""The ledger's words: accounts, kinds of movement, and what a movement is.

Each user has two accounts, `available` and `held`; the grid has `mint`, from which grants come (the
only one that goes below zero), and `fees`. A movement takes an amount from one account and puts it
into another, once, for ever; a hold is resolved once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from msgspec import Struct

from gridx.domain.errors import Conflict, InsufficientCredits
from gridx.domain.money import format_credits

MINT = "grid:mint"
FEES = "grid:fees"
ISSUED_MAX = 2**62
"""Micro-credits that a grid may issue in all, half of what a column holds.

No account, and no sum over accounts, can be more: what does not come from the mint was there before.
"""


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


class Movement(Struct, frozen=True):
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


def need_issuable(issued: int, amount: int) -> None:
    """Raises `Conflict` unless a grid that has issued so much may issue `amount` more."""
    if issued + amount > ISSUED_MAX:
        raise Conflict(
            f"This grid has issued {format_credits(issued)} credits and may issue "
            f"{format_credits(ISSUED_MAX)} in all: grant less, or let those who have some transfer it"
        )


class Posting(Struct, frozen=True):
    """A movement with what its two accounts hold after it (None for the grid's own)."""

    movement: Movement
    source_after: int | None
    target_after: int | None


class Book:
    """Users' balances inside one transaction, and the movements made on them so far.

    Opened with the balances of every account it will touch; nothing is stored until the caller
    posts `postings` and `changes`.
    """

    def __init__(self, balances: Mapping[str, int]) -> None:
        self.opened = dict(balances)
        self._balances = dict(balances)
        self.postings: list[Posting] = []

    def balance(self, account: str) -> int:
        """What a user's account holds now; 0 for one that does not exist yet."""
        return self._balances.get(account, 0)

    def need(self, user_id: str, amount: int) -> None:
        """Raises `InsufficientCredits` unless `user_id` can spend `amount`."""
        have = self.balance(available(user_id))
        if have < amount:
            raise InsufficientCredits(
                f"Insufficient credits. Need {format_credits(amount)}, have {format_credits(have)}"
            )

    def move(self, movement: Movement) -> None:
        """Make one movement; the caller has made sure that the source covers it."""
        source_after = self._add(movement.source, -movement.amount)
        target_after = self._add(movement.target, movement.amount)
        self.postings.append(Posting(movement, source_after, target_after))

    def _add(self, account: str, amount: int) -> int | None:
        if is_grids(account):
            return None
        after = self._balances.get(account, 0) + amount
        assert after >= 0, f"{account} would go below zero"
        self._balances[account] = after
        return after

    @property
    def changes(self) -> Iterable[tuple[str, int | None, int]]:
        """`(account, balance before or None when new, balance after)` of each changed account."""
        for account, after in sorted(self._balances.items()):
            before = self.opened.get(account)
            if before != after:
                yield account, before, after
