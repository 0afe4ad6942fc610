"""The machine's side of the grid: takes attempts, runs them sandboxed, reports what they did."""
