"""Benchmarks of smtp_trio beside other servers and clients: ``python -m benchmarks``, or ``nox -s bench``. Linux only.

The contenders of a `Case` take turns in rounds, and results are compared within a round. There is a module for each
theme (`core`, `serving`, `working`, `fairness`, `sending`, `storing`, `memory`), with a list of cases.
"""
