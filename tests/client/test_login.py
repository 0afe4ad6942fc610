"""Where the coordinator is, who is asking, and what may be sent there."""

from pathlib import Path

import pytest

from gridx.client.login import (
    DEFAULT_URL,
    Endpoint,
    Login,
    clean_url,
    find_endpoint,
    is_loopback,
    login_file,
    read_login,
    remove_login,
    write_login,
)
from gridx.domain.errors import InvalidInput

STORED = Login("https://grid.example", "alice", "stored-token", ca="/ca.pem")


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path)}


def test_without_anything_it_is_this_machine(home: dict[str, str]) -> None:
    assert find_endpoint(environ=home) == Endpoint(DEFAULT_URL)


def test_arguments_win_over_variables_and_those_over_the_login(home: dict[str, str]) -> None:
    write_login(STORED, home)
    assert find_endpoint(environ=home).token == "stored-token"
    variables = {**home, "GRIDX_URL": "https://grid.example/", "GRIDX_TOKEN": "variable"}
    assert find_endpoint(environ=variables) == Endpoint(
        "https://grid.example", "variable", None, "/ca.pem"
    )
    given = find_endpoint("http://127.0.0.1:1", "given", environ=variables)
    assert given == Endpoint("http://127.0.0.1:1", "given")


def test_a_stored_token_goes_only_where_it_came_from(home: dict[str, str]) -> None:
    write_login(STORED, home)
    elsewhere = find_endpoint("https://elsewhere.example", environ=home)
    assert (elsewhere.token, elsewhere.user_id, elsewhere.ca) == (None, None, None)


def test_the_login_is_for_its_owner_alone(home: dict[str, str]) -> None:
    path = write_login(STORED, home)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert read_login(home) == STORED
    remove_login(home)
    assert read_login(home) is None


def test_the_folder_can_be_chosen(tmp_path: Path) -> None:
    assert login_file({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}) == Path("/x/gridx/login.json")
    assert login_file({"HOME": "/h"}) == Path("/h/.config/gridx/login.json")
    assert login_file({"GRIDX_CONFIG_DIR": "/c", "HOME": "/h"}) == Path("/c/login.json")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"url": 1}'])
def test_a_broken_login_says_what_to_do(home: dict[str, str], content: str) -> None:
    path = write_login(STORED, home)
    path.write_text(content)
    with pytest.raises(InvalidInput, match="gridx login"):
        find_endpoint(environ=home)


@pytest.mark.parametrize(
    "url", ["", "grid", "ftp://x", "http://", "http://a:b@c", "http://x:0", "http://x:y", "http://[",
            "http://x?q=1"],
)  # fmt: skip
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="no address"):
        clean_url(url)


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8081", True),
        ("http://127.8.8.8", True),
        ("http://localhost", True),
        ("http://[::1]:80", True),
        ("http://127.0.0.1.example.org", False),
        ("http://localhost.example.org", False),
        ("http://10.0.0.1", False),
        ("http://0.0.0.0", False),
    ],
)
def test_loopback_is_this_machine_and_nothing_else(url: str, here: bool) -> None:
    assert is_loopback(url) is here


def test_no_secret_goes_over_plain_http_to_another_machine() -> None:
    far = Endpoint("http://10.0.0.1", "token")
    with pytest.raises(InvalidInput, match="--insecure"):
        far.authorization(carries_secret=False)
    with pytest.raises(InvalidInput, match="--insecure"):
        Endpoint("http://10.0.0.1").authorization(carries_secret=True)
    assert Endpoint("http://10.0.0.1").authorization(carries_secret=False) == {}
    bearer = {"Authorization": "Bearer token"}
    assert Endpoint("https://x", "token").authorization(carries_secret=True) == bearer
    insecure = Endpoint("http://10.0.0.1", "token", insecure=True)
    assert insecure.authorization(carries_secret=True) == bearer


def test_a_certificate_file_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be used"):
        Endpoint("https://x", ca=str(tmp_path / "none.pem")).tls_context()
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(InvalidInput, match="cannot be used"):
        Endpoint("https://x", ca=str(tmp_path / "bad.pem")).tls_context()
