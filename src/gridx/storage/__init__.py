"""SQL, and only here: one module per aggregate, synchronous functions on a connection.

Functions take and give domain values; whether several of them are one transaction is decided by the
coordinator's operations, which `Database` runs. What runs often is a statement of the module, with
names for its values: SQLAlchemy takes longer to make one anew than most take to run.
"""
