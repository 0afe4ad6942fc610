"""The service that holds the queue, the ledger and the workers' connections.

Use cases: each public method of the classes here checks rights, decides with the domain, and runs one
transaction. Knows neither HTTP nor the wire.
"""
