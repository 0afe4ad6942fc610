"""The settings tree: what can be set, its defaults, and where a value came from.

Flags win over `GRIDX_SECTION__NAME` variables, those over a TOML file, that over the defaults here.
A name nobody knows is refused, in the file and in the environment. Read only where a program is put
together; what is inside gets the values it needs, not the tree.
"""

import os
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gridx.domain.errors import Detail, InvalidInput
from gridx.domain.sandbox import WEAKEST_SANDBOX, Backend

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

VARIABLES = frozenset(
    {
        "GRIDX_URL",
        "GRIDX_TOKEN",
        "GRIDX_USER",
        "GRIDX_PASSWORD",
        "GRIDX_ADMIN_PASSWORD",
        "GRIDX_CONFIG",
        "GRIDX_CONFIG_DIR",
    }
)
"""Variables of Grid-X's programs that are not settings."""


class Section(BaseModel):
    """Base of the tree's parts."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(Section):
    """Where the coordinator listens and whom it lets in."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8081
    tls_cert: Path | None = None
    tls_key: Path | None = None
    registration: Literal["auto", "open", "invite", "closed"] = "auto"
    trusted_proxies: tuple[str, ...] = ()
    metrics_open: bool = False
    token_lifetime_s: Positive = 30 * 86_400.0
    shutdown_s: Positive = 8.0
    body_bytes_max: Count = 4 * 1024 * 1024
    batch_bytes_max: Count = 64 * 1024 * 1024
    logins_per_minute: Count = 20
    logins_per_minute_loopback: Count = 60
    streams_max: Count = 1_000
    sockets_max: Count = 5_000


class StorageSettings(Section):
    """The database: `sqlite:///path` or `postgresql://...`."""

    url: str = "sqlite:///gridx.db"
    readers: Count = 4
    writers: Count = 2
    """Writer threads on PostgreSQL; SQLite always has one."""
    group_size_max: Count = 1_000


class BusSettings(Section):
    """How coordinators hint at each other: `local://` or `nats://...`."""

    url: str = "local://"


class LeaseSettings(Section):
    """How soon a silent worker loses its attempts."""

    heartbeat_s: Positive = 10.0
    lease_s: Positive = 30.0


class PricingSettings(Section):
    """What a second costs; amounts in credits."""

    per_cpu_second: Annotated[Decimal, Field(gt=0, decimal_places=6, max_digits=15)] = Decimal(
        "0.010000"
    )
    memory_mb_per_cpu: Annotated[Decimal, Field(gt=0)] = Decimal(4096)
    cpus_per_gpu: Annotated[Decimal, Field(ge=0)] = Decimal(4)
    min_cost: Annotated[Decimal, Field(ge=0, decimal_places=6, max_digits=15)] = Decimal("0.005000")
    max_cost: Annotated[Decimal, Field(gt=0, decimal_places=6, max_digits=15)] = Decimal(
        "100.000000"
    )
    reward_ratio: Annotated[Decimal, Field(ge=0, le=1, decimal_places=6)] = Decimal("0.85")
    initial_grant: Annotated[Decimal, Field(ge=0, decimal_places=6, max_digits=15)] | None = None
    """Granted to a new user; 100 on loopback and 0 elsewhere when not set."""


class LimitSettings(Section):
    """Ceilings of what a job may ask for, and bounds on what a user may pile up."""

    timeout_s: Positive = 3_600.0
    output_bytes: Count = 1_048_576
    processes: Count = 64
    queued_jobs_per_user: Count = 1_000_000
    queue_age_s: Positive = 7 * 86_400.0
    keys_per_user: Count = 100
    workers_per_user: Count = 1_000


