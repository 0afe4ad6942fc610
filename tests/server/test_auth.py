"""Who may ask: tokens on every path, scopes, open paths, and the order of checks."""

import httpx2
import pytest

from tests.server.running import PASSWORD, Api, Running

ID = "9b2f0f5a-8f4f-4a0e-9d38-0a52b0f6f3aa"
OPEN = {
    ("POST", "/users"), ("POST", "/auth/token"), ("GET", "/health"), ("GET", "/status"),
}  # fmt: skip


def operations(running: Running) -> list[tuple[str, str]]:
    """Every method and path of the API, as its own document lists them."""
    paths = running.client.get("/openapi.json").json()["paths"]
    return [
        (method.upper(), path)
        for path, item in paths.items()
        for method in item
        if method in {"get", "post", "put", "delete", "head", "patch"}
    ]


def filled(path: str, value: str = ID) -> str:
    for name in ("job_id", "batch_id", "worker_id", "key_id", "user_id"):
        path = path.replace(f"{{{name}}}", value)
    return path


def test_the_document_lists_every_path_of_the_contract(shared: Running) -> None:
    assert set(operations(shared)) == {
        ("POST", "/users"), ("GET", "/users"), ("POST", "/users/{user_id}/suspend"),
        ("POST", "/users/{user_id}/unsuspend"), ("POST", "/auth/token"), ("DELETE", "/auth/token"),
        ("GET", "/auth/me"), ("POST", "/auth/password"), ("POST", "/invites"), ("GET", "/auth/keys"),
        ("POST", "/auth/keys"), ("DELETE", "/auth/keys/{key_id}"), ("POST", "/jobs"),
        ("POST", "/jobs/batch"), ("GET", "/jobs"), ("GET", "/jobs/{job_id}"),
        ("GET", "/jobs/{job_id}/logs"), ("GET", "/jobs/{job_id}/events"), ("GET", "/events"),
        ("GET", "/jobs/{job_id}/wait"), ("POST", "/jobs/{job_id}/cancel"),
        ("POST", "/batches/{batch_id}/cancel"), ("POST", "/jobs/{job_id}/retry"),
        ("POST", "/workers/register"), ("GET", "/workers"), ("GET", "/workers/{worker_id}"),
        ("POST", "/workers/{worker_id}/pause"), ("POST", "/workers/{worker_id}/resume"),
        ("POST", "/workers/{worker_id}/drain"), ("POST", "/workers/{worker_id}/suspend"),
        ("POST", "/workers/{worker_id}/unsuspend"), ("POST", "/workers/{worker_id}/ban"),
        ("POST", "/workers/{worker_id}/disconnect"), ("POST", "/workers/{worker_id}/admit"),
        ("POST", "/admin/broadcast"), ("GET", "/admin/ledger/verify"),
        ("GET", "/credits/{user_id}"), ("GET", "/credits/{user_id}/transactions"),
        ("POST", "/credits/transfer"), ("POST", "/credits/grant"), ("GET", "/health"),
        ("GET", "/status"), ("GET", "/metrics"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "authorization",
    [
        None, "", "Bearer", "Bearer nonsense", "Basic YWRtaW46YWRtaW4=",
        "Bearer " + "x" * 5000, "Token abc", "Bearer ü", "Bearer a b",
    ],
)  # fmt: skip
def test_every_path_but_the_open_ones_needs_a_token(
    shared: Running, authorization: str | None
) -> None:
    headers = [] if authorization is None else [(b"Authorization", authorization.encode("latin-1"))]
    before = shared.fingerprint()
    for method, path in operations(shared):
        if (method, path) in OPEN:
            continue
        # An id and a body that are no good either: who asks comes first.
        for url in (filled(path), filled(path, "nonsense")):
            answer = shared.client.request(method, url, headers=headers, content=b"{nonsense")
            assert answer.status_code == 401, (method, url, answer.text)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["code"] == 401
    assert shared.fingerprint() == before


def test_open_paths_do_not_look_at_tokens(shared: Running) -> None:
    headers = {"Authorization": "Bearer nonsense"}
    for path in ("/health", "/status", "/openapi.json", "/docs"):
        assert shared.client.get(path, headers=headers).status_code == 200, path
    body = {"user_id": "admin", "password": PASSWORD}
    assert shared.client.post("/auth/token", json=body, headers=headers).status_code == 200


def test_malformed_ids_are_refused_by_the_name_of_their_kind(shared: Running) -> None:
    kinds = {
        "job_id": "Invalid job ID format",
        "batch_id": "Invalid batch ID format",
        "worker_id": "Invalid worker ID format",
        "key_id": "Invalid key ID format",
        "user_id": "Invalid user ID format",
    }
    tried = 0
    for method, path in operations(shared):
        name = next((name for name in kinds if f"{{{name}}}" in path), None)
        if name is None:
            continue
        for bad in (
            "nonsense%20", "1", ID[:-1], ID + "0", ID.replace("-4", "-1", 1).replace("-", "_") + "!",
            "9b2f0f5a-8f4f-1a0e-9d38-0a52b0f6f3aa!", "%27%20OR%201=1--", "%00", "a" * 65, "%C3%A4",
        ):  # fmt: skip
            if name == "user_id" and bad in ("1", ID[:-1], ID + "0"):
                continue
            answer = shared.admin.call(method, filled(path, bad))
            assert answer.status_code == 400, (method, path, bad, answer.text)
            assert answer.json()["error"] == kinds[name]
            tried += 1
    assert tried > 100


def test_a_uuid_of_another_version_is_malformed(alice: Api) -> None:
    answer = alice.get("/jobs/9b2f0f5a-8f4f-1a0e-9d38-0a52b0f6f3aa")

    assert answer.status_code == 400


def test_checks_come_in_the_order_of_the_contract(shared: Running, alice: Api) -> None:
    client, url = shared.client, f"/users/{alice.user_id}/suspend"
    large = b" " * (4 * 1024 * 1024 + 1)
    # 404 and 405 before everything
    assert client.post("/nothing", content=large).status_code == 404
    assert client.put("/jobs", content=large).status_code == 405
    # 401 before 413
    assert client.post("/jobs", content=large).status_code == 401
    # 413 before 400
    assert alice.call("POST", "/jobs", content=large).status_code == 413
    # 400 before 403: an ordinary user sends a bad body to an administrator's path
    assert alice.post("/credits/grant", {"to": "x", "amount": "-1"}).status_code == 400
    assert alice.post("/credits/grant", {"to": "x", "amount": "1"}).status_code == 403
    # 403 before 404 of the thing, where only administrators may know
    assert alice.post(url).status_code == 403
    # 409 before 402
    job_id = alice.submit()
    assert alice.post(f"/jobs/{job_id}/retry").status_code == 409


PAST, LONG = "1999-12-31T23:59:59Z", {"timeout_s": 3601}
WRONG_AND_DENIED: list[tuple[str, object, str]] = [
    ("POST /jobs", {"code": "x", "user_id": "admin", "limits": LONG}, "limits.timeout_s"),
    ("POST /jobs", {"code": "x", "user_id": "admin", "max_cost": "0.001"}, "max_cost"),
    ("POST /jobs", {"code": "x", "user_id": "admin", "deadline": PAST}, "deadline"),
    (
        "POST /jobs/batch",
        {"jobs": [{"code": "x", "user_id": "admin"}, {"code": "x", "limits": LONG}]},
        "jobs.1.limits.timeout_s",
    ),
    (
        "POST /jobs/batch",
        {"jobs": [{"code": "x", "user_id": "admin"}, {"code": "x", "deadline": PAST}]},
        "jobs.1.deadline",
    ),
    (
        "POST /jobs/batch",
        {"template": {"code": "x", "user_id": "admin", "limits": LONG}, "args": [["a"]]},
        "template.limits.timeout_s",
    ),
    (
        "POST /jobs/batch",
        {"template": {"code": "x", "user_id": "admin", "deadline": PAST}, "args": [["a"], ["b"]]},
        "template.deadline",
    ),
    ("GET /credits/admin/transactions?cursor=zz", None, "cursor"),
    ("GET /jobs?cursor=zz", None, "cursor"),
    ("GET /auth/keys?cursor=zz", None, "cursor"),
    ("POST /jobs", {"code": "x", "deadline": PAST}, "deadline"),
    ("POST /credits/transfer", {"to": "{me}", "amount": "1"}, "to"),
    ("GET /jobs/{anothers}/logs?follow=true", None, "Last-Event-ID"),
    ("GET /jobs/{anothers}/events", None, "Last-Event-ID"),
    ("GET /events", None, "Last-Event-ID"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "body", "field"), WRONG_AND_DENIED)
def test_what_the_request_alone_shows_to_be_wrong_comes_before_who_may(
    shared: Running, alice: Api, asked: str, body: object, field: str
) -> None:
    method, path = asked.replace("{anothers}", shared.admin.submit()).split(" ")
    if body == {"to": "{me}", "amount": "1"}:
        body = {"to": alice.user_id, "amount": "1"}
    # A key that may do none of this is denied whatever it asks for.
    for asking in (alice, key_with(alice, "metrics")):
        answer = asking.call(method, path, body, headers={"Last-Event-ID": "x"})

        assert answer.status_code == 400, answer.text
        assert [detail["field"] for detail in answer.json()["details"]] == [field]
        assert answer.json()["error"].startswith(field)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/jobs", {"code": "x", "user_id": "admin"}, "user_id"),
        ("/jobs/batch", {"jobs": [{"code": "x"}, {"code": "x", "user_id": "admin"}]},
         "jobs.1.user_id"),
        ("/jobs/batch", {"template": {"code": "x", "user_id": "admin"}, "args": [["a"]]},
         "template.user_id"),
    ],
)  # fmt: skip
def test_jobs_are_submitted_in_ones_own_name(
    alice: Api, path: str, body: object, field: str
) -> None:
    answer = alice.post(path, body)

    assert answer.status_code == 403
    assert answer.json()["details"][0]["field"] == field
    assert alice.get("/jobs").json()["items"] == []


