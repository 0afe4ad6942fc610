"""What a job takes and a worker offers: CPUs, memory, GPUs, disk."""

from collections.abc import Iterable

from msgspec import Struct


class Resources(Struct, frozen=True):
    """Amounts of each resource; `cpus` counts to a thousandth, the rest is whole."""

    cpus: float = 1.0
    memory_mb: int = 256
    gpus: int = 0
    disk_mb: int = 256

    def plus(self, other: "Resources") -> "Resources":
        return Resources(
            round(self.cpus + other.cpus, 6),
            self.memory_mb + other.memory_mb,
            self.gpus + other.gpus,
            self.disk_mb + other.disk_mb,
        )

    def minus(self, other: "Resources") -> "Resources":
        """What is left; may be below zero where more was taken than is there."""
        return Resources(
            round(self.cpus - other.cpus, 6),
            self.memory_mb - other.memory_mb,
            self.gpus - other.gpus,
            self.disk_mb - other.disk_mb,
        )

    def times(self, count: int) -> "Resources":
        return Resources(
            round(self.cpus * count, 6),
            self.memory_mb * count,
            self.gpus * count,
            self.disk_mb * count,
        )

    def fits(self, room: "Resources") -> bool:
        """Whether all of this is free in `room`."""
        return (
            self.cpus <= room.cpus
            and self.memory_mb <= room.memory_mb
            and self.gpus <= room.gpus
            and self.disk_mb <= room.disk_mb
        )

    def capped(self, cap: "Resources") -> "Resources":
        """The smaller of each."""
        return Resources(
            min(self.cpus, cap.cpus),
            min(self.memory_mb, cap.memory_mb),
            min(self.gpus, cap.gpus),
            min(self.disk_mb, cap.disk_mb),
        )

    def copies_in(self, room: "Resources") -> int:
        """How many of this fit side by side into `room`."""
        counts = [int(room.cpus / self.cpus + 1e-9)] if self.cpus > 0 else []
        counts += [
            have // need
            for have, need in (
                (room.memory_mb, self.memory_mb),
                (room.gpus, self.gpus),
                (room.disk_mb, self.disk_mb),
            )
            if need > 0
        ]
        return max(0, min(counts)) if counts else 0


NOTHING = Resources(0.0, 0, 0, 0)


def total(parts: Iterable[Resources]) -> Resources:
    """The sum of all `parts`."""
    result = NOTHING
    for part in parts:
        result = result.plus(part)
    return result
