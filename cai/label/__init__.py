"""AI preference labels: two answers per prompt, a judge, a principle, a probability (Bai et al. 2022, section 4)."""

from cai.label.config import LabelConfig, PairsConfig
from cai.label.pipeline import run_label

__all__ = ["LabelConfig", "PairsConfig", "run_label"]
