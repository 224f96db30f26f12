"""Forty tests run at the same time with one server, and none sees a message of another."""

from __future__ import annotations

import json
import smtplib
from functools import partial
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
import trio
from attrs import frozen

import smtp_trio
from smtp_trio import web
from smtp_trio.stores import Memory

TESTS = 40


@frozen
class Program:
    """A test of another program, which shares a server. Numbers such as 1 and 11 have the same beginning."""

    number: int
    port: int
    url: str

    @property
    def own(self) -> tuple[str, bytes, str]:
        """The recipient, the header field and the query with which this test finds its messages."""
        return (
            (f"test-{self.number}@example.org", b"", f"rcpt:test-{self.number}@example.org"),
            (f"bob+test-{self.number}@example.org", b"", f"detail:test-{self.number}"),
            ("bob@example.org", b"X-Test-Id: %d\r\n" % self.number, f"header:X-Test-Id={self.number}"),
        )[self.number % 3]

    def call(self, method: str, path: str, **parameters: object) -> dict[str, Any]:
        request = Request(f"{self.url}/api{path}?{urlencode(parameters)}", method=method)
        with urlopen(request, timeout=100) as response:
            found: dict[str, Any] = json.load(response)
        return found

    def send(self, text: str) -> None:
        recipient, field, _ = self.own
        with smtplib.SMTP("127.0.0.1", self.port, timeout=100) as smtp:
            message = b"%bSubject: %b\r\n\r\n%d\r\n" % (field, text.encode(), self.number)
            smtp.sendmail("shop@example.net", [recipient], message)

    def subjects(self, found: dict[str, Any]) -> list[str]:
        for message in found["messages"]:
            assert message.get("text", f"{self.number}\n") == f"{self.number}\n"
        return [message["subject"] for message in found["messages"]]

    def run(self) -> None:
        query = self.own[2]
        self.send("first")
        [first] = self.call("GET", "/wait", query=query, timeout=60)["messages"]
        assert self.subjects({"messages": [first]}) == ["first"]
        with pytest.raises(HTTPError, match="404"):
            self.call("GET", "/wait", query=query, after_id=first["id"], timeout=0.01)
        self.send("second")
        assert self.subjects(self.call("GET", "/wait", query=query, after_id=first["id"], timeout=60)) == ["second"]
        assert self.subjects(self.call("GET", "/wait", query=query, count=2, timeout=60)) == ["second", "first"]
        assert self.subjects(self.call("GET", "/messages", query=query)) == ["second", "first"]
        assert self.call("DELETE", "/messages", query=query) == {"removed": 2}
        assert self.subjects(self.call("GET", "/messages", query=query)) == []


async def test_tests_that_share_a_server_do_not_see_the_messages_of_others() -> None:
    threads = trio.CapacityLimiter(TESTS)
    async with Memory() as store, trio.open_nursery() as nursery:
        server = smtp_trio.Server(store)
        listener, *_ = await nursery.start(partial(server.serve, 0, host="127.0.0.1"))
        url = await nursery.start(partial(web.serve, server, store, 0))
        port = listener.socket.getsockname()[1]
        async with trio.open_nursery() as tests:
            for number in range(TESTS):
                program = Program(number, port, url)
                tests.start_soon(partial(trio.to_thread.run_sync, program.run, limiter=threads))
        assert await store.count() == 0
        assert server.statistics().messages == 2 * TESTS
        nursery.cancel_scope.cancel()
