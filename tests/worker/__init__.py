"""Tests of the machine's side."""
