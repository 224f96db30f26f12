"""Run the benchmarks, and print the tables: ``python -m benchmarks [--short] [--only WORD] [--write]``."""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from . import core, fairness, memory, report, sending, serving, storing, working
from .case import Ground, run

THEMES = {
    "The protocol alone": core.CASES,
    "Server": serving.CASES,
    "Workers": working.CASES,
    "Fairness": fairness.CASES,
    "Client": sending.CASES,
    "Stores": storing.CASES,
    "Memory and start": memory.CASES,
}


def main() -> None:
    """Run them all, theme by theme."""
    parser = argparse.ArgumentParser(prog="benchmarks", description="What smtp_trio costs, measured beside others.")
    parser.add_argument("--short", action="store_true", help="one round of little work: shows that it runs, no more")
    parser.add_argument("--only", default="", metavar="WORD", help="only what has this in its theme or name")
    parser.add_argument(
        "--write", action="store_true", help="put the results into docs/, in the place of those of the same cases"
    )
    args = parser.parse_args()
    outcomes = []
    before = {(old.theme, old.name): old for old in report.read()[1]} if args.write and args.only else {}
    machine = report.machine()
    print("\n".join(f"{key}: {words}" for key, words in machine.items()), flush=True)
    for theme, cases in THEMES.items():
        with ExitStack() as stack:
            ground = Ground(stack, args.short)
            for case in cases:
                if args.only.lower() in f"{theme} {case.name}".lower():
                    outcome = run(theme, case, ground)
                    print(report.text(outcome), flush=True)
                    outcomes.append(outcome)
                elif (theme, case.name) in before:
                    outcomes.append(before[theme, case.name])
    if args.write:
        report.write(machine, outcomes)


if __name__ == "__main__":
    main()
