"""Constitutions: the principles that a model is trained under, as files that people write, argue about and version."""

from cai.constitution.checkers import checker
from cai.constitution.model import ComparisonShot, Constitution, FewShot, Principle, Probe, Wordings
from cai.constitution.parse import load_constitution
from cai.constitution.sample import check_tags, draw, draw_balanced, draw_distinct

__all__ = [
    "ComparisonShot",
    "Constitution",
    "FewShot",
    "Principle",
    "Probe",
    "Wordings",
    "check_tags",
    "checker",
    "draw",
    "draw_balanced",
    "draw_distinct",
    "load_constitution",
]
