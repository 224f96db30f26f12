"""A server beside what the RFCs say: cases as data, an engine that plays them, and reports. ``smtp-trio conform`` is its command."""

from __future__ import annotations

from ._case import Case, Invariant, Level, Rule, State, Step
from ._formats import as_json, junit, tap
from ._runner import Outcome, Report, Result, conform
from ._steps import Expect, ExpectAll, ExpectClose, ExpectSilence, Send, SendEof, SendTooMuch, StartTls, When
from ._talk import Entry, Hungup, Reply, Talk, WrongAnswer
from ._target import Facts, Target, Unprepared, Unreachable, survey
from ._text import TextReport, summary

__all__ = [
    "Case",
    "Entry",
    "Expect",
    "ExpectAll",
    "ExpectClose",
    "ExpectSilence",
    "Facts",
    "Hungup",
    "Invariant",
    "Level",
    "Outcome",
    "Reply",
    "Report",
    "Result",
    "Rule",
    "Send",
    "SendEof",
    "SendTooMuch",
    "StartTls",
    "State",
    "Step",
    "Talk",
    "Target",
    "TextReport",
    "Unprepared",
    "Unreachable",
    "When",
    "WrongAnswer",
    "as_json",
    "conform",
    "junit",
    "summary",
    "survey",
    "tap",
]
