"""What smtp_trio costs, measured beside others: ``python -m benchmarks``, or ``nox -s bench``. Linux only.

A `Case` is one question, its contenders take turns in rounds, and what counts are ratios of neighbours in a round. One module a
theme (`core`, `serving`, `sending`, `storing`, `memory`), each a table of cases.
"""
