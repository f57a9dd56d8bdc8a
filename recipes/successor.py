"""The whole pipeline: from one model to its successor under a constitution, with a report.

Start: python recipes/successor.py --config recipes/configs/successor.yaml key=value …

It is started alone, and starts each stage itself, in as many processes as `processes` says.
"""

from cai.cli.main import run_and_report
from cai.cli.recipe import run_recipe
from cai.successor.plan import RunConfig

if __name__ == "__main__":
    run_recipe(RunConfig, run_and_report, about=__doc__ or "")
