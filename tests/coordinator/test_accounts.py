"""Balances, transfers, grants, statements, and the proof that the ledger is exact."""

import asyncio

import pytest
from sqlalchemy import update

from gridx.coordinator.grid import verify_store
from gridx.coordinator.idempotency import IdempotencyKey
from gridx.domain.errors import (
    Conflict,
    Denied,
    InsufficientCredits,
    InvalidInput,
    KeyReused,
    NotFound,
)
from gridx.domain.ledger import ISSUED_MAX, MINT, Kind, Verification, available
from gridx.domain.money import AMOUNT_MICROCREDITS_MAX
from gridx.domain.user import Principal
from gridx.storage.dialect import make_engine
from gridx.storage.tables import balances
from tests.coordinator.driving import GRANT, HOLD, Driver


def key(body: str = "b", who: str = "alice") -> IdempotencyKey:
    return IdempotencyKey(who, "/credits/transfer", "k", body)


async def test_credits_move_between_users(driver: Driver, alice: Principal, bob: Principal) -> None:
    moved = await driver.grid.accounts.transfer(alice, "bob", 1, "a memo \u2603", None)
    assert (moved.kind, moved.source, moved.target) == (
        Kind.TRANSFER, available("alice"), available("bob"),
    )  # fmt: skip
    assert await driver.available(alice) == GRANT - 1
    assert await driver.available(bob) == GRANT + 1
    for who, amount, other in ((alice, -1, "bob"), (bob, 1, "alice")):
        line = (await driver.grid.accounts.statement(who, who.user_id, 10, None)).items[0]
        assert (line.amount, line.counterpart, line.memo) == (amount, other, "a memo \u2603")
        assert line.transfer_id == moved.transfer_id


