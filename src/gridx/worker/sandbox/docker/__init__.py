"""The `docker` backend: one container of a container engine for each attempt."""
