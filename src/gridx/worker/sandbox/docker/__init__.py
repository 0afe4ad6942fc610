"""The `docker` backend: one container of a container engine for each attempt."""

from gridx.worker.sandbox.docker.backend import NAME as NAME
from gridx.worker.sandbox.docker.backend import Docker as Docker
from gridx.worker.sandbox.docker.images import Pull as Pull
