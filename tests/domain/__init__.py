"""Tests of what Grid-X decides: tables of cases, and properties that hold for everything."""

from hypothesis import settings

# Properties are about values, not about how busy the machine is.
settings.register_profile("gridx", deadline=None)
settings.load_profile("gridx")
