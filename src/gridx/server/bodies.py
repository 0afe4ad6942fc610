"""Reading what a client sends: bodies within their limits, strict JSON, query strings.

JSON is read with the standard library's scanner, which lets us refuse what others let pass: a field
that is there twice, anything that is not UTF-8. What no number can hold (NaN, Infinity, a thousand
digits) is read as a float that is not finite: no field takes one, so that its refusal names the
field. A batch is read spec by spec, so that a large one neither takes many times its size in memory
nor keeps everybody else waiting.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import TypeVar, cast
from urllib.parse import parse_qsl

from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.types import Receive

from gridx.clock import Clock
from gridx.domain.errors import Detail, InvalidInput, TooLarge
from gridx.protocol.spec import (
    BATCH_JOBS_MAX,
    SPEC_BYTES_MAX,
    Arguments,
    BatchBody,
    JobBody,
)
from gridx.server.answers import invalid

PAUSE_S_MAX = 30.0
FIELDS_MAX = 10_001
VALUES_MAX = 100_000
DIGITS_MAX = 400
QUERY_FIELDS_MAX = 20
BREATH_SPECS = 200

M = TypeVar("M", bound=BaseModel)


def has_body(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a body follows these headers, as HTTP/1.1 tells it."""
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


async def read_body(
    receive: Receive, headers: Mapping[bytes, bytes], bytes_max: int, take: Callable[[int], None]
) -> bytes:
    """The whole body; raises `TooLarge` as soon as it is known to be over `bytes_max`.

    `take` is told of each part before it is kept. Raises `InvalidInput` when the client stops in
    the middle.
    """
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > bytes_max:
        raise _too_large(bytes_max)
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        try:
            async with asyncio.timeout(PAUSE_S_MAX):
                message = await receive()
        except TimeoutError:
            raise InvalidInput("The body did not arrive: nothing came for 30 s") from None
        if message["type"] == "http.disconnect":
            raise InvalidInput("The connection was closed before the whole body had arrived")
        part: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(part)
        if size > bytes_max:
            raise _too_large(bytes_max)
        take(len(part))
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def parse_body(raw: bytes, model: type[M]) -> M:
    """The body as `model`; raises `InvalidInput` naming each field at fault.

    No body at all is an empty object where nothing is required.
    """
    if not raw and not any(field.is_required() for field in model.model_fields.values()):
        raw = b"{}"
    value = _whole(_text(raw))
    if not isinstance(value, dict):
        raise InvalidInput("The body is not a JSON object")
    return _validated(model, cast("object", value))


def parse_query(query_string: bytes, model: type[M] | None) -> M | None:
    """The query as `model`; raises `InvalidInput` for a parameter unknown, twice, or wrong."""
    found: dict[str, str] = {}
    if query_string:
        try:
            pairs = parse_qsl(
                query_string.decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=QUERY_FIELDS_MAX,
            )
        except ValueError:
            raise InvalidInput("The query of this address is not well formed") from None
        for name, value in pairs:
            if name in found:
                raise _at(name, "this parameter is given twice")
            if model is None or name not in model.model_fields:
                raise _at(name, "unknown parameter")
            found[name] = value
    if model is None:
        return None
    return _validated(model, found)


def canonical_hash(raw: bytes) -> str:
    """SHA-256 of the body as parsed JSON: spaces, the order of fields and `1.0` for `1` are one.

    No body at all is an empty object.
    """
    return hashlib.sha256(_canonical(_text(raw or b"{}"))).hexdigest()


async def parse_batch(raw: bytes, clock: Clock, hashing: bool) -> tuple[BatchBody, str]:
    """The batch, each of its specs checked, with its hash (empty unless `hashing`).

    Raises `InvalidInput` naming the index of the first spec that breaks a rule.
    """
    walk = _Walk(_text(raw))
    hashes: dict[str, str] = {}
    jobs: list[JobBody] = []
    args: list[list[str]] = []
    template: JobBody | None = None
    for field in walk.fields():
        hasher = hashlib.sha256()
        if field == "template":
            start = walk.at
            template = _validated(JobBody, walk.value("template"), "template")
            hasher.update(_canonical(walk.text[start : walk.at]) if hashing else b"")
        elif field in {"jobs", "args"}:
            async for index, value, text in _elements(walk, field, clock):
                if field == "jobs":
                    jobs.append(_validated(JobBody, value, field, index))
                else:
                    args.append(_arguments(value, index))
                hasher.update(_canonical(text) + b"," if hashing else b"")
        else:
            raise _at(field, "unknown field")
        hashes[field] = hasher.hexdigest()
    if bool(jobs) == (template is not None):
        raise _at("jobs", "give either jobs, or template with args")
    if (template is None) != (not args):
        raise _at("args", "args goes with template, and template with args")
    body = BatchBody.model_construct(jobs=jobs, template=template, args=args)
    return body, hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


async def _elements(
    walk: "_Walk", field: str, clock: Clock
) -> AsyncIterator[tuple[int, object, str]]:
    index = 0
    while walk.next_element(first=index == 0, field=field):
        if index == BATCH_JOBS_MAX:
            raise _at(field, f"at most {BATCH_JOBS_MAX:,} jobs a batch")
        start = walk.at
        value = walk.value(f"{field}.{index}")
        yield index, value, walk.text[start : walk.at]
        index += 1
        if index % BREATH_SPECS == 0:
            await clock.sleep(0)
    if index == 0:
        raise _at(field, "at least one is needed")


