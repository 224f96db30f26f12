"""Fuzzing of the protocol core.

    python -m nox -s fuzz                              five seconds for each target
    python -m nox -s fuzz -- --seconds 600             ten minutes for all targets together
    python -m nox -s fuzz -- --seconds 60 paths auth   one minute for these two

`targets` has one function for each part of the core that parses octets of a peer. `__main__` runs them under Atheris, which
changes the inputs so that they take new branches. ``corpus`` has inputs to begin with, a directory for each target. An input
that makes a target fail is written to ``crash-…`` in the working directory; once the fault is corrected it goes into the
corpus, which `test_corpus` runs with the other tests.
"""
