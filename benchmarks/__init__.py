"""Figures of Grid-X, measured: `python3 dev.py bench [names]`.

Each module here measures one thing and gives `Figure`s; a floor or a peer is measured in the same
run, so that a ratio holds on any machine. Never part of the tests: a machine under load would fail
them for nothing.
"""
