"""Reports contain no password, even if the server repeats it wherever it can."""

from __future__ import annotations

import io
from base64 import b64decode, b64encode
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from smtp_trio.conform import Outcome, Report, Target, TextReport, check_server, server_cases
from smtp_trio.conform._connection import RECORDED_OCTETS, Connection
from smtp_trio.conform._report_formats import FORMATS

USER, PASSWORD = "ada", 'Qz"7\\ein Wort'
SECRETS = Target(host="mx.test", port=25, user=USER, password=PASSWORD).secrets()


class Echo:
    """Answers each line with itself and with its decoded base64. Nearly all cases fail with the codes."""

    def __init__(self, padding: int) -> None:
        self.padding = b"x" * padding
        self.secret = b"none yet"

    async def serve(self, stream: trio.abc.Stream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.send_all(b"220 mx.test " + self.secret + b"\r\n")
            while data := bytes(await stream.receive_some()):
                for line in data.splitlines():
                    await stream.send_all(self.reply(line))
        await stream.aclose()

    def reply(self, line: bytes) -> bytes:
        for value in SECRETS.values():
            if value in line:
                self.secret = value
                return b"500-%b%b\r\n500-%b\r\n500 %b\r\n" % (self.padding, line, line.lower(), self.decoded(value))
        if line.startswith(b"EHLO"):
            return b"250-mx.test\r\n250-AUTH PLAIN LOGIN\r\n250-X %b\r\n250 %b\r\n" % (self.secret, self.secret)
        return b"334 \r\n" if line.startswith(b"AUTH") or line == SECRETS["user"] else b"250 %b\r\n" % self.secret

    @staticmethod
    def decoded(value: bytes) -> bytes:
        with suppress(ValueError):
            return b64decode(value, validate=True)
        return value


async def reports(padding: int) -> tuple[Report, str]:
    """Return the report, and the text report that was written during the run."""
    out = io.StringIO()
    text = TextReport(out)
    server = Echo(padding)
    async with trio.open_nursery() as nursery:

        async def dial() -> trio.abc.Stream:
            near, far = memory_stream_pair()
            nursery.start_soon(server.serve, far)
            return near

        target = Target(host="mx.test", port=25, user=USER, password=PASSWORD, timeout=5, dial=dial)
        requirements = [
            requirement for requirement in server_cases() if requirement.group in ("auth", "replies", "mail", "ehlo")
        ]
        report = await check_server(target, requirements, on_result=text.add)
        nursery.cancel_scope.cancel()
    text.end(report)
    return report, out.getvalue()


@pytest.mark.parametrize("padding", [0, 160, 180, 1950, 1960, 1970])
@pytest.mark.slow
async def test_reports_without_secrets(padding: int, autojump_clock: MockClock) -> None:
    report, text = await reports(padding)
    login = next(result for result in report.results if result.requirement.id == "auth.plain")
    assert login.outcome is Outcome.FAILED
    assert "{plain}" in text
    for whole in (text, *(write(report) for write in FORMATS.values())):
        whole = whole.lower()
        for form in (PASSWORD, *(value.decode() for name, value in SECRETS.items() if name != "user")):
            assert form.lower() not in whole
            assert form.lower()[:10] not in whole
        assert b64encode(PASSWORD.encode()).decode().rstrip("=").lower() not in whole


async def test_secrets_at_boundaries() -> None:
    """A secret in two segments, and one at the end of the recorded octets, are masked; the rest is counted."""
    near, far = memory_stream_pair()
    connection = Connection(near, secrets={"secret": b"c2VjcmV0"})
    for piece in (b"250 c2Vj", b"cmV0 ", b"x" * (RECORDED_OCTETS - 17), b"c2VjcmV0 and more\r\n"):
        await far.send_all(piece)
        assert await connection._read_some()
    (entry,) = connection.record
    assert entry.data == b"250 {secret} " + b"x" * (RECORDED_OCTETS - 17) + b"{secret}"
    assert entry.length - len(entry.data) == len(b" and more\r\n")


async def test_short_secrets_are_not_masked() -> None:
    """They may be part of any word."""
    near, _ = memory_stream_pair()
    connection = Connection(near, secrets={"user": b"", "secret": b"250"})
    assert connection.mask(b"250 ok\r\n") == b"250 ok\r\n"
