"""What tests stand on: real servers, real processes and broken networks, nothing pretended."""