class WorkersSettings(Section):
    """Which workers are let in, how much one of them may offer, and in what it runs jobs."""

    admission: Literal["auto", "open", "approve"] = "auto"
    cpus_max: Positive = 1_024.0
    memory_mb_max: Count = 16_777_216
    gpus_max: Annotated[int, Field(ge=0)] = 64
    disk_mb_max: Count = 16_777_216
    sandbox_at_least: Backend = WEAKEST_SANDBOX
    """The weakest sandbox in which one person's jobs run on another's worker."""


class LogSettings(Section):
    """How programs log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "plain", "json"] = "auto"


class Settings(Section):
    """The whole tree."""

    server: ServerSettings = ServerSettings()
    storage: StorageSettings = StorageSettings()
    bus: BusSettings = BusSettings()
    leases: LeaseSettings = LeaseSettings()
    pricing: PricingSettings = PricingSettings()
    limits: LimitSettings = LimitSettings()
    workers: WorkersSettings = WorkersSettings()
    log: LogSettings = LogSettings()

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the coordinator, as far as its settings tell."""
        local = self.server.host in ("127.0.0.1", "::1", "localhost") or (
            self.server.host.startswith("127.")
        )
        return local and not self.server.trusted_proxies

    @property
    def registration(self) -> Literal["open", "invite", "closed"]:
        """Who may register, with `auto` resolved."""
        chosen = self.server.registration
        return ("open" if self.on_loopback else "invite") if chosen == "auto" else chosen

    @property
    def admission(self) -> Literal["open", "approve"]:
        """Whether new workers serve others at once, with `auto` resolved."""
        chosen = self.workers.admission
        return ("open" if self.on_loopback else "approve") if chosen == "auto" else chosen

    @property
    def initial_grant(self) -> int:
        """Micro-credits for a self-registered user."""
        chosen = self.pricing.initial_grant
        if chosen is None:
            chosen = Decimal(100) if self.on_loopback else Decimal(0)
        return int(chosen * 1_000_000)


def load_settings(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """The settings that hold, from flags (`{"server.port": 80}`), environment and file.

    `file` defaults to `$GRIDX_CONFIG`. Raises `InvalidInput` naming every value that is wrong and
    every name nobody knows, with where it came from.
    """
    env = os.environ if environ is None else environ
    path = file or (Path(env["GRIDX_CONFIG"]) if "GRIDX_CONFIG" in env else None)
    tree = _from_file(path) if path else {}
    _merge(tree, _from_environment(env))
    for name, value in (flags or {}).items():
        if value is not None:
            section, _, key = name.partition(".")
            tree.setdefault(section, {})[key] = value
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        details = [
            Detail(".".join(str(part) for part in e["loc"]), e["msg"]) for e in error.errors()
        ]
        first = "; ".join(f"{d.field}: {d.message}" for d in details)
        raise InvalidInput(f"These settings are wrong: {first}", details) from None
    if settings.leases.heartbeat_s >= settings.leases.lease_s:
        raise InvalidInput("These settings are wrong: leases.heartbeat_s must be below lease_s")
    if (settings.server.tls_cert is None) != (settings.server.tls_key is None):
        raise InvalidInput("These settings are wrong: tls_cert and tls_key go together")
    return settings


def _from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise InvalidInput(f"The settings file {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The settings file {path} is not TOML: {error}") from None


def _from_environment(env: Mapping[str, str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in env.items():
        if not name.startswith("GRIDX_") or name in VARIABLES:
            continue
        section, _, key = name.removeprefix("GRIDX_").lower().partition("__")
        known = Settings.model_fields.get(section)
        part = known.annotation if known else None
        if not (isinstance(part, type) and issubclass(part, Section) and key in part.model_fields):
            raise InvalidInput(f"Nobody knows the setting {name}: `gridx config` lists all of them")
        is_list = key == "trusted_proxies"
        tree.setdefault(section, {})[key] = (
            tuple(word.strip() for word in value.split(",") if word.strip()) if is_list else value
        )
    return tree


def _merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    for section, values in other.items():
        tree.setdefault(section, {}).update(values)
