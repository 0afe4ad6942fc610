"""Who is asking: the bearer token, the address it comes from, and how often it may try.

An address is that of the peer; only a peer that the settings trust as a proxy may name another one.
"""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.types import Scope

from gridx.domain.errors import Detail, InvalidInput, Unauthenticated

TOKEN_CHARACTERS_MAX = 512


def bearer_token(headers: Mapping[bytes, bytes]) -> str:
    """The token of the `Authorization` header; raises `Unauthenticated` without one."""
    value = headers.get(b"authorization", b"")
    scheme, _, token = value.partition(b" ")
    token = token.strip()
    if not value:
        raise Unauthenticated(
            "This needs a token: log in and send it as 'Authorization: Bearer <token>'"
        )
    if scheme.lower() != b"bearer" or not 0 < len(token) <= TOKEN_CHARACTERS_MAX:
        raise Unauthenticated("The Authorization header is not 'Bearer <token>'")
    try:
        return token.decode("ascii")
    except UnicodeDecodeError:
        raise Unauthenticated("The Authorization header is not 'Bearer <token>'") from None


class Addresses:
    """Tells a client's address, knowing which peers are trusted proxies."""

    def __init__(self, trusted_proxies: Sequence[str]) -> None:
        """Raises `InvalidInput` for a proxy that is neither an address nor a network."""
        try:
            self._trusted = [ip_network(proxy, strict=False) for proxy in trusted_proxies]
        except ValueError as error:
            message = f"{error}: give addresses or networks like 10.0.0.0/8"
            details = [Detail("server.trusted_proxies", message)]
            raise InvalidInput(f"server.trusted_proxies: {message}", details) from None

    def client(self, scope: Scope) -> str:
        """The address of the client of this connection; `unknown` when there is none."""
        peer = (scope.get("client") or ("unknown", 0))[0]
        address = _parsed(peer)
        if not self._trusted or address is None or not self._trusts(address):
            return peer
        named = b",".join(v for k, v in scope["headers"] if k == b"x-forwarded-for")
        # Each proxy appends whom it saw: the last one we have no reason to trust is the client.
        for word in reversed(named.decode("latin-1").split(",")):
            hop = _parsed(word.strip())
            if hop is None:
                break
            address = hop
            if not self._trusts(hop):
                break
        return str(address)

    def _trusts(self, address: IPv4Address | IPv6Address) -> bool:
        return _contained(address, self._trusted)


def rate_key(address: str) -> str:
    """What counts as one address: itself, for IPv6 its /64, which one customer has as a whole."""
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address) and not parsed.is_loopback:
        return str(ip_network((parsed, 64), strict=False))
    return address


def is_loopback(address: str) -> bool:
    """Whether `address` is this machine's own."""
    parsed = _parsed(address)
    return parsed is not None and parsed.is_loopback


def _contained(address: IPv4Address | IPv6Address, networks: Iterable[object]) -> bool:
    return any(address in network for network in networks)  # pyright: ignore[reportOperatorIssue]


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(text)
    except ValueError:
        return None
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed
