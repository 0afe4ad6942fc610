"""A worker that root started, as two processes: its rights are in one, what it hears in the other.

Theory of operation. Only the sandboxes need root: boxes with uids of their own, control groups, the
engine's socket. So before there is a thread, a loop or a secret, the process forks. The child, the
*warden* (`warden`), keeps root and runs programs in the sandboxes that the owner chose, and nothing
else. The parent, the *agent*, gives root up for good (`privileges`) and is the worker that everybody
knows: it holds the network, the token, the spool and the terminal. They talk over a pair of sockets
(`line`, `messages`); to the worker the warden's sandboxes look like its own (`proxies`).

The agent is who may be tricked, so the warden believes it nothing beyond those messages. Neither
outlives the other: the kernel kills the warden when the agent ends, and the agent gives up without it.
"""
