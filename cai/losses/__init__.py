"""Losses: pure functions of tensors. One algorithm per file; import it from its file.

No configs, no files, no distributed calls: what has to be summed over microbatches or ranks is returned as a sum
beside its count, so the caller divides once, by the global count.
"""
