"""Requests that may come twice: the first one's answer is kept in the transaction of what it made."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from gridx.domain.errors import GridError, KeyReused
from gridx.storage import requests
from gridx.storage.database import Connection

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A caller's key for one request: of a user and a path, with the hash of its parsed body."""

    user_id: str
    path: str
    key: str
    body_hash: str


def once(
    connection: Connection,
    key: IdempotencyKey | None,
    now: int,
    answer_type: type[T],
    make: Callable[[], T],
) -> T:
    """What `make` returns, or what it returned to the first request with `key`.

    `make` either refuses (the key stays free) or writes; `answer_type` is a dataclass of plain
    values. Raises `KeyReused` when the key came with another body before.
    """
    if key is None:
        return make()
    kept = requests.reserve_answer(
        connection, key.user_id, key.path, key.key, body_hash=key.body_hash, now=now
    )
    if kept is not None:
        body_hash, result = kept
        if body_hash != key.body_hash:
            raise KeyReused(
                "This Idempotency-Key was used with another body: make a new key for a new request"
            )
        return msgspec.json.decode(result, type=answer_type)
    try:
        answer = make()
    except GridError:
        requests.release_answer(connection, key.user_id, key.path, key.key)
        raise
    result = msgspec.json.encode(answer).decode()
    requests.keep_answer(connection, key.user_id, key.path, key.key, result)
    return answer
