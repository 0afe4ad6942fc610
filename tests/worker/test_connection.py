"""Addresses, and how long a worker waits before it tries again."""

from itertools import pairwise

import pytest

from gridx.domain.errors import Denied, InvalidInput
from gridx.worker.connection import BACKOFF_MAX_S, Address, backoff_s, refuse_plain


@pytest.mark.parametrize(
    ("text", "base", "socket", "loopback"),
    [
        ("127.0.0.1:8081", "http://127.0.0.1:8081", "ws://127.0.0.1:8081/ws/worker", True),
        ("http://localhost/", "http://localhost", "ws://localhost/ws/worker", True),
        ("ws://[::1]:80", "http://[::1]:80", "ws://[::1]:80/ws/worker", True),
        (
            "HTTPS://Grid.example/x/",
            "https://Grid.example/x",
            "wss://Grid.example/x/ws/worker",
            False,
        ),
        ("wss://10.0.0.1", "https://10.0.0.1", "wss://10.0.0.1/ws/worker", False),
        (" grid:1 ", "http://grid:1", "ws://grid:1/ws/worker", False),
    ],
)
def test_an_address(text: str, base: str, socket: str, loopback: bool) -> None:
    address = Address.parse(text)
    assert (address.base, address.socket, address.loopback) == (base, socket, loopback)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp://a",
        "http://",
        "http://a:99999",
        "http://u:p@a",
        "http://a?x=1",
        "http://a#x",
        "http://[::1",
    ],
)
def test_no_address(text: str) -> None:
    with pytest.raises(InvalidInput, match="no address"):
        Address.parse(text)


@pytest.mark.parametrize("url", ["http://grid", "http://10.0.0.1", "ws://127.0.0.1.example"])
def test_plain_http_is_refused_off_this_machine(url: str) -> None:
    with pytest.raises(Denied, match="--insecure"):
        refuse_plain([Address.parse("https://a"), Address.parse(url)])


def test_plain_http_is_fine_on_this_machine() -> None:
    refuse_plain([Address.parse("http://127.1.2.3:1"), Address.parse("http://localhost")])


def test_backoff_doubles_up_to_its_bound_and_jitter_takes_any_share() -> None:
    bounds = [backoff_s(rounds, 1.0) for rounds in range(1, 40)]
    assert bounds[0] == 1.0
    assert all(b == min(2 * a, BACKOFF_MAX_S) for a, b in pairwise(bounds))
    assert bounds[-1] == BACKOFF_MAX_S
    assert backoff_s(5, 0.0) == 0.0
    assert backoff_s(5, 0.5) == backoff_s(5, 1.0) / 2
