"""The HTTP API, one module for each part of it: what is asked, what is answered.

Each module declares its operations; `gridx.server.app` puts them together.
"""
