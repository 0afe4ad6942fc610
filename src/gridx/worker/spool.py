"""What attempts wrote and how they ended, on disk until the coordinator has it.

One file an attempt, only ever appended to: records of MessagePack, each behind its length and its
checksum, so that a torn end is told from a whole one. A file that ends in `finished` outlives the
worker and is sent again by the next; the others belonged to attempts that died with their worker,
and are swept at the start. Appending survives a `kill -9` by itself; finished files are also pushed
to the platter (`sync`), which costs milliseconds and is left out where the `ack` is faster.
"""

import asyncio
import os
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

import msgspec

from gridx.domain.ids import is_uuid4
from gridx.protocol.frames import Finished, Log
from gridx.worker.events import LeaseKey, Result

DISK_FREE_BYTES_MIN = 64 * 1024 * 1024
SPOOL_BYTES_MAX = 1024 * 1024 * 1024

Kept = Log | Finished
_HEAD = Struct("<II")  # length and CRC-32 of what follows
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Kept).decode


@dataclass(slots=True)
class _File:
    """An attempt's file, with a `descriptor` only while its program runs."""

    path: Path
    descriptor: int | None = None
    size: int = 0


class Spool:
    """The spool in one folder, which belongs to this process alone."""

    def __init__(self, folder: Path, bytes_max: int = SPOOL_BYTES_MAX) -> None:
        self.folder = folder
        self.size = 0
        self._bytes_max = bytes_max
        self._files: dict[LeaseKey, _File] = {}
        self._unsynced: set[LeaseKey] = set()

    def open(self) -> list[Result]:
        """Make the folder, sweep what no longer matters, and give the results still kept."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        results: list[Result] = []
        for path in sorted(path for path in self.folder.iterdir() if path.is_file()):
            key = _key_of(path)
            result = _read_result(path) if key else None
            if key is None or result is None or LeaseKey.of(result.finished) != key:
                path.unlink()
                continue
            size = path.stat().st_size
            self._files[key] = _File(path, size=size)
            self.size += size
            results.append(result)
        return results

    def record(self, frame: Kept) -> None:
        """Append one record. Raises `OSError` when the disk does not take it."""
        key = LeaseKey.of(frame)
        file = self._files.get(key)
        if file is None:
            file = self._files[key] = _File(self.folder / _name_of(key))
        body = _encode(frame)
        self._append(file, _HEAD.pack(len(body), zlib.crc32(body)) + body)
        if isinstance(frame, Finished):
            self._unsynced.add(key)
            _close(file)

    def logs(self, key: LeaseKey, first: int, end: int) -> Iterator[Log]:
        """The recorded log frames from number `first` up to, without, `end`."""
        file = self._files.get(key)
        if file is None:
            return
        for frame in _records(file.path):
            if isinstance(frame, Log) and first <= frame.number < end:
                yield frame

    def forget(self, key: LeaseKey) -> None:
        """Delete what is kept of an attempt."""
        file = self._files.pop(key, None)
        if file is None:
            return
        self._unsynced.discard(key)
        self.size -= file.size
        _close(file)
        file.path.unlink(missing_ok=True)

    @property
    def unsynced(self) -> frozenset[LeaseKey]:
        """Finished results that a power cut might still take away."""
        return frozenset(self._unsynced)

    async def sync(self, keys: frozenset[LeaseKey]) -> None:
        """Push the results of `keys` that are still kept to the platter. Raises `OSError`."""
        keys &= self._unsynced
        self._unsynced -= keys
        if keys:
            paths = [self._files[key].path for key in keys]
            await asyncio.to_thread(_sync, paths, self.folder)

    def why_no_room(self) -> str | None:
        """Why no more attempts may be started, for a person; None within both bounds."""
        if self.size >= self._bytes_max:
            return f"the spool holds {self.size >> 20} MB of results that nobody has taken yet"
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            return f"the spool {self.folder} cannot be used ({error.strerror})"
        if free < DISK_FREE_BYTES_MIN:
            return f"the disk of {self.folder} is full ({free >> 20} MB are free)"
        return None

    def close(self) -> None:
        """Close every file; nothing is deleted."""
        for file in self._files.values():
            _close(file)

    def _append(self, file: _File, record: bytes) -> None:
        if file.descriptor is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            file.descriptor = os.open(file.path, flags, 0o600)
        written = 0
        try:
            while written < len(record):
                written += os.write(file.descriptor, memoryview(record)[written:])
        except OSError:
            os.ftruncate(file.descriptor, file.size)
            raise
        file.size += len(record)
        self.size += len(record)


def _close(file: _File) -> None:
    if file.descriptor is not None:
        os.close(file.descriptor)
        file.descriptor = None


def _sync(paths: list[Path], folder: Path) -> None:
    for path in [*paths, folder]:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # acknowledged in the meantime
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _name_of(key: LeaseKey) -> str:
    return f"{key.job_id}.{key.attempt}.{key.lease}"


def _key_of(path: Path) -> LeaseKey | None:
    parts = path.name.split(".")
    if len(parts) != 3 or not parts[1].isdecimal():
        return None
    job_id, attempt, lease = parts
    return LeaseKey(job_id, int(attempt), lease) if is_uuid4(job_id) and is_uuid4(lease) else None


def _records(path: Path) -> Iterator[Kept]:
    """The whole records of a file, up to the first that is torn."""
    with path.open("rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, checksum = _HEAD.unpack(head)
            body = file.read(length)
            if len(body) < length or zlib.crc32(body) != checksum:
                return
            yield _decode(body)


def _read_result(path: Path) -> Result | None:
    """What a file says, if it tells a whole story: each log frame in its place, then `finished`."""
    log_frames = 0
    try:
        for frame in _records(path):
            match frame:
                case Log(number=number) if number == log_frames:
                    log_frames += 1
                case Finished():
                    return Result(log_frames, frame)
                case _:
                    return None
    except (OSError, msgspec.MsgspecError):
        return None
    return None
