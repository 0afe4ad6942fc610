"""What bounds and counts an attempt: the kernel's control groups, of whichever version."""
