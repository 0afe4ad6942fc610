"""Programs that mean harm, each small and named for what it tries, and what must come of them."""