ADMIN_ONLY: list[tuple[str, str, object]] = [
    ("GET", "/users", None),
    ("POST", "/users/admin/suspend", None),
    ("POST", "/users/admin/unsuspend", None),
    ("POST", "/invites", {}),
    ("POST", "/credits/grant", {"to": "admin", "amount": "1"}),
    ("POST", "/admin/broadcast", {"text": "hello"}),
    ("GET", "/admin/ledger/verify", None),
    ("GET", "/credits/admin", None),
    ("GET", "/credits/admin/transactions", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ADMIN_ONLY)
def test_ordinary_users_may_not_administer(
    shared: Running, alice: Api, method: str, path: str, body: object
) -> None:
    before = shared.fingerprint()

    assert alice.call(method, path, body).status_code == 403
    assert shared.fingerprint() == before


def key_with(api: Api, *scopes: str) -> Api:
    answer = api.post("/auth/keys", {"name": "key", "scopes": list(scopes)})
    assert answer.status_code == 201, answer.text
    return Api(api.client, api.user_id, answer.json()["key"])


NEEDS: list[tuple[str, str, str, object]] = [
    ("jobs", "GET", "/jobs", None),
    ("jobs", "POST", "/jobs", {"code": "1"}),
    ("jobs", "GET", f"/jobs/{ID}", None),
    ("jobs", "GET", f"/jobs/{ID}/logs", None),
    ("jobs", "GET", f"/jobs/{ID}/events", None),
    ("jobs", "POST", f"/jobs/{ID}/cancel", None),
    ("workers", "POST", "/workers/register", {"name": "w", "capabilities": {}}),
    ("workers", "POST", f"/workers/{ID}/pause", None),
    ("credits:read", "GET", "/credits/{me}", None),
    ("credits:read", "GET", "/credits/{me}/transactions", None),
    ("credits:transfer", "POST", "/credits/transfer", {"to": "admin", "amount": "1"}),
    ("metrics", "GET", "/metrics", None),
]
ALL = ("jobs", "workers", "credits:read", "credits:transfer", "metrics")


@pytest.mark.parametrize(("scope", "method", "path", "body"), NEEDS)
def test_a_key_does_what_its_scopes_say_and_nothing_else(
    alice: Api, scope: str, method: str, path: str, body: object
) -> None:
    url = path.replace("{me}", alice.user_id)
    others = [other for other in ALL if other != scope]

    refused = key_with(alice, *others).call(method, url, body)
    allowed = key_with(alice, scope).call(method, url, body)

    assert refused.status_code == 403, refused.text
    assert allowed.status_code in {200, 201, 404}, allowed.text


def test_keys_are_shown_once_and_end_when_deleted(alice: Api) -> None:
    made = alice.post("/auth/keys", {"name": "ci", "scopes": ["jobs"]}).json()
    key = Api(alice.client, alice.user_id, made["key"])
    assert key.get("/jobs").status_code == 200

    listed = alice.get("/auth/keys").json()["items"]
    assert [(entry["key_id"], entry["name"], entry["scopes"]) for entry in listed] == [
        (made["key_id"], "ci", ["jobs"])
    ]
    assert "key" not in listed[0]
    assert alice.delete(f"/auth/keys/{made['key_id']}").status_code == 204
    assert key.get("/jobs").status_code == 401
    assert alice.delete(f"/auth/keys/{made['key_id']}").status_code == 404


def test_keys_are_made_with_a_log_in_token_only_and_never_exceed_their_maker(
    alice: Api,
) -> None:
    key = key_with(alice, "jobs")

    assert key.post("/auth/keys", {"name": "k", "scopes": ["jobs"]}).status_code == 403
    assert alice.post("/auth/keys", {"name": "k", "scopes": ["admin"]}).status_code == 403


def test_another_users_key_is_not_found(shared: Running, alice: Api) -> None:
    made = alice.post("/auth/keys", {"name": "ci", "scopes": ["jobs"]}).json()

    assert shared.user().delete(f"/auth/keys/{made['key_id']}").status_code in {403, 404}
    assert len(alice.get("/auth/keys").json()["items"]) == 1


def test_logging_out_ends_the_token(shared: Running, alice: Api) -> None:
    second = shared.log_in(alice.user_id)

    assert alice.delete("/auth/token").status_code == 204
    assert alice.get("/jobs").status_code == 401
    assert second.get("/jobs").status_code == 200


def test_a_new_password_ends_the_other_tokens(shared: Running, alice: Api) -> None:
    second = shared.log_in(alice.user_id)

    wrong = alice.post("/auth/password", {"old": "not this one", "new": "a new password"})
    right = alice.post("/auth/password", {"old": PASSWORD, "new": "a new password"})

    assert (wrong.status_code, right.status_code) == (403, 204)
    assert alice.get("/jobs").status_code == 200
    assert second.get("/jobs").status_code == 401
    assert shared.log_in(alice.user_id, "a new password").get("/jobs").status_code == 200


def test_a_wrong_password_and_an_unknown_user_look_the_same(shared: Running, alice: Api) -> None:
    def log_in(user_id: str, password: str) -> httpx2.Response:
        body = {"user_id": user_id, "password": password}
        return shared.client.post("/auth/token", json=body)

    wrong = log_in(alice.user_id, "wrong password")
    unknown = log_in("nobody-of-that-name", "wrong password")

    assert wrong.status_code == unknown.status_code == 401
    assert wrong.json()["error"] == unknown.json()["error"]


def test_a_taken_name_is_a_conflict(shared: Running, alice: Api) -> None:
    answer = shared.client.post("/users", json={"user_id": alice.user_id, "password": PASSWORD})

    assert answer.status_code == 409


def test_a_new_user_is_answered_with_role_and_balance(shared: Running) -> None:
    answer = shared.client.post("/users", json={"user_id": "Fresh_1", "password": PASSWORD})

    assert answer.status_code == 201
    assert answer.json() == {"user_id": "Fresh_1", "role": "user", "balance": "100.000000"}


def test_a_suspended_user_is_shut_out_until_let_in_again(shared: Running, alice: Api) -> None:
    job_id = alice.submit()

    answer = shared.admin.post(f"/users/{alice.user_id}/suspend")

    assert (answer.status_code, answer.json()["suspended"]) == (200, True)
    assert alice.get("/jobs").status_code == 401
    body = {"user_id": alice.user_id, "password": PASSWORD}
    assert shared.client.post("/auth/token", json=body).status_code in {401, 403}
    assert shared.admin.get(f"/jobs/{job_id}/wait").json()["status"] == "cancelled"
    assert shared.admin.post(f"/users/{alice.user_id}/unsuspend").json()["suspended"] is False
    assert shared.log_in(alice.user_id).get("/jobs").status_code == 200


def test_no_token_is_taken_from_an_address_or_a_cookie(alice: Api) -> None:
    for url in (f"/jobs?token={alice.token}", f"/jobs?access_token={alice.token}"):
        assert alice.client.get(url).status_code == 401
    assert alice.client.get("/jobs", headers={"Cookie": f"token={alice.token}"}).status_code == 401
