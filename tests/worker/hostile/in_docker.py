"""What comes of programs in the docker backend, where that is not what comes of them elsewhere.

Nothing here harms anybody: the first process is a shell of the job's own user that holds nothing,
`/sys` is there but empty, and what a container tells beyond that is said in the threat model.
"""

from gridx.domain.attempt import Reason
from tests.worker.hostile.programs import Expected

_TOLD = Expected(says=None)
EXPECTED = {
    # The kernel ends it for the foreign call, where it is refused elsewhere.
    "calls by the x32 table": Expected(ends=((159, Reason.EXIT_CODE),), says=b""),
    "opens process 1's root": _TOLD,
    "opens process 1's folder": _TOLD,
    "opens process 1's descriptors": _TOLD,
    "reads process 1's environment": _TOLD,
    "follows process 1's links": _TOLD,
    "lists the processes": _TOLD,
    "climbs out of its folder": Expected(says=b"HARM sys\nrefused\n"),
    "lists the hardware": Expected(says=b"HARM []\n"),
    # Its input is /dev/null when it has none.
    "changes its own input": Expected(says=b""),
    # Containers have no time namespace.
    "reads how long the machine runs": _TOLD,
}
