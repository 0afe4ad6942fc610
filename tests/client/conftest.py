"""One grid for all tests of the SDK, and a user of it."""

import itertools
from collections.abc import Generator
from dataclasses import dataclass

import pytest

from gridx import Client
from gridx.client import calls
from tests.support.grid import PASSWORD, Grid, grid_up

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Account:
    """A user of the grid and a token of theirs."""

    user_id: str
    token: str


@pytest.fixture(scope="package")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Generator[Grid]:
    """A grid with one local worker."""
    with grid_up(tmp_path_factory.mktemp("client") / "data") as it:
        yield it
        with Client(it.url) as stranger:
            token = stranger.call(calls.log_in("admin", PASSWORD)).token
        with Client(it.url, token) as admin:
            assert admin.call(calls.verify_ledger()).ok


@pytest.fixture
def account(grid: Grid) -> Account:
    """A new user with the initial grant."""
    user_id = f"user-{next(_numbers)}"
    with Client(grid.url) as stranger:
        stranger.call(calls.register(user_id, PASSWORD))
        return Account(user_id, stranger.call(calls.log_in(user_id, PASSWORD)).token)


@pytest.fixture
def client(grid: Grid, account: Account) -> Generator[Client]:
    """The blocking client of that user."""
    with Client(grid.url, account.token) as it:
        yield it
