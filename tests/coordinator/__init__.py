"""Tests of the use cases: a real database of either kind, a manual clock, sessions driven by hand."""
