"""Tests of Grid-X; they mirror the folders of `src/gridx`."""
