"""`python -m gridx` is the same as `gridx`."""

from gridx.cli import main

if __name__ == "__main__":
    main()
