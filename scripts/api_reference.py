"""Writes the reference page of the HTTP API from its own OpenAPI document.

`python scripts/api_reference.py` writes it; a test compares it with what it would write.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gridx.clock import SystemClock
from gridx.config import load_settings
from gridx.coordinator.grid import Grid
from gridx.server.app import create_app, policy_of
from gridx.server.documents import openapi
from gridx.server.operation import MEANING

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "api.md"
HEAD = """\
# HTTP API

One port, 8081 by default. JSON in and out; times are RFC 3339 in UTC, credits decimal strings with six places,
durations seconds. Send a token of `POST /auth/token`, or an API key of `POST /auth/keys`, as
`Authorization: Bearer <token>` everywhere but on the paths marked open. `/openapi.json` says all of this to
programs, `/docs` to people.

- **Errors** have one shape: `{"error": "for a person", "code": 400, "timestamp": "...", "details": [{"field", "message"}]}`.
  Requests are checked in this order: the path and its method (404, 405 with `Allow`), who asks (401), the size of the
  body (413), what it says (400, naming the field; `null`, unknown fields and unknown parameters are refused), and then
  the thing itself (403 or 404, 409, 402).
- **Bodies** are at most 4 MiB, a batch 64 MiB with 4 MiB a spec. `Content-Type` may be left out. Where an operation
  names no body, of whatever method it is, none or `{}` is taken and anything else refused.
- **Lists** answer `{"items": [...], "next_cursor": "..." or null}`; give `cursor` back to get the next page.
- **Idempotency**: where marked, send `Idempotency-Key` (1 to 200 visible ASCII characters) to make a request that may
  be sent twice safely: the same key with the same body answers as the first time did, for 24 hours.
- **Streams** are Server-Sent Events and resume behind the `Last-Event-ID` you send. `/jobs/{job_id}/logs?follow=true`
  sends `stdout` and `stderr` with `{offset, text, attempt}`, then `end` with `{status, reason}`; the others send
  `state` with `{job_id, status, reason, attempt, cancel_requested, at}`. A comment comes every 15 seconds when nothing
  else does. A stream ends within 5 seconds of its token.
- Every answer has an `X-Request-ID`, which the coordinator's log lines carry too; a well-formed one of yours is kept.
"""


def main() -> None:
    """Write the page."""
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The page's text."""
    clock = SystemClock()
    settings = load_settings({}, environ={})
    document = openapi(create_app(settings, Grid(policy_of(settings), clock), clock))
    return "\n".join([HEAD, *_statuses(), *_operations(document), *_bodies(document)])


def _statuses() -> Iterator[str]:
    yield "## Statuses of errors\n"
    yield "| code | meaning |"
    yield "| --- | --- |"
    for status, meaning in MEANING.items():
        yield f"| {status} | {meaning} |"
    yield ""


def _operations(document: Mapping[str, Any]) -> Iterator[str]:
    tag = ""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if operation["tags"][0] != tag:
                tag = operation["tags"][0]
                yield f"## {tag.capitalize()}\n"
            yield from _operation(method.upper(), path, operation)


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"### `{method} {path}`\n"
    yield " ".join(operation["description"].split()) + "\n"
    marks = [] if operation.get("security") else ["open"]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body:
        marks.append(f"body: {_kind(body['schema'])}")
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "query":
            # What may be left out is shown as null, which a query cannot say.
            kind = _kind(parameter["schema"]).removesuffix(" or null")
            marks.append(f"`{parameter['name']}`: {kind}")
        elif parameter["in"] == "header":
            marks.append(f"header `{parameter['name']}`")
    for status, answer in operation["responses"].items():
        if status < "300":
            shapes = [
                _kind(content["schema"]) if media == "application/json" else f"`{media}`"
                for media, content in answer.get("content", {}).items()
            ]
            marks.append(f"answers {status} {' or '.join(shapes)}".rstrip())
    refusals = [status for status in operation["responses"] if "400" < status < "500"]
    marks.append("refuses with 400" + "".join(f", {status}" for status in sorted(refusals)))
    yield "\n".join(f"- {mark}" for mark in marks) + "\n"


def _bodies(document: Mapping[str, Any]) -> Iterator[str]:
    yield "## Bodies and answers\n"
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield f"### {name}\n"
        if "properties" not in schema:
            yield f"{_kind(schema)}\n"
            continue
        if "description" in schema:
            yield " ".join(schema["description"].split()) + "\n"
        required = set(schema.get("required", ()))
        yield "| field | type | |"
        yield "| --- | --- | --- |"
        for field, its in schema["properties"].items():
            note = "required" if field in required else _default(its)
            yield f"| `{field}` | {_kind(its)} | {note} |"
        yield ""


def _default(schema: Mapping[str, Any]) -> str:
    default = schema.get("default")
    if default is None or default == "" or isinstance(default, dict | list):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}` by default"


def _kind(schema: Mapping[str, Any]) -> str:
    """A type in a few words, linked where it has a name."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(_kind(part) for part in schema[union])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        kind = f"list of {_kind(schema.get('items', {}))}"
    elif kind == "object":
        values = schema.get("additionalProperties") or schema.get("patternProperties", {})
        kind = "object of strings" if "string" in str(values) else kind
    bounds = [
        f"{words} {schema[key]:,}"
        for key, words in (
            ("minimum", "from"), ("maximum", "to"), ("maxLength", "up to"), ("maxItems", "up to"),
        )
        if key in schema
    ]  # fmt: skip
    return " ".join([kind, *bounds])


if __name__ == "__main__":
    main()
