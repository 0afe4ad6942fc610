"""When a request is worth sending again, and what a person reads when it was in vain. Pure."""

import httpx2
from stamina.instrumentation import LoggingOnRetryHook, set_on_retry_hooks

from gridx.client.calls import Call
from gridx.domain.errors import GridError, InvalidInput, RateLimited, Unavailable

RETRY_AFTER_S_MAX = 30.0

# By default each retry would be printed to standard output, into the results of whoever uses us.
set_on_retry_hooks([LoggingOnRetryHook])


def worth_retrying(call: Call[object], error: Exception) -> bool | float:
    """Whether to send `call` again after `error`; a number is how many seconds to wait first."""
    if isinstance(error, httpx2.ConnectError):
        return not _is_certificate_trouble(error)
    if isinstance(error, httpx2.ConnectTimeout):
        return True
    if not call.repeatable:
        return False
    if isinstance(error, RateLimited):
        return error.retry_after_s if error.retry_after_s <= RETRY_AFTER_S_MAX else False
    return isinstance(error, httpx2.TransportError | Unavailable)


def as_refusal(error: httpx2.HTTPError, url: str) -> GridError:
    """The error for a person when the coordinator could not be asked."""
    if _is_certificate_trouble(error):
        return InvalidInput(
            f"The certificate of {url} is not trusted ({error}): if it is your grid's own, "
            "give its authority with --ca FILE (ca=...)"
        )
    if isinstance(error, httpx2.TimeoutException):
        return Unavailable(f"The coordinator at {url} did not answer in time: try again later")
    if isinstance(error, httpx2.ConnectError):
        return Unavailable(
            f"Cannot reach the coordinator at {url}: check the address (--url or GRIDX_URL) and "
            "that it runs; `gridx up` starts one on this machine"
        )
    why = str(error) or type(error).__name__
    return Unavailable(f"The connection to the coordinator at {url} broke: {why}. Try again")


def _is_certificate_trouble(error: Exception) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(error)
