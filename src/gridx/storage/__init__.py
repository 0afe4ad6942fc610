"""SQL, and only here: one module per aggregate, synchronous functions on a connection.

Functions take and give domain values; whether several of them are one transaction is decided by the
coordinator's operations, which `Database` runs.
"""
