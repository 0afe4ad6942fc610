"""What Grid-X decides, without doing anything: pure functions over frozen values.

No input or output, no clock, no randomness, no database: times and ids come in as arguments.
"""
