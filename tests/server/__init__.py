"""The server: the real application on real databases, asked over real sockets."""
