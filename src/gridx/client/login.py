"""Where the coordinator is and who is asking: arguments, then variables, then the stored login.

Owns the file that `gridx login` writes (mode 0600). A stored token is only ever sent to the address
it was got from, and no secret goes over plain HTTP to another machine unless that was asked for.
"""

import ipaddress
import json
import os
import ssl
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gridx.domain.errors import InvalidInput

DEFAULT_URL = "http://127.0.0.1:8081"


@dataclass(frozen=True, slots=True)
class Login:
    """What `gridx login` keeps: `ca` is a file with the authority to trust."""

    url: str
    user_id: str
    token: str
    expires_at: str | None = None
    ca: str | None = None
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A coordinator's address and the caller's token there."""

    url: str
    token: str | None = None
    user_id: str | None = None
    ca: str | None = None
    insecure: bool = False

    def need_safe(self) -> None:
        """Raises `InvalidInput` when a secret sent there could be read on the way."""
        if not self.insecure and self.url.startswith("http://") and not is_loopback(self.url):
            raise InvalidInput(
                f"{self.url} is another machine and the connection is not encrypted: no password "
                "or token is sent there. Use https://, or --insecure (insecure=True) if the "
                "network itself is safe"
            )

    def authorization(self, *, carries_secret: bool) -> dict[str, str]:
        """The bearer token's header; raises `InvalidInput` when a secret would go in the clear."""
        if self.token or carries_secret:
            self.need_safe()
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def tls_context(self) -> ssl.SSLContext | bool:
        """What to verify the coordinator's certificate with."""
        if self.ca is None or not self.url.startswith("https://"):
            return True
        try:
            return ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            why = error.strerror or "it is no PEM certificate"
            raise InvalidInput(f"The certificate file {self.ca} cannot be used: {why}") from None


def find_endpoint(
    url: str | None = None,
    token: str | None = None,
    *,
    ca: str | None = None,
    insecure: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Endpoint:
    """The coordinator to talk to: what was given, then GRIDX_URL and GRIDX_TOKEN, then the login.

    Raises `InvalidInput` for an address that is none, or a login file that cannot be read.
    """
    env = os.environ if environ is None else environ
    login = read_login(env)
    chosen = clean_url(url or env.get("GRIDX_URL") or (login.url if login else DEFAULT_URL))
    secret = token or env.get("GRIDX_TOKEN") or None
    if login is None or login.url != chosen:
        return Endpoint(chosen, secret, None, ca, insecure)
    return Endpoint(
        chosen,
        secret or login.token,
        None if secret else login.user_id,
        ca or login.ca,
        insecure or login.insecure,
    )


def clean_url(text: str) -> str:
    """The address without a trailing slash; raises `InvalidInput` unless it is http or https."""
    try:
        parts = urlsplit(text.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
        parts = None
    if parts is None or not usable or parts.username or parts.query or parts.fragment:
        raise InvalidInput(
            f"{text!r} is no address of a coordinator: write it like {DEFAULT_URL} or "
            "https://grid.example.org"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def is_loopback(url: str) -> bool:
    """Whether the address is this machine itself."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def login_file(environ: Mapping[str, str] | None = None) -> Path:
    """`login.json` in `$GRIDX_CONFIG_DIR`, else in `$XDG_CONFIG_HOME/gridx`."""
    env = os.environ if environ is None else environ
    if folder := env.get("GRIDX_CONFIG_DIR"):
        return Path(folder) / "login.json"
    base = env.get("XDG_CONFIG_HOME")
    home = Path(env["HOME"]) if "HOME" in env else Path.home()
    return (Path(base) if base else home / ".config") / "gridx" / "login.json"


def read_login(environ: Mapping[str, str] | None = None) -> Login | None:
    """The stored login, None when there is none."""
    path = login_file(environ)
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return Login(**stored)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise InvalidInput(
            f"The login in {path} cannot be read ({error}): run `gridx login` again"
        ) from None


def write_login(login: Login, environ: Mapping[str, str] | None = None) -> Path:
    """Store the login for this user's eyes alone, replacing the one before."""
    path = login_file(environ)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        if sys.platform != "win32":
            os.fchmod(descriptor, 0o600)
        json.dump(asdict(login), file, indent=2)
        file.write("\n")
    fresh.replace(path)
    return path


def remove_login(environ: Mapping[str, str] | None = None) -> None:
    """Forget the stored login."""
    login_file(environ).unlink(missing_ok=True)
