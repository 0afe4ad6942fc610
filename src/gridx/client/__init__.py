"""The SDK: what a program uses to give jobs to a grid and to get their results.

`calls` says once what is asked and how the answers read; `sync` and `aio` only carry it out.
"""
