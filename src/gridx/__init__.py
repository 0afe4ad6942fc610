"""Grid-X: run jobs on other people's machines, sandboxed and paid by the second."""

__version__ = "2.0.0a1"
