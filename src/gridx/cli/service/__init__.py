"""Commands that start or prepare a program of the grid on this machine."""
