"""Run the benchmarks, and print the tables: ``python -m benchmarks [--short] [--only WORD] [--rounds N] [--write]``."""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from . import core, engines, fairness, instructions, memory, report, sending, serving, storing, versions, working
from .case import Environment, run

THEMES = {
    "The protocol alone": core.CASES,
    "Server": serving.CASES,
    "Versions of Python": versions.CASES,
    "Instructions": instructions.CASES,
    "Workers": working.CASES,
    "Fairness": fairness.CASES,
    "Client": sending.CASES,
    "Stores": storing.CASES,
    "Engines": engines.CASES,
    "Memory and start": memory.CASES,
}


def main() -> None:
    """Run the cases, theme by theme."""
    parser = argparse.ArgumentParser(
        prog="benchmarks", description="Measure smtp_trio beside other servers and clients."
    )
    parser.add_argument(
        "--short", action="store_true", help="one round of little work, only to show that everything runs"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="WORD",
        help="run only the cases with this word in their theme or name (may be given several times)",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="the number of rounds of cases that have several")
    parser.add_argument(
        "--write", action="store_true", help="write the results to docs/, replacing those of the same cases"
    )
    args = parser.parse_args()
    outcomes = []
    before = {(old.theme, old.name): old for old in report.read()[1]} if args.write and args.only else {}
    machine = report.machine()
    print("\n".join(f"{key}: {value}" for key, value in machine.items()), flush=True)
    for theme, cases in THEMES.items():
        with ExitStack() as stack:
            env = Environment(stack, args.short, args.rounds)
            for case in cases:
                words = [word.lower() for word in args.only or [""]]
                if any(word in f"{theme} {case.name}".lower() for word in words):
                    outcome = run(theme, case, env)
                    print(report.format_outcome(outcome), flush=True)
                    outcomes.append(outcome)
                elif (theme, case.name) in before:
                    outcomes.append(before[theme, case.name])
    if args.write:
        report.write(machine, outcomes)


if __name__ == "__main__":
    main()
