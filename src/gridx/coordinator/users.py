"""Users: registration, passwords, tokens, API keys, invitations, suspension.

Secrets are 256 random bits of which only a SHA-256 hash is stored; passwords are kept as Argon2id
hashes, made in two threads with a bounded queue so that a flood of log-ins cannot take the memory.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from gridx.clock import MICROSECONDS, Clock
from gridx.domain.errors import (
    Conflict,
    Denied,
    Detail,
    InvalidInput,
    NotFound,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from gridx.domain.ledger import MINT, Kind, Movement, available, need_issuable
from gridx.domain.page import Page
from gridx.domain.policy import Policy
from gridx.domain.user import (
    ALL_SCOPES,
    ApiKey,
    Principal,
    Role,
    Scope,
    TokenKind,
    User,
)
from gridx.storage import ledger, requests, users
from gridx.storage.database import Connection, Database

T = TypeVar("T")
_CACHE_S = 1.0
_CACHE_MAX = 20_000
_HASHES_WAITING_MAX = 64
_DUMMY = (
    "$argon2id$v=19$m=19456,t=2,p=1$YWFhYWFhYWFhYWFhYWFhYQ$"
    "5uKBcGzC/a+Sa0nuyqSkBlm3rJAuZmzg3Hi1qBfUYrw"
)
"""Verified when the user is unknown, so that the answer takes the same time."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A new user with what it was granted."""

    user: User
    balance: int


@dataclass(frozen=True, slots=True)
class Issued:
    """A log-in token, shown once."""

    token: str
    expires_at: int


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """An API key with its secret, shown once."""

    key: ApiKey
    secret: str


@dataclass(frozen=True, slots=True)
class UserWithBalance:
    """A user and all of its credits."""

    user: User
    balance: int


