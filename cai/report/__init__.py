"""The report: one HTML file that shows a run, to be opened anywhere and sent to anyone."""

from cai.report.html import write_report

__all__ = ["write_report"]
