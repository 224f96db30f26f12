"""The records of an outage of a store's engine, and of the messages that are refused during it."""

from __future__ import annotations

import logging
import time

import pytest

from smtp_trio.stores import StoreError
from smtp_trio.stores._outage import Outage


def test_an_outage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "smtp_trio.stores")
    outage = Outage(lambda: "redis://host")
    outage.end(time.monotonic())
    for _ in range(3):
        error = outage.error(ConnectionResetError("reset"))
        assert isinstance(error, StoreError)
        assert str(error) == "reset"
    assert str(outage.error(TimeoutError())) == "TimeoutError"
    assert outage.active
    outage.end(time.monotonic())
    outage.end(time.monotonic())
    assert [getattr(record, "event", None) for record in caplog.records] == ["store_interrupted", "store_resumed"]


def test_an_attempt_that_began_before_the_outage_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "smtp_trio.stores")
    outage = Outage(lambda: "postgresql://host/db")
    began = time.monotonic()
    outage.error(ConnectionResetError("reset"))
    outage.end(began)
    assert outage.active
    between = time.monotonic()
    outage.error(ConnectionResetError("reset"))
    outage.end(between)
    assert outage.active
    outage.end(time.monotonic())
    assert [getattr(record, "event", None) for record in caplog.records] == ["store_interrupted", "store_resumed"]