_words = TypeAdapter(Arguments)


def _arguments(value: object, index: int) -> list[str]:
    try:
        return _words.validate_python(value, strict=True)
    except ValidationError as error:
        raise invalid(error, "args", index) from None


def _validated(model: type[M], value: object, *within: str | int) -> M:
    try:
        return model.__pydantic_validator__.validate_python(value)
    except ValidationError as error:
        raise invalid(error, *within) from None


# ------------------------------------------------------------------ strict JSON


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"The body is not UTF-8 (at byte {error.start})") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise _at(twice, "this field is there twice")
    if len(pairs) > FIELDS_MAX:
        raise InvalidInput(f"An object in the body has more than {FIELDS_MAX:,} fields")
    return found


def _number(text: str) -> float | int:
    number = float(text)
    return int(number) if number.is_integer() else number


def _whole_number(text: str) -> float | int:
    return int(text) if len(text) <= DIGITS_MAX else float(text)


# `1.0` is a whole number like `1`, as JSON Schema says.
_decoder = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=float, parse_float=_number, parse_int=_whole_number
)
_space = re.compile(r"[ \t\n\r]*")
# A text is passed in runs, none of which is looked at twice: by single characters a mebibyte of
# code takes a fifth of a second, in which nobody else is served.
_structure = re.compile(r'[{}\[\],]|"(?:[^"\\]++|\\.)*+"')


def _space_end(text: str, at: int) -> int:
    match = _space.match(text, at)
    return match.end() if match else at


def _value(text: str, at: int) -> tuple[object, int]:
    try:
        return cast("tuple[object, int]", _decoder.raw_decode(text, at))
    except json.JSONDecodeError as error:
        raise InvalidInput(f"The body is not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise InvalidInput("The body is nested too deeply") from None


def _whole(text: str) -> object:
    value, end = _value(text, _space_end(text, 0))
    if _space_end(text, end) != len(text):
        raise InvalidInput(f"The body is not JSON: something follows it at character {end}")
    return value


def _canonical(text: str) -> bytes:
    return json.dumps(_whole(text), sort_keys=True, separators=(",", ":")).encode()


class _Walk:
    """A place in the text of a JSON object whose parts are read one by one."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        # Below this size no part can be over its own limit.
        self._measure = len(text) * 4 > SPEC_BYTES_MAX

    def fields(self) -> Iterator[str]:
        """Each field's name, with this place at its value."""
        self._expect("{")
        seen: set[str] = set()
        if self._peek() == "}":
            self.at += 1
        else:
            while True:
                self._peek()
                name, self.at = _value(self.text, self.at)
                if not isinstance(name, str):
                    raise self._unexpected()
                if name in seen:
                    raise _at(name, "this field is there twice")
                seen.add(name)
                self._expect(":")
                self._peek()
                yield name
                if self._peek() != ",":
                    break
                self.at += 1
            self._expect("}")
        if _space_end(self.text, self.at) != len(self.text):
            raise InvalidInput(f"The body is not JSON: something follows it at character {self.at}")

    def next_element(self, first: bool, field: str) -> bool:
        """Go to the next element of a list; False, and past its end, when there is none."""
        if first:
            if self._peek() != "[":
                raise _at(field, "a list is expected here")
            self.at += 1
            if self._peek() == "]":
                self.at += 1
                return False
            return True
        if self._peek() == "]":
            self.at += 1
            return False
        self._expect(",")
        self._peek()
        return True

    def value(self, field: str) -> object:
        """The value here; raises `InvalidInput` naming `field` when it is over its limit."""
        if self._measure:
            self._check_size(field)
        value, self.at = _value(self.text, self.at)
        return value

    def _check_size(self, field: str) -> None:
        depth = 0
        for values, match in enumerate(_structure.finditer(self.text, self.at)):
            mark = match.group()[0]
            depth += (mark in "{[") - (mark in "}]")
            if depth <= 0 or match.end() - self.at > SPEC_BYTES_MAX:
                if len(self.text[self.at : match.end()].encode()) > SPEC_BYTES_MAX:
                    raise _at(field, f"one spec is at most {SPEC_BYTES_MAX // 1024**2} MiB")
                return
            if values > VALUES_MAX:
                raise _at(field, f"one spec has at most {VALUES_MAX:,} values")

    def _peek(self) -> str:
        self.at = _space_end(self.text, self.at)
        return self.text[self.at : self.at + 1]

    def _expect(self, mark: str) -> None:
        if self._peek() != mark:
            raise self._unexpected()
        self.at += 1

    def _unexpected(self) -> InvalidInput:
        if not self.text.strip():
            return InvalidInput("The body is empty: send a JSON object")
        return InvalidInput(f"The body is not a JSON object: see character {self.at}")


def _at(field: str, message: str) -> InvalidInput:
    name = field[:100].encode(errors="replace").decode()
    return InvalidInput(f"{name}: {message}", [Detail(name, message)])


def _too_large(bytes_max: int) -> TooLarge:
    return TooLarge(f"The body is over {bytes_max:,} bytes: send less at once")
