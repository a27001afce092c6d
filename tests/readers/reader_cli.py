"""Runs reduct-cli as a plan asks, in one process: starting it takes longer than an export.

A plan is a JSON file: the command line's configuration, and a list of calls, each a list of arguments.
"""

import json
import sys

from reduct_cli.cli import cli

with open(sys.argv[1], encoding="utf-8") as file:
    plan = json.load(file)
for call in plan["calls"]:
    cli(["--config", plan["config"], *call], obj={}, standalone_mode=False)
