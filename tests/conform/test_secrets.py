"""A server that says our password back, wherever it can: no report has it."""

from __future__ import annotations

import io
from base64 import b64decode, b64encode
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from smtp_trio.conform import Outcome, Report, Target, TextReport, conform
from smtp_trio.conform._formats import FORMATS
from smtp_trio.conform._server_cases import server_rules
from smtp_trio.conform._talk import KEPT, Talk

USER, PASSWORD = "ada", 'Qz"7\\ein Wort'
SECRETS = Target(host="mx.test", port=25, user=USER, password=PASSWORD).secrets()


class Echo:
    """Answers each line with itself, and with what it means; the codes are such that nearly all cases fail."""

    def __init__(self, padding: int) -> None:
        self.padding = b"x" * padding
        self.heard = b"nothing"

    async def serve(self, stream: trio.abc.Stream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.send_all(b"220 mx.test " + self.heard + b"\r\n")
            while data := bytes(await stream.receive_some()):
                for line in data.splitlines():
                    await stream.send_all(self.answer(line))
        await stream.aclose()

    def answer(self, line: bytes) -> bytes:
        for value in SECRETS.values():
            if value in line:
                self.heard = value
                return b"500-%b%b\r\n500-%b\r\n500 %b\r\n" % (self.padding, line, line.lower(), self.meaning(value))
        if line.startswith(b"EHLO"):
            return b"250-mx.test\r\n250-AUTH PLAIN LOGIN\r\n250-X %b\r\n250 %b\r\n" % (self.heard, self.heard)
        return b"334 \r\n" if line.startswith(b"AUTH") or line == SECRETS["user"] else b"250 %b\r\n" % self.heard

    @staticmethod
    def meaning(value: bytes) -> bytes:
        with suppress(ValueError):
            return b64decode(value, validate=True)
        return value


async def told(padding: int) -> tuple[Report, str]:
    """The report, and what is written of it while it is made."""
    out = io.StringIO()
    text = TextReport(out)
    server = Echo(padding)
    async with trio.open_nursery() as nursery:

        async def dial() -> trio.abc.Stream:
            near, far = memory_stream_pair()
            nursery.start_soon(server.serve, far)
            return near

        target = Target(host="mx.test", port=25, user=USER, password=PASSWORD, timeout=5, dial=dial)
        rules = [rule for rule in server_rules() if rule.group in ("auth", "replies", "mail", "ehlo")]
        report = await conform(target, rules, on_result=text.add)
        nursery.cancel_scope.cancel()
    text.end(report)
    return report, out.getvalue()


@pytest.mark.parametrize("padding", [0, 160, 180, 1950, 1960, 1970])
@pytest.mark.slow
async def test_an_echo(padding: int, autojump_clock: MockClock) -> None:
    report, text = await told(padding)
    login = next(result for result in report.results if result.rule.id == "auth.plain")
    assert login.outcome is Outcome.FAILED
    assert "{plain}" in text
    for whole in (text, *(write(report) for write in FORMATS.values())):
        whole = whole.lower()
        for form in (PASSWORD, *(value.decode() for name, value in SECRETS.items() if name != "user")):
            assert form.lower() not in whole
            assert form.lower()[:10] not in whole
        assert b64encode(PASSWORD.encode()).decode().rstrip("=").lower() not in whole


async def test_pieces_and_ends() -> None:
    """A secret that comes in two, and one that stands where a record ends, are no less secret; the rest is counted."""
    near, far = memory_stream_pair()
    talk = Talk(near, secrets={"secret": b"c2VjcmV0"})
    for piece in (b"250 c2Vj", b"cmV0 ", b"x" * (KEPT - 17), b"c2VjcmV0 and more\r\n"):
        await far.send_all(piece)
        assert await talk._more()
    (entry,) = talk.record
    assert entry.data == b"250 {secret} " + b"x" * (KEPT - 17) + b"{secret}"
    assert entry.length - len(entry.data) == len(b" and more\r\n")


async def test_what_is_no_secret() -> None:
    """Words too short to be one, and no password at all."""
    near, _ = memory_stream_pair()
    talk = Talk(near, secrets={"user": b"", "secret": b"250"})
    assert talk.hide(b"250 ok\r\n") == b"250 ok\r\n"