def secret_hash(secret: str) -> str:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Users:
    """The use cases of people and their tokens."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        policy: Policy,
        *,
        suspended: Callable[[str], Awaitable[None]],
    ) -> None:
        """`suspended` does what follows from a suspension: sockets end, queued jobs too."""
        self._database = database
        self._clock = clock
        self._policy = policy
        self._suspended = suspended
        self._known: dict[str, tuple[Principal, float]] = {}
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="gridx-password")
        self._hashing = 0

    def close(self) -> None:
        """End the hashing threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    # -------------------------------------------------------------- who is asking

    async def authenticate(self, token: str) -> Principal:
        """Who bears this token. Raises `Unauthenticated`.

        An answer is remembered for a second; what is revoked here is forgotten at once.
        """
        hashed = secret_hash(token)
        now_s = self._clock.monotonic()
        known = self._known.get(hashed)
        if known is not None and now_s - known[1] < _CACHE_S:
            who = known[0]
        else:
            found = await self._database.read(lambda c: users.find_principal(c, hashed))
            if found is None:
                raise Unauthenticated("This token is unknown or was revoked: log in again")
            who, suspended = found
            if suspended:
                raise Unauthenticated(f"User {who.user_id} is suspended: ask an administrator")
            if len(self._known) >= _CACHE_MAX:
                self._known.clear()
            self._known[hashed] = (who, now_s)
        if who.expires_at is not None and who.expires_at <= self._clock.now():
            raise Unauthenticated("This token has expired: log in again")
        return who

    def _forget(self) -> None:
        self._known.clear()

    async def rate_limit(self, key: str, per_minute: int) -> None:
        """Count one try of `key`. Raises `RateLimited` beyond `per_minute`."""
        interval_us = 60 * MICROSECONDS // per_minute
        now = self._clock.now()
        allowed = await self._database.write(
            lambda c: requests.allow(c, key, now, interval_us, 60 * MICROSECONDS)
        )
        if not allowed:
            wait_s = interval_us / MICROSECONDS
            raise RateLimited(f"Too many tries: wait {wait_s:.0f} s and try again", wait_s)

    # -------------------------------------------------------------- registration and log-in

    async def register(self, user_id: str, password: str, invite: str | None) -> Registered:
        """A new user, with the initial grant or the invitation's."""
        registration = self._policy.registration
        if registration == "closed":
            raise Denied("Registration is closed here: ask an administrator for an account")
        if registration == "invite" and not invite:
            raise Denied("Registration needs an invitation here: ask an administrator for one")
        hashed = await self._in_thread(lambda: self._hasher.hash(password))
        now = self._clock.now()
        user = User(user_id, Role.USER, suspended=False, created_at=now)

        def operation(connection: Connection) -> Registered:
            if users.lock_user(connection, user_id) is not None:
                raise Conflict(f"The user id {user_id} is taken: choose another")
            grant = self._policy.initial_grant
            if invite:
                good, amount = users.use_invite(connection, secret_hash(invite), user_id, now)
                if not good:
                    raise Denied("This invitation is unknown, used or expired: ask for a new one")
                grant = amount if amount is not None else grant
            return self._insert(connection, user, hashed, grant)

        return await self._database.write(operation)

    def _insert(
        self, connection: Connection, user: User, password_hash: str, grant: int
    ) -> Registered:
        users.insert_user(connection, user, password_hash)
        ledger.create_accounts(connection, user.user_id)
        if grant:
            need_issuable(ledger.issued(connection), grant)
            book = ledger.open_book(connection, [user.user_id])
            target = available(user.user_id)
            book.move(
                Movement(
                    self._clock.new_id(), user.created_at, Kind.GRANT, MINT, target, grant,
                    None, "initial grant",
                )
            )  # fmt: skip
            ledger.post(connection, book)
        return Registered(user, grant)

    async def initialise(self, admin_id: str, password: str) -> bool:
        """Make the first administrator, unless the grid has users; whether it was made."""
        if await self._database.read(users.any_user):
            return False  # without hashing a password for nothing at every start
        hashed = await self._in_thread(lambda: self._hasher.hash(password))
        admin = User(admin_id, Role.ADMIN, suspended=False, created_at=self._clock.now())

        def operation(connection: Connection) -> bool:
            if users.any_user(connection):
                return False
            self._insert(connection, admin, hashed, self._policy.initial_grant)
            return True

        return await self._database.write(operation)

    async def log_in(self, user_id: str, password: str) -> Issued:
        """A log-in token. Raises `Unauthenticated`, `Denied` for a suspended user."""
        stored = await self._database.read(lambda c: users.password_hash_of(c, user_id))
        right = await self._in_thread(lambda: self._matches(stored or _DUMMY, password))
        if stored is None or not right:
            raise Unauthenticated("The user id or the password is wrong")
        return await self.issue(user_id)

    async def issue(self, user_id: str) -> Issued:
        """A log-in token for a user whose identity is certain."""
        now = self._clock.now()
        expires_at = now + round(self._policy.token_lifetime_s * MICROSECONDS)
        secret = self._clock.new_secret()

        def operation(connection: Connection) -> Issued:
            user = users.lock_user(connection, user_id)
            if user is None:
                raise NotFound(f"There is no user {user_id}")
            if user.suspended:
                raise Denied(f"User {user_id} is suspended: ask an administrator")
            who = Principal(
                self._clock.new_id(), TokenKind.LOGIN, user_id, user.role, ALL_SCOPES, expires_at
            )
            users.insert_token(connection, who, secret_hash(secret), now, None)
            return Issued(secret, expires_at)

        return await self._database.write(operation)

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerifyMismatchError, InvalidHashError):
            return False

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._hashing >= _HASHES_WAITING_MAX:
            raise Unavailable("Too many log-ins at this moment: try again shortly")
        self._hashing += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._hashing -= 1

    async def log_out(self, who: Principal) -> None:
        """End the token that was used."""
        who.need_person()
        await self._database.write(lambda c: users.delete_token(c, who.token_id))
        self._forget()

    async def change_password(self, who: Principal, old: str, new: str) -> None:
        """A new password; the user's other log-ins and keys end."""
        if who.kind is not TokenKind.LOGIN:
            raise Denied("A password is changed with a log-in token: log in first")
        stored = await self._database.read(lambda c: users.password_hash_of(c, who.user_id))
        if stored is None or not await self._in_thread(lambda: self._matches(stored, old)):
            raise Denied("The old password is wrong")
        hashed = await self._in_thread(lambda: self._hasher.hash(new))

        def operation(connection: Connection) -> None:
            users.set_password_hash(connection, who.user_id, hashed)
            kinds = [TokenKind.LOGIN, TokenKind.KEY]
            users.delete_tokens_of_user(connection, who.user_id, kinds, keep=who.token_id)

        await self._database.write(operation)
        self._forget()

    # -------------------------------------------------------------- keys

    async def create_key(
        self, who: Principal, name: str, scopes: Sequence[Scope], expires_at: int | None
    ) -> CreatedKey:
        """An API key that may do at most what its maker may."""
        if who.kind is not TokenKind.LOGIN:
            raise Denied("API keys are made with a log-in token only: log in first")
        if Scope.ADMIN in scopes and who.role is not Role.ADMIN:
            raise Denied("Only an administrator makes a key with the scope admin")
        now = self._clock.now()
        if expires_at is not None and expires_at <= now:
            raise InvalidInput("expires_at is in the past")
        secret = self._clock.new_secret()
        key = ApiKey(
            self._clock.new_id(), who.user_id, name, tuple(sorted(set(scopes))), now, expires_at
        )

        def operation(connection: Connection) -> CreatedKey:
            users.lock_user(connection, who.user_id)
            if users.count_keys(connection, who.user_id) >= self._policy.keys_per_user:
                raise Conflict(f"A user has at most {self._policy.keys_per_user} keys: delete one")
            token = Principal(
                key.key_id, TokenKind.KEY, who.user_id, who.role, frozenset(scopes), expires_at
            )
            users.insert_token(connection, token, secret_hash(secret), now, name)
            return CreatedKey(key, secret)

        return await self._database.write(operation)

    async def list_keys(self, who: Principal, limit: int, cursor: str | None) -> Page[ApiKey]:
        """The caller's keys, oldest first."""
        after = _key_cursor(cursor)
        self._need_login(who)
        found = await self._database.read(
            lambda c: users.list_keys(c, who.user_id, limit + 1, after)
        )
        more = len(found) > limit
        found = found[:limit]
        last = f"{found[-1].created_at}.{found[-1].key_id}" if more else None
        return Page(tuple(found), last)

    async def delete_key(self, who: Principal, key_id: str) -> None:
        """End a key of the caller's."""
        self._need_login(who)

        def operation(connection: Connection) -> None:
            key = users.find_key(connection, key_id)
            if key is None:
                raise NotFound("There is no such API key")
            if key.user_id != who.user_id:
                raise Denied("This belongs to another user")
            users.delete_token(connection, key_id)

        await self._database.write(operation)
        self._forget()

    def _need_login(self, who: Principal) -> None:
        if who.kind is not TokenKind.LOGIN:
            raise Denied("API keys are managed with a log-in token only: log in first")

    # -------------------------------------------------------------- administrators

    async def create_invite(self, who: Principal, grant: int | None, expires_at: int | None) -> str:
        """An invitation for one registration."""
        who.need(Scope.ADMIN)
        secret = self._clock.new_secret()
        now = self._clock.now()
        if expires_at is not None and expires_at <= now:
            raise InvalidInput("expires_at is in the past")

        def operation(connection: Connection) -> None:
            users.insert_invite(
                connection,
                secret_hash(secret),
                created_by=who.user_id,
                created_at=now,
                expires_at=expires_at,
                amount=grant,
            )
            users.insert_audit(connection, now, who.user_id, "invite", "an invitation")

        await self._database.write(operation)
        return secret

    async def list_users(
        self, who: Principal, limit: int, cursor: str | None
    ) -> Page[UserWithBalance]:
        """All users, by id."""
        who.need(Scope.ADMIN)

        def operation(connection: Connection) -> list[UserWithBalance]:
            found = users.list_users(connection, limit + 1, cursor)
            balances = ledger.balances_of(connection, [user.user_id for user in found])
            return [UserWithBalance(user, balances[user.user_id].balance) for user in found]

        found = await self._database.read(operation)
        more = len(found) > limit
        found = found[:limit]
        return Page(tuple(found), found[-1].user.user_id if more else None)

    async def suspend(self, who: Principal, user_id: str) -> User:
        """End a user's tokens and sockets and cancel its queued jobs."""
        who.need(Scope.ADMIN)
        if user_id == who.user_id:
            raise Conflict("An administrator cannot suspend themselves")
        user = await self._set_suspended(who, user_id, suspended=True)
        await self._suspended(user_id)
        return user

    async def unsuspend(self, who: Principal, user_id: str) -> User:
        """Let a suspended user in again."""
        return await self._set_suspended(who, user_id, suspended=False)

    async def _set_suspended(self, who: Principal, user_id: str, *, suspended: bool) -> User:
        who.need(Scope.ADMIN)

        def operation(connection: Connection) -> User:
            user = users.lock_user(connection, user_id)
            if user is None:
                raise NotFound(f"There is no user {user_id}")
            users.set_suspended(connection, user_id, suspended)
            if suspended:
                users.delete_tokens_of_user(connection, user_id, [TokenKind.LOGIN])
            action = "suspend" if suspended else "unsuspend"
            users.insert_audit(connection, self._clock.now(), who.user_id, action, user_id)
            return replace(user, suspended=suspended)

        user = await self._database.write(operation)
        self._forget()
        return user


def _key_cursor(cursor: str | None) -> tuple[int, str] | None:
    if cursor is None:
        return None
    at, _, key_id = cursor.partition(".")
    if not (at.isascii() and at.isdigit() and len(at) <= 18 and key_id):
        message = "not a cursor of this list"
        raise InvalidInput(f"cursor: {message}", [Detail("cursor", message)])
    return int(at), key_id
