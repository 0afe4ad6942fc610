"""Users, what a token lets its bearer do, and who may see what."""

from dataclasses import dataclass
from enum import StrEnum

from gridx.domain.errors import Denied


class Role(StrEnum):
    """What a user is to the grid."""

    USER = "user"
    ADMIN = "admin"


class Scope(StrEnum):
    """What an API key may be limited to."""

    JOBS = "jobs"
    WORKERS = "workers"
    CREDITS_READ = "credits:read"
    CREDITS_TRANSFER = "credits:transfer"
    METRICS = "metrics"
    ADMIN = "admin"


class TokenKind(StrEnum):
    """Where a bearer token came from."""

    LOGIN = "login"
    KEY = "key"
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class User:
    """A user as the grid keeps it; never deleted."""

    user_id: str
    role: Role
    suspended: bool
    created_at: int


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A long-lived token with a name; its secret is kept only as a hash."""

    key_id: str
    user_id: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: int
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking, as their token proves it.

    `scopes` is what the token may do at most; the role is the user's at this moment.
    """

    token_id: str
    kind: TokenKind
    user_id: str
    role: Role
    scopes: frozenset[Scope]
    expires_at: int | None
    worker_id: str | None = None

    @property
    def is_admin(self) -> bool:
        """Whether this token may act as an administrator."""
        return self.role is Role.ADMIN and Scope.ADMIN in self.scopes

    def need_person(self) -> None:
        """Raises `Denied` for a worker's token."""
        if self.kind is TokenKind.WORKER:
            raise Denied("A worker's token opens the worker socket only")

    def need(self, scope: Scope) -> None:
        """Raises `Denied` unless this token has `scope` (and the role behind it)."""
        self.need_person()
        if scope not in self.scopes:
            raise Denied(f"This API key lacks the scope {scope}: make one that has it")
        if scope is Scope.ADMIN and self.role is not Role.ADMIN:
            raise Denied("Only an administrator may do this")

    def need_user(self, user_id: str) -> None:
        """Raises `Denied` unless this is `user_id` or an administrator."""
        if self.user_id != user_id and not self.is_admin:
            raise Denied("This belongs to another user")


ALL_SCOPES = frozenset(Scope)