async def test_a_transfer_looks_at_what_is_available_not_held(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    await driver.submit(alice)
    with pytest.raises(InsufficientCredits, match=r"Need 100\.000000, have 99\.362500"):
        await driver.grid.accounts.transfer(alice, "bob", GRANT, None, None)
    await driver.grid.accounts.transfer(alice, "bob", GRANT - HOLD, None, None)
    balance = await driver.balance(alice)
    assert (balance.available, balance.held) == (0, HOLD)


async def test_transfers_that_make_no_sense(driver: Driver, alice: Principal) -> None:
    with pytest.raises(NotFound):
        await driver.grid.accounts.transfer(alice, "nobody", 1, None, None)
    with pytest.raises(InvalidInput, match="somebody else"):
        await driver.grid.accounts.transfer(alice, "alice", 1, None, None)
    assert await driver.available(alice) == GRANT


async def test_the_same_transfer_twice_moves_once(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    first = await driver.grid.accounts.transfer(alice, "bob", 5, "m", key())
    driver.clock.advance(10)
    again = await asyncio.gather(
        *(driver.grid.accounts.transfer(alice, "bob", 5, "m", key()) for _ in range(5))
    )
    assert again == [first] * 5
    with pytest.raises(KeyReused):
        await driver.grid.accounts.transfer(alice, "bob", 6, "m", key("other"))
    assert await driver.available(bob) == GRANT + 5


async def test_a_transfer_that_was_refused_may_be_tried_again(
    driver: Driver, bob: Principal, admin: Principal
) -> None:
    poor = await driver.user("poor", 1)
    mine = key(who="poor")
    with pytest.raises(InsufficientCredits):
        await driver.grid.accounts.transfer(poor, "bob", 5, None, mine)
    await driver.grid.accounts.grant(admin, "poor", 5, None, None)
    await driver.grid.accounts.transfer(poor, "bob", 5, None, mine)
    assert await driver.available(poor) == 1


async def test_transfers_there_and_back_at_once_lose_nothing(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    transfer = driver.grid.accounts.transfer
    await asyncio.gather(
        *(transfer(alice, "bob", 3, None, None) for _ in range(50)),
        *(transfer(bob, "alice", 2, None, None) for _ in range(50)),
    )
    assert await driver.available(alice) == GRANT - 50
    assert await driver.available(bob) == GRANT + 50


async def test_grants_are_an_administrators(
    driver: Driver, alice: Principal, admin: Principal
) -> None:
    with pytest.raises(Denied):
        await driver.grid.accounts.grant(alice, "alice", 1, None, None)
    with pytest.raises(NotFound):
        await driver.grid.accounts.grant(admin, "nobody", 1, None, None)
    moved = await driver.grid.accounts.grant(admin, "alice", 7, "welcome", None)
    assert (moved.source, moved.kind) == (MINT, Kind.GRANT)
    await driver.grid.accounts.grant(admin, "admin", 7, None, None)
    assert await driver.available(alice) == GRANT + 7


async def test_balances_are_ones_own(
    driver: Driver, alice: Principal, bob: Principal, admin: Principal
) -> None:
    for look in (
        driver.grid.accounts.balance(bob, "alice"),
        driver.grid.accounts.statement(bob, "alice", 10, None),
        driver.grid.accounts.verify(bob),
    ):
        with pytest.raises(Denied):
            await look
    assert (await driver.grid.accounts.balance(admin, "alice")).available == GRANT
    for missing in (
        driver.grid.accounts.balance(admin, "nobody"),
        driver.grid.accounts.statement(admin, "nobody", 10, None),
    ):
        with pytest.raises(NotFound):
            await missing


async def test_a_statement_is_a_chain_page_by_page(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    hand = await driver.worker(bob)
    for _ in range(3):
        await driver.submit(alice)
        await hand.run(await hand.attempt())
    for who in (alice, bob):
        lines = (await driver.grid.accounts.statement(who, who.user_id, 500, None)).items
        paged: list[object] = []
        cursor = None
        while True:
            page = await driver.grid.accounts.statement(who, who.user_id, 2, cursor)
            paged += page.items
            if (cursor := page.next_cursor) is None:
                break
        assert paged == list(lines)
        after = 0
        for line in reversed(lines):
            after += line.amount
            assert line.available_after == after
        assert after == await driver.available(who)


async def test_verification_sees_one_moment_while_the_grid_works(
    driver: Driver, alice: Principal, bob: Principal, admin: Principal
) -> None:
    hand = await driver.worker(bob, slots=4)
    verified: list[Verification] = []
    for _ in range(5):
        submitting = [asyncio.ensure_future(driver.submit(alice)) for _ in range(4)]
        verified.append(await driver.grid.accounts.verify(admin))
        for attempt in await hand.attempts(4):
            running = asyncio.ensure_future(hand.run(attempt, wall_s=0.1))
            verified.append(await driver.grid.accounts.verify(admin))
            await running
        await asyncio.gather(*submitting)
    assert all(one.ok for one in verified)
    assert verified[-1].accounts == 8


async def test_a_difference_is_found_in_the_store_itself(
    driver: Driver, alice: Principal, admin: Principal
) -> None:
    def change(by: int) -> None:
        engine = make_engine(driver.policy.storage_url, 1)
        with engine.begin() as connection:
            connection.execute(
                update(balances)
                .where(balances.c.account == available("alice"))
                .values(amount=balances.c.amount + by)
            )
        engine.dispose()

    await asyncio.to_thread(change, 1)
    verified = await driver.grid.accounts.verify(admin)
    assert verified.differences == (
        "alice:available: the balance is 100.000001, its transfers make 100.000000",
    )
    assert await asyncio.to_thread(verify_store, driver.policy) == verified
    await asyncio.to_thread(change, -1)


async def test_a_grid_issues_no_more_than_its_columns_hold(
    driver: Driver, admin: Principal, alice: Principal, bob: Principal
) -> None:
    accounts = driver.grid.accounts
    left = ISSUED_MAX - (await issued(driver, admin, alice, bob))
    grants = [AMOUNT_MICROCREDITS_MAX] * (left // AMOUNT_MICROCREDITS_MAX)
    for amount in (*grants, left - sum(grants)):
        await accounts.grant(admin, "alice", amount, None, None)
    for who in ("alice", "bob"):
        with pytest.raises(Conflict, match=r"may issue 4611686018427\.387904 in all"):
            await accounts.grant(admin, who, 1, None, None)
    with pytest.raises(Conflict, match="may issue"):
        await driver.grid.users.register("carol", "correct horse", None)
    assert await issued(driver, admin, alice, bob) == ISSUED_MAX
    # What passes through an account may be more than a column holds.
    for _ in range(3):
        rich = await driver.available(alice)
        await accounts.transfer(alice, "bob", rich, None, None)
        assert await driver.available(bob) > rich
        await accounts.transfer(bob, "alice", rich, None, None)
    await driver.submit(alice)
    await driver.submit(bob)
    verified = await accounts.verify(admin)
    assert verified.ok, verified.differences
    assert await issued(driver, admin, alice, bob) == ISSUED_MAX


async def issued(driver: Driver, *everybody: Principal) -> int:
    return sum([(await driver.balance(who)).balance for who in everybody])


async def test_two_who_grant_at_once_do_not_issue_too_much(
    driver: Driver, admin: Principal, alice: Principal, bob: Principal
) -> None:
    left = ISSUED_MAX - (await issued(driver, admin, alice, bob))
    half = left // 2 + 1
    results = await asyncio.gather(
        *(driver.grid.accounts.grant(admin, who, half, None, None) for who in ("alice", "bob")),
        return_exceptions=True,
    )
    assert sorted(isinstance(result, Conflict) for result in results) == [False, True]
    assert await issued(driver, admin, alice, bob) <= ISSUED_MAX
