"""Proximal policy optimisation against a preference model, on one process or many."""
