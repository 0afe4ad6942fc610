"""The real grid under one manual clock and a seeded schedule of faults."""
