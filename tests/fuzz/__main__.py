"""Run the targets under Atheris: ``python -m fuzz [--seconds N] [--seed N] [TARGET …]``.

As the examples of Hypothesis, the inputs are the same in each run, as far as the time allows, unless the seed is another one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
RUN = "--run"


def run(name: str, arguments: list[str]) -> None:
    """Run one target in this process. Atheris ends the process."""
    import atheris  # a tool of the session `fuzz` only

    with atheris.instrument_imports(include=["smtp_trio.protocol"]):
        from .targets import TARGETS
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    """Run each target in a process of its own, and return the exit code: 1 if one has failed."""
    if sys.argv[1:2] == [RUN]:
        run(sys.argv[2], sys.argv[3:])
    from .targets import TARGETS

    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=5 * len(TARGETS), help="time for all targets together")
    parser.add_argument("--seed", type=int, default=1, help="chooses the inputs; 0: others in each run (default: 1)")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"one of {', '.join(TARGETS)} (default: all)")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"unknown target: {', '.join(sorted(unknown))}")
    targets = options.targets or [*TARGETS]
    seconds = max(1, options.seconds // len(targets))
    failed = []
    for name in targets:
        with tempfile.TemporaryDirectory() as found:  # new inputs; those in the corpus are not changed
            arguments = [found, str(CORPUS / name), f"-max_total_time={seconds}", "-max_len=4096", "-timeout=60"]
            arguments += [f"-seed={options.seed}"]
            arguments += [f"-dict={CORPUS / 'smtp.dict'}", f"-artifact_prefix={name}-", "-print_final_stats=1"]
            command = [sys.executable, "-m", __package__, RUN, name, *arguments]
            # The order of sets decides which inputs seem to be new.
            environment = {**os.environ, "PYTHONHASHSEED": "0"}
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False, env=environment
            )
            inputs = len(list(Path(found).iterdir()))
        statistics = dict(
            line.removeprefix("stat::").split(":", 1) for line in done.stderr.splitlines() if line.startswith("stat::")
        )
        runs = statistics.get("number_of_executed_units", "?").strip()
        print(
            f"{name:14} {runs:>9} runs, {inputs:>5} new inputs, {'ok' if done.returncode == 0 else 'FAILED'}",
            flush=True,
        )
        if done.returncode:
            failed.append(name)
            print(done.stdout[-3000:], done.stderr[-6000:], sep="\n", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
