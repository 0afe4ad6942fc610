"""The product as a stranger uses it: real processes, plain HTTP, frames by hand, the command line."""
