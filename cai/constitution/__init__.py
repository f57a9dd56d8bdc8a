"""Constitutions: the principles that a model is trained under, as files that people write, argue about and version."""

from cai.constitution.model import Constitution, FewShot, Principle, Wordings
from cai.constitution.parse import load_constitution
from cai.constitution.sample import draw, draw_balanced, draw_distinct

__all__ = [
    "Constitution",
    "FewShot",
    "Principle",
    "Probe",
    "Wordings",
    "draw",
    "draw_balanced",
    "draw_distinct",
    "load_constitution",
]
