"""Accounts: balances, statements, transfers, grants, and proving that the ledger is exact."""

from dataclasses import dataclass

from gridx.clock import Clock
from gridx.coordinator.idempotency import IdempotencyKey, once
from gridx.domain.errors import Detail, InvalidInput, NotFound
from gridx.domain.ledger import (
    MINT,
    Balance,
    Kind,
    Movement,
    StatementLine,
    Verification,
    available,
    need_issuable,
)
from gridx.domain.page import Page, number_of_cursor
from gridx.domain.user import Principal, Scope
from gridx.storage import ledger, users
from gridx.storage.database import Connection, Database


@dataclass(frozen=True, slots=True)
class _Moved:
    """A movement in plain values that an idempotency key can keep."""

    transfer_id: str
    at: int


@dataclass(frozen=True, slots=True)
class _Terms:
    """How much is moved from which account, with what note."""

    source: str
    amount: int
    memo: str | None
    key: IdempotencyKey | None


class Accounts:
    """The use cases of credits."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def balance(self, who: Principal, user_id: str) -> Balance:
        """What a user has; one's own, or any for an administrator."""
        who.need(Scope.CREDITS_READ)
        who.need_user(user_id)

        def operation(connection: Connection) -> Balance:
            if users.find_user(connection, user_id) is None:
                raise NotFound(f"There is no user {user_id}")
            return ledger.balances_of(connection, [user_id])[user_id]

        return await self._database.read(operation)

    async def statement(
        self, who: Principal, user_id: str, limit: int, cursor: str | None
    ) -> Page[StatementLine]:
        """Movements of a user's available credits, newest first."""
        before = number_of_cursor(cursor)
        who.need(Scope.CREDITS_READ)
        who.need_user(user_id)

        def operation(connection: Connection) -> list[tuple[int, StatementLine]]:
            if users.find_user(connection, user_id) is None:
                raise NotFound(f"There is no user {user_id}")
            return ledger.statement(connection, user_id, limit + 1, before)

        found = await self._database.read(operation)
        more = len(found) > limit
        found = found[:limit]
        return Page(tuple(line for _, line in found), str(found[-1][0]) if more else None)

    async def transfer(
        self, who: Principal, to: str, amount: int, memo: str | None, key: IdempotencyKey | None
    ) -> Movement:
        """Move the caller's credits to another user. Raises `InsufficientCredits`, `NotFound`."""
        if to == who.user_id:
            message = "credits are transferred to somebody else"
            raise InvalidInput(f"to: {message}", [Detail("to", message)])
        who.need(Scope.CREDITS_TRANSFER)
        source = available(who.user_id)
        return await self._move(who, Kind.TRANSFER, to, _Terms(source, amount, memo, key))

    async def grant(
        self, who: Principal, to: str, amount: int, memo: str | None, key: IdempotencyKey | None
    ) -> Movement:
        """Administrator: issue credits to a user."""
        who.need(Scope.ADMIN)
        return await self._move(who, Kind.GRANT, to, _Terms(MINT, amount, memo, key))

    async def _move(self, who: Principal, kind: Kind, to: str, terms: "_Terms") -> Movement:
        source, amount, memo, key = terms.source, terms.amount, terms.memo, terms.key
        now = self._clock.now()

        def movement(moved: _Moved) -> Movement:
            return Movement(
                moved.transfer_id, moved.at, kind, source, available(to), amount, None, memo
            )

        def operation(connection: Connection) -> Movement:
            def make() -> _Moved:
                parties = {to, who.user_id}
                book = ledger.open_book(connection, parties)
                if users.find_user(connection, to) is None:
                    raise NotFound(f"There is no user {to}")
                if kind is Kind.TRANSFER:
                    book.need(who.user_id, amount)
                else:
                    need_issuable(ledger.issued(connection), amount)
                    users.insert_audit(connection, now, who.user_id, "grant", to)
                moved = _Moved(self._clock.new_id(), now)
                book.move(movement(moved))
                ledger.post(connection, book)
                return moved

            return movement(once(connection, key, now, _Moved, make))

        return await self._database.write(operation)

    async def verify(self, who: Principal) -> Verification:
        """Administrator: recompute everything from the transfers and the jobs, in one snapshot."""
        who.need(Scope.ADMIN)
        return await self._database.read(ledger.verify)
