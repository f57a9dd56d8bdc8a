"""Inference engines: one contract for all of them (`base`), and an adapter for each. `build` makes one by name."""
