"""Conformance tests for SMTP servers and clients: cases as text, the code that runs them, and reports.

This is the library of ``smtp-trio conform``. `check_server` tries the cases of `server_cases`, or your own ones, which
`read_cases` reads from text, on a `Target`, and returns a `Report`.
"""

from __future__ import annotations

from ._case import Case, Invariant, Level, Requirement, Stage
from ._notation import NotationError
from ._report import Outcome, Report, Result
from ._report_formats import as_json, junit, tap
from ._server_cases import read_cases, server_cases
from ._server_runner import check_server
from ._target import Target, UnreachableError
from ._text_report import TextReport

__all__ = [
    "Case",
    "Invariant",
    "Level",
    "NotationError",
    "Outcome",
    "Report",
    "Requirement",
    "Result",
    "Stage",
    "Target",
    "TextReport",
    "UnreachableError",
    "as_json",
    "check_server",
    "junit",
    "read_cases",
    "server_cases",
    "tap",
]
