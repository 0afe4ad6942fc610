"""What a bus promises."""

from typing import Protocol


class Listener(Protocol):
    """Hears the hints of one topic; several that come together are one."""

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a hint (one that came since the last wait counts); False at the time-out."""
        ...

    def close(self) -> None:
        """Stop listening."""
        ...


class Bus(Protocol):
    """Carries hints by topic."""

    def publish(self, topic: str) -> None:
        """Hint at everybody who listens to `topic`; never waits, never fails."""
        ...

    def listen(self, topic: str) -> Listener:
        """Start to listen to `topic`."""
        ...


QUEUES = "queues"
"""Work may have come, or room for it."""


def user_topic(user_id: str) -> str:
    """Something happened to a job of this user."""
    return f"user.{user_id}"


def job_topic(job_id: str) -> str:
    """A job wrote something or changed its state."""
    return f"job.{job_id}"
