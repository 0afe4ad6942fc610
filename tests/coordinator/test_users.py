"""People: registration, passwords, tokens, API keys, invitations, suspension, rates."""

import asyncio
import threading

import pytest

from gridx.coordinator.grid import initialise, issue_local_token
from gridx.coordinator.users import Issued
from gridx.domain.errors import (
    Conflict,
    Denied,
    InvalidInput,
    NotFound,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from gridx.domain.job import JobStatus
from gridx.domain.user import Principal, Role, Scope, TokenKind
from tests.coordinator.driving import GRANT, Driver, finished

PASSWORD = "correct horse"


# ------------------------------------------------------------------ registration and log-in


async def test_register_and_log_in(driver: Driver) -> None:
    users = driver.grid.users
    registered = await users.register("dave", PASSWORD, None)
    assert (registered.user.role, registered.balance) == (Role.USER, GRANT)
    issued = await users.log_in("dave", PASSWORD)
    who = await users.authenticate(issued.token)
    assert (who.user_id, who.kind, who.role) == ("dave", TokenKind.LOGIN, Role.USER)
    assert await driver.available(who) == GRANT
    for user_id, password in (("dave", PASSWORD + "!"), ("nobody", PASSWORD), ("' OR 1=1", "x")):
        with pytest.raises(Unauthenticated, match="user id or the password"):
            await users.log_in(user_id, password)


async def test_a_user_id_is_taken_once_however_many_ask(driver: Driver) -> None:
    other = Driver(driver.policy, driver.clock)
    await other.open()
    grids = [driver.grid, other.grid] * 4
    answers = await asyncio.gather(
        *(grid.users.register("dave", PASSWORD, None) for grid in grids), return_exceptions=True
    )
    assert [isinstance(answer, Conflict) for answer in answers].count(False) == 1
    await other.grid.close()
    assert await driver.available(await driver.login("dave")) == GRANT


async def test_where_registration_is_closed_nobody_comes_in(driver: Driver) -> None:
    await driver.restart(registration="closed")
    with pytest.raises(Denied, match="closed"):
        await driver.grid.users.register("dave", PASSWORD, "an invite")


async def test_an_invitation_lets_one_in_with_its_grant(driver: Driver, admin: Principal) -> None:
    await driver.restart(registration="invite", initial_grant=5)
    users = driver.grid.users
    with pytest.raises(Denied, match="needs an invitation"):
        await users.register("dave", PASSWORD, None)
    with pytest.raises(Denied, match="unknown, used or expired"):
        await users.register("dave", PASSWORD, "made up")
    rich = await users.create_invite(admin, 7_000_000, None)
    poor = await users.create_invite(admin, 0, None)
    plain = await users.create_invite(admin, None, driver.clock.now() + 10)
    assert (await users.register("dave", PASSWORD, rich)).balance == 7_000_000
    assert (await users.register("erin", PASSWORD, poor)).balance == 0
    with pytest.raises(Conflict):
        await users.register("dave", PASSWORD, plain)  # the invitation is not used up by this
    assert (await users.register("frank", PASSWORD, plain)).balance == 5
    for invite in (rich, plain):
        with pytest.raises(Denied, match="unknown, used or expired"):
            await users.register("grace", PASSWORD, invite)


async def test_an_invitation_expires(driver: Driver, admin: Principal) -> None:
    users = driver.grid.users
    invite = await users.create_invite(admin, None, driver.clock.now() + 1_000_000)
    driver.clock.advance(1)
    with pytest.raises(Denied):
        await users.register("dave", PASSWORD, invite)
    with pytest.raises(InvalidInput):
        await users.create_invite(admin, None, driver.clock.now())


async def test_one_invitation_used_by_many_at_once_lets_one_in(
    driver: Driver, admin: Principal
) -> None:
    invite = await driver.grid.users.create_invite(admin, None, None)
    answers = await asyncio.gather(
        *(driver.grid.users.register(f"dave-{n}", PASSWORD, invite) for n in range(4)),
        return_exceptions=True,
    )
    assert [isinstance(answer, Denied) for answer in answers].count(False) == 1


async def test_the_first_administrator_is_made_once(driver: Driver) -> None:
    await driver.grid.close()
    assert await initialise(driver.policy, driver.clock, "root", PASSWORD)
    assert not await initialise(driver.policy, driver.clock, "other", PASSWORD)
    await driver.open()
    who = await driver.grid.users.authenticate(await issue_local_token(driver.grid, "root"))
    assert who.is_admin
    with pytest.raises(NotFound):
        await issue_local_token(driver.grid, "other")


async def test_a_flood_of_log_ins_is_refused_not_queued(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    users, go = driver.grid.users, threading.Event()
    monkeypatch.setattr("gridx.coordinator.users._HASHES_WAITING_MAX", 4)

    def slowly_wrong(stored: str, password: str) -> bool:
        return not go.wait(10)

    monkeypatch.setattr(users, "_matches", slowly_wrong)
    waiting = {asyncio.ensure_future(users.log_in(f"nobody-{n}", PASSWORD)) for n in range(12)}
    refused: set[asyncio.Future[Issued]] = set()
    while len(refused) < 8:
        done, waiting = await asyncio.wait(waiting, timeout=10, return_when="FIRST_COMPLETED")
        refused |= done
    assert {type(one.exception()) for one in refused} == {Unavailable}
    go.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unauthenticated] * 4
    assert users._hashing == 0


# ------------------------------------------------------------------ tokens


async def test_tokens_end(driver: Driver, alice: Principal) -> None:
    users = driver.grid.users
    first, second = await users.issue("alice"), await users.issue("alice")
    who = await users.authenticate(first.token)
    await users.log_out(who)
    with pytest.raises(Unauthenticated, match="unknown or was revoked"):
        await users.authenticate(first.token)
    await users.authenticate(second.token)
    driver.clock.advance(driver.policy.token_lifetime_s)
    with pytest.raises(Unauthenticated, match="expired"):
        await users.authenticate(second.token)
    for token in ("", "x", "' OR '1'='1"):
        with pytest.raises(Unauthenticated):
            await users.authenticate(token)


async def test_what_another_coordinator_revokes_is_noticed_within_a_second(
    driver: Driver, alice: Principal
) -> None:
    other = Driver(driver.policy, driver.clock)
    await other.open()
    token = (await driver.grid.users.issue("alice")).token
    await driver.grid.users.authenticate(token)
    await other.grid.users.log_out(await other.grid.users.authenticate(token))
    driver.clock.advance(1)
    with pytest.raises(Unauthenticated):
        await driver.grid.users.authenticate(token)
    await other.grid.close()


async def test_a_new_password_ends_all_else_but_workers(driver: Driver, bob: Principal) -> None:
    users = driver.grid.users
    await users.register("dave", PASSWORD, None)
    mine = await users.authenticate((await users.log_in("dave", PASSWORD)).token)
    other = (await users.log_in("dave", PASSWORD)).token
    key = (await users.create_key(mine, "k", [Scope.JOBS], None)).secret
    hand = await driver.worker(mine)
    with pytest.raises(Denied, match="old password"):
        await users.change_password(mine, "wrong", "new password")
    await users.change_password(mine, PASSWORD, "new password")
    for token in (other, key):
        with pytest.raises(Unauthenticated):
            await users.authenticate(token)
    await driver.submit(mine)
    await driver.token_of(hand)
    with pytest.raises(Unauthenticated):
        await users.log_in("dave", PASSWORD)
    await users.log_in("dave", "new password")


# ------------------------------------------------------------------ keys


async def test_a_key_may_do_what_its_scopes_say(driver: Driver, alice: Principal) -> None:
    made = await driver.grid.users.create_key(alice, "ci", [Scope.JOBS, Scope.JOBS], None)
    assert (made.key.name, made.key.scopes) == ("ci", (Scope.JOBS,))
    who = await driver.grid.users.authenticate(made.secret)
    await driver.submit(who)
    for refused in (
        driver.grid.accounts.balance(who, "alice"),
        driver.grid.accounts.transfer(who, "bob", 1, None, None),
        driver.worker(who),
        driver.grid.users.create_key(who, "another", [Scope.JOBS], None),
        driver.grid.users.list_keys(who, 10, None),
        driver.grid.users.change_password(who, PASSWORD, PASSWORD),
    ):
        with pytest.raises(Denied):
            await refused


async def test_a_key_is_never_more_than_its_maker(
    driver: Driver, alice: Principal, admin: Principal
) -> None:
    users = driver.grid.users
    with pytest.raises(Denied, match="administrator"):
        await users.create_key(alice, "k", [Scope.ADMIN], None)
    plain = (await users.create_key(admin, "plain", [Scope.JOBS], None)).secret
    assert not (await users.authenticate(plain)).is_admin
    full = (await users.create_key(admin, "full", list(Scope), None)).secret
    assert (await users.authenticate(full)).is_admin


async def test_keys_expire_and_are_deleted(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    users = driver.grid.users
    with pytest.raises(InvalidInput, match="past"):
        await users.create_key(alice, "k", [Scope.JOBS], driver.clock.now())
    short = await users.create_key(alice, "k", [Scope.JOBS], driver.clock.now() + 1_000_000)
    long = await users.create_key(alice, "k", [Scope.JOBS], None)
    driver.clock.advance(1)
    with pytest.raises(Unauthenticated, match="expired"):
        await users.authenticate(short.secret)
    await users.authenticate(long.secret)
    with pytest.raises(Denied):
        await users.delete_key(bob, long.key.key_id)
    await users.delete_key(alice, long.key.key_id)
    with pytest.raises(Unauthenticated):
        await users.authenticate(long.secret)
    for missing in (long.key.key_id, alice.token_id):  # a log-in token is no key
        with pytest.raises(NotFound):
            await users.delete_key(alice, missing)


async def test_keys_are_listed_page_by_page_and_bounded(driver: Driver, alice: Principal) -> None:
    await driver.restart(keys_per_user=5)
    users = driver.grid.users
    made = [await users.create_key(alice, str(n), [Scope.JOBS], None) for n in range(5)]
    with pytest.raises(Conflict, match="at most 5 keys"):
        await users.create_key(alice, "one more", [Scope.JOBS], None)
    seen: list[str] = []
    cursor = None
    while True:
        page = await users.list_keys(alice, 2, cursor)
        seen += [key.key_id for key in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert sorted(seen) == sorted(one.key.key_id for one in made)
    for nonsense in ("", "x", "1", "1.", "-1.x"):
        with pytest.raises(InvalidInput):
            await users.list_keys(alice, 2, nonsense)


# ------------------------------------------------------------------ suspension


async def test_a_suspended_users_tokens_end_and_its_queued_jobs_are_cancelled(
    driver: Driver, alice: Principal, bob: Principal, admin: Principal
) -> None:
    users = driver.grid.users
    login = (await users.issue("alice")).token
    key = (await users.create_key(alice, "k", [Scope.JOBS], None)).secret
    hand = await driver.worker(bob, slots=2)
    jobs = [await driver.submit(alice) for _ in range(4)]
    runs, assigned = await hand.attempts(2)
    await hand.start(runs)
    await users.suspend(admin, "alice")
    for token in (login, key):
        with pytest.raises(Unauthenticated):
            await users.authenticate(token)
    with pytest.raises(Denied, match="suspended"):
        await users.issue("alice")
    await hand.told("take_back", assigned.key)
    states = [(await driver.job(admin, job.job_id)).job.status for job in jobs]
    assert sorted(states) == sorted([JobStatus.RUNNING, *[JobStatus.CANCELLED] * 3])
    # What runs goes on, and is paid.
    driver.clock.advance(1)
    await hand.report(finished(runs.key))
    await hand.told("ack", runs.key)
    assert await driver.available(bob) == GRANT + 9_031
    await users.unsuspend(admin, "alice")
    await users.authenticate(key)
    driver.clock.advance(1)
    with pytest.raises(Unauthenticated):
        await users.authenticate(login)  # a log-in is not given back


async def test_only_an_administrator_suspends_and_not_themselves(
    driver: Driver, alice: Principal, bob: Principal, admin: Principal
) -> None:
    users = driver.grid.users
    for refused in (
        users.suspend(alice, "bob"),
        users.suspend(alice, "alice"),
        users.unsuspend(alice, "bob"),
        users.create_invite(alice, None, None),
        users.list_users(alice, 10, None),
    ):
        with pytest.raises(Denied):
            await refused
    with pytest.raises(Conflict):
        await users.suspend(admin, "admin")
    with pytest.raises(NotFound):
        await users.suspend(admin, "nobody")


async def test_users_are_listed_with_what_they_have(
    driver: Driver, alice: Principal, bob: Principal, admin: Principal
) -> None:
    await driver.submit(alice)
    first = await driver.grid.users.list_users(admin, 2, None)
    rest = await driver.grid.users.list_users(admin, 2, first.next_cursor)
    listed = [(one.user.user_id, one.balance) for one in (*first.items, *rest.items)]
    assert listed == [("admin", GRANT), ("alice", GRANT), ("bob", GRANT)]
    assert rest.next_cursor is None


# ------------------------------------------------------------------ rates


async def test_tries_are_limited_and_come_back(driver: Driver) -> None:
    limit = driver.grid.users.rate_limit
    for _ in range(20):
        await limit("login-address:1.2.3.4", 20)
    with pytest.raises(RateLimited) as refused:
        await limit("login-address:1.2.3.4", 20)
    assert 0 < refused.value.retry_after_s <= 3
    await limit("login-address:5.6.7.8", 20)
    driver.clock.advance(refused.value.retry_after_s)
    await limit("login-address:1.2.3.4", 20)
    with pytest.raises(RateLimited):
        await limit("login-address:1.2.3.4", 20)


async def test_many_tries_at_once_are_counted_one_by_one(driver: Driver) -> None:
    answers = await asyncio.gather(
        *(driver.grid.users.rate_limit("k", 10) for _ in range(40)), return_exceptions=True
    )
    assert [isinstance(answer, RateLimited) for answer in answers].count(False) == 10
