"""Critique and revision: from prompts to answers that a constitution has improved (Bai et al. 2022, section 3)."""

from cai.generate.pipeline import GenerateConfig, run_generate

__all__ = ["GenerateConfig", "run_generate"]
