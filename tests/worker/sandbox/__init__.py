"""The sandboxes: what they run, what they bound, what they leave behind."""
