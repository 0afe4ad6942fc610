"""Which images a worker runs jobs in: its owner's rules, and what an image may bring along."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import msgspec
from msgspec import Struct, field

from gridx.domain.errors import Unavailable
from gridx.domain.matching import image_allowed

DEFAULT_IMAGE = "gridx:latest"


class Pull(StrEnum):
    """When the engine fetches an image from a registry."""

    NEVER = "never"
    MISSING = "missing"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class ImageRules:
    """The owner's rules: the image of jobs that name none, patterns of those that jobs may name."""

    default: str
    allowed: tuple[str, ...]
    pull: Pull

    def choose(self, asked: str | None) -> str:
        """The image for a job that asks for `asked`; raises `Unavailable` for one not allowed."""
        if asked is None or asked == self.default or image_allowed(asked, self.allowed):
            return asked or self.default
        shown = ", ".join(self.allowed) or "none but its own"
        raise Unavailable(
            f"image {asked} is not on this worker's list (it allows: {shown}); its owner may add "
            "it with --allow-image, or the job may name one that is"
        )


@dataclass(frozen=True, slots=True)
class Image:
    """An image the engine has: `id` stays the same while names move on."""

    name: str
    id: str
    environment: Mapping[str, str]


class _Config(Struct):
    volumes: dict[str, object] | None = field(name="Volumes", default=None)
    environment: list[str] | None = field(name="Env", default=None)


class _Found(Struct):
    identity: str = field(name="Id")
    config: _Config | None = field(name="Config", default=None)


def read_image(name: str, description: Mapping[str, object]) -> Image:
    """What the engine's description of an image means for jobs in it.

    Raises `Unavailable` for one that declares volumes: the engine would make each on its own disk,
    without a bound.
    """
    found = msgspec.convert(description, _Found)
    config = found.config or _Config()
    if config.volumes:
        raise Unavailable(
            f"image {name} declares volumes, whose size nothing bounds; build one without VOLUME"
        )
    pairs = [each.partition("=") for each in config.environment or ()]
    return Image(name, found.identity, {key: value for key, _, value in pairs})
