"""What runs inside the box: standard library only, handed to the box as text, never imported there
from the worker's own folders.

Theory of operation. `bwrap` builds the outer wall once: a read-only root, no network, its own
processes. In it runs the *template* (`template`), a small interpreter that never sees a job. For
each attempt it forks a *supervisor* (`supervisor`), which unshares every namespace again, mounts
what is the job's own, and starts the *reaper* (process 1 of the job's world) and the *job* (`job`),
which gives up every right, waits for its program and becomes it. The worker talks to a supervisor
over a socket of the attempt's own; when either end goes, all of the attempt goes.
"""
