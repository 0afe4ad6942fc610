"""The coordinator's face to the network: the HTTP API, the worker WebSocket, the documents.

Translates between the wire and the coordinator's use cases; decides nothing about jobs or money.
"""
