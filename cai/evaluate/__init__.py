"""Is the successor better than its parent? Held-out answers of both, paired measures, and intervals."""
