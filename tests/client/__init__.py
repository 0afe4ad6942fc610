"""The SDK: its calls as values, and both clients against real servers."""
