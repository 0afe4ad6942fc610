"""The wire: bodies, errors and frames, without a server."""
