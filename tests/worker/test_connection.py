"""Addresses, and how long a worker waits before it tries again."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import pytest

from gridx.clock import ManualClock
from gridx.domain.errors import Denied, InvalidInput, Unavailable
from gridx.worker.connection import (
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    Address,
    Dialer,
    backoff_bound_s,
    refuse_plain,
    trust,
)
from tests.support.processes import free_port


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


def test_backoff_doubles_up_to_its_bound() -> None:
    bounds = [backoff_bound_s(rounds) for rounds in range(1, 40)]
    assert bounds[0] == BACKOFF_FIRST_S
    assert all(b == min(2 * a, BACKOFF_MAX_S) for a, b in pairwise(bounds))
    assert bounds[-1] == BACKOFF_MAX_S


class BackAgain(Exception):
    """The coordinator listens again: the next try would be heard."""


@dataclass
class Leaping(ManualClock):
    """A clock that is moved by whoever sleeps on it, until the coordinator is back."""

    seed: int
    back_s: float

    def __post_init__(self) -> None:
        super().__init__(seed=self.seed)

    async def sleep(self, seconds: float) -> float:
        self.advance(seconds)
        if self.monotonic() >= self.back_s:
            raise BackAgain
        return 0.0


@pytest.mark.parametrize("back_s", [0.0, 1.0, 10.0])
async def test_a_thousand_workers_do_not_come_back_at_once(back_s: float) -> None:
    """All lose their coordinator at one moment and find nobody until it is back."""
    address, tls = Address.parse(f"127.0.0.1:{free_port()}"), trust(None)
    seconds = Counter[int]()
    for seed in range(1_000):
        clock = Leaping(seed, back_s)
        dialer = Dialer([address], "token", tls, clock)
        dialer.accepted()
        dialer.lost(Unavailable("it was killed"))
        with pytest.raises(BackAgain):
            await dialer.dial()
        seconds[int(clock.monotonic() - back_s)] += 1
    assert max(seconds.values()) < 700
    assert max(seconds) < BACKOFF_MAX_S
