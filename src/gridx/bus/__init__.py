"""Hints between coordinators, and inside one: "look again at this".

The database is the truth and everybody polls it slowly; a hint that is lost costs latency only.
"""
