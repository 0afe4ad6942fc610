"""Credits: balances, statements, transfers, grants, and the proof that the ledger is right."""

from typing import Annotated

from fastapi import Query

from gridx.domain.money import parse_credits
from gridx.protocol import http
from gridx.server.api import views
from gridx.server.api.queries import PageQuery
from gridx.server.operation import Call, Operations, UserPathId

operations = Operations("credits")
"""The operations of this module."""


@operations.add("GET", "/credits/{user_id}", http.BalanceView, refusals=(404,))
async def get_balance(call: Call, user_id: UserPathId) -> http.BalanceView:
    """What a user has; one's own, or anybody's for an administrator."""
    return views.balance(await call.grid.accounts.balance(call.who, user_id))


@operations.add("GET", "/credits/{user_id}/transactions", http.StatementView, refusals=(404,))
async def get_statement(
    call: Call, user_id: UserPathId, query: Annotated[PageQuery, Query()]
) -> http.StatementView:
    """A user's statement, newest first."""
    page = await call.grid.accounts.statement(call.who, user_id, query.limit, query.cursor)
    return http.StatementView(
        items=[views.statement_line(line) for line in page.items], next_cursor=page.next_cursor
    )


@operations.add(
    "POST", "/credits/transfer", http.TransferView,
    status=201, idempotent=True, refusals=(402, 404, 409),
)  # fmt: skip
async def transfer(call: Call, body: http.TransferBody) -> http.TransferView:
    """Give some of one's own credits to another user."""
    amount = parse_credits(body.amount)
    made = await call.grid.accounts.transfer(
        call.who, body.to, amount, body.memo or None, call.idempotency_key()
    )
    return views.movement(made)


@operations.add(
    "POST", "/credits/grant", http.TransferView,
    status=201, idempotent=True, refusals=(404, 409),
)  # fmt: skip
async def grant(call: Call, body: http.TransferBody) -> http.TransferView:
    """An administrator: issue new credits to a user."""
    amount = parse_credits(body.amount)
    made = await call.grid.accounts.grant(
        call.who, body.to, amount, body.memo or None, call.idempotency_key()
    )
    return views.movement(made)


@operations.add("GET", "/admin/ledger/verify", http.LedgerReportView)
async def verify_ledger(call: Call) -> http.LedgerReportView:
    """An administrator: recompute every balance and every hold, from one snapshot."""
    found = await call.grid.accounts.verify(call.who)
    return http.LedgerReportView(
        ok=found.ok,
        accounts=found.accounts,
        transfers=found.transfers,
        holds=found.holds,
        differences=list(found.differences),
    )
