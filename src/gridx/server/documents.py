"""The API's documents: `/openapi.json` and the pages at `/docs`, made here and served from here.

The page needs nothing from other hosts and runs no script; its policy forbids both.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from html import escape
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gridx.protocol.http import ErrorDetailView, ErrorView

METHODS = ("get", "put", "post", "delete", "head")
_STYLE = """
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}
body{max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem;text-transform:capitalize}
details{border:1px solid #8886;border-radius:.4rem;margin:.4rem 0;padding:.4rem .8rem}
summary{cursor:pointer}code{font:.9em/1.5 ui-monospace,monospace}
b.m{display:inline-block;min-width:4.2rem;font:600 .85em ui-monospace,monospace}
table{border-collapse:collapse;margin:.5rem 0}td,th{text-align:left;padding:.15rem .8rem .15rem 0;
vertical-align:top}small{opacity:.75}
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; frame-ancestors 'none'"


def add_documents(app: FastAPI) -> None:
    """Serve the documents of what `app` has by now; open to everybody."""

    @cache
    def as_json() -> bytes:
        return json.dumps(openapi(app), ensure_ascii=False).encode()

    @cache
    def page() -> bytes:
        return _page(openapi(app)).encode()

    async def get_openapi(_request: Request) -> Response:
        return Response(as_json(), media_type="application/json")

    async def get_docs(_request: Request) -> Response:
        return Response(page(), media_type="text/html", headers={"Content-Security-Policy": POLICY})

    async def get_root(_request: Request) -> Response:
        return RedirectResponse("/docs")

    app.add_route("/openapi.json", get_openapi, include_in_schema=False)
    app.add_route("/docs", get_docs, include_in_schema=False)
    app.add_route("/", get_root, include_in_schema=False)


def openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the one way to authenticate."""
    document = app.openapi()
    components = document.setdefault("components", {})
    template = "#/components/schemas/{model}"
    for shape in (ErrorView, ErrorDetailView):
        schema = shape.model_json_schema(ref_template=template)
        schema.pop("$defs", None)
        components["schemas"][shape.__name__] = schema
    # FastAPI adds its own answer to bad input, which is never given here.
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    for item in document["paths"].values():
        for operation in item.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    components["securitySchemes"] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "A token of POST /auth/token or an API key of POST /auth/keys",
        }
    }
    return document


def _page(document: Mapping[str, Any]) -> str:
    info = document["info"]
    tags: dict[str, list[str]] = {}
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                tag = item[method].get("tags", ["other"])[0]
                tags.setdefault(tag, []).append(_operation(method, path, item[method]))
    sections = "".join(f"<h2>{escape(tag)}</h2>{''.join(rows)}" for tag, rows in tags.items())
    schemas = "".join(
        f"<details id='{escape(name)}'><summary><code>{escape(name)}</code> "
        f"<small>{escape(_line(schema.get('description', '')))}</small></summary>"
        f"{_fields(schema)}</details>"
        for name, schema in sorted(document["components"]["schemas"].items())
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>"
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style>"
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>"
        f"<p>{escape(info.get('description', ''))}</p>"
        "<p>The same for machines: <a href='/openapi.json'>/openapi.json</a></p>"
        f"{sections}<h2>Bodies</h2>{schemas}</html>"
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parameters = "".join(
        f"<tr><td><code>{escape(p['name'])}</code><td>{p['in']}<td>{_kind(p['schema'])}"
        f"<td>{escape(p.get('description', ''))}"
        for p in operation.get("parameters", ())
    )
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    takes = f"<p>Body: {_kind(body['schema'])}</p>" if body else ""
    answers = "".join(
        f"<tr><td>{status}<td>{escape(answer['description'])}<td>"
        + ", ".join(
            f"<code>{escape(media)}</code> {_kind(content.get('schema', {}))}"
            for media, content in answer.get("content", {}).items()
        )
        for status, answer in sorted(operation["responses"].items())
    )
    lock = "" if operation.get("security") else " <small>open</small>"
    return (
        f"<details><summary><b class=m>{method.upper()}</b><code>{escape(path)}</code>{lock} "
        f"<small>{escape(_line(operation.get('description', '')))}</small></summary>"
        f"{f'<table>{parameters}</table>' if parameters else ''}{takes}"
        f"<table>{answers}</table></details>"
    )


def _fields(schema: Mapping[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code><td>{_kind(field)}"
        f"<td>{'required' if name in required else ''}"
        for name, field in schema.get("properties", {}).items()
    )
    return f"<table>{rows}</table>"


def _kind(schema: Mapping[str, Any]) -> str:
    """A type in a few words, linked where it has a name."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(_kind(part) for part in schema[union])
    if "enum" in schema:
        return escape(", ".join(map(str, schema["enum"])))
    if "const" in schema:
        return escape(str(schema["const"]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    bounds = [
        f"{words} {schema[key]}"
        for key, words in (("minimum", "from"), ("maximum", "to"), ("maxLength", "up to"))
        if key in schema
    ]
    return escape(" ".join([str(schema.get("type", "anything")), *bounds]))


def _line(text: str) -> str:
    return " ".join(text.split("\n\n", 1)[0].split())
