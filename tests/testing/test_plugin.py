"""Tests of the pytest plugin in separate test suites: with pytest-trio, with anyio, without both, and with pytest-xdist."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from installed_plugin import INI, installed

pytest_plugins = ["pytester"]

ASYNC = """\
import pytest
import trio
from smtp_trio import Hooks, AllRecipientsRejectedError, ReplyError, Reply
from smtp_trio.testing import Answer, Faults, Greylist, Inbox, Reset, Tarpit
from trio.testing import MockClock
{CLOCK}
MESSAGE = b"Subject: hi\\r\\n\\r\\nhello\\r\\n"
ENDS = "me@client.test", ["you@mx.test"]


@pytest.mark.smtp_server(timeout=120)
async def test_time(smtp_client, inbox, {clock}):
    await smtp_client.send(*ENDS, MESSAGE)
    [mail] = await inbox.wait_for(to="you@mx.test")
    await trio.sleep(1000)
    with pytest.raises(ReplyError, match="421 4.4.2"):
        await smtp_client.noop()
    assert "@ 120\\nS: 421 4.4.2" in str(mail.transcript)


@pytest.mark.smtp_server(tls=True, timeout=7)
class TestMarks:
    @pytest.mark.smtp_server(timeout=5)
    @pytest.mark.smtp_client(name="other.test")
    async def test_closest_mark_has_precedence(self, smtp_server, smtp_client, {clock}):
        assert smtp_client.tls
        assert smtp_server.server.timeouts.command == 5
        await smtp_client.send(*ENDS, MESSAGE)
        assert b"EHLO other.test" in smtp_server.inbox[0].transcript.octets("C")


@pytest.mark.smtp_faults(Answer("RCPT", 450))
async def test_faults_by_mark(smtp_client, inbox, {clock}):
    with pytest.raises(AllRecipientsRejectedError):
        await smtp_client.send(*ENDS, MESSAGE)
    await smtp_client.send(*ENDS, MESSAGE)
    inbox.assert_delivered()


@pytest.mark.parametrize("smtp_faults", [Faults(Answer("RCPT", code)) for code in (450, 550)])
async def test_faults_by_parameter(smtp_client, smtp_faults, {clock}):
    with pytest.raises(AllRecipientsRejectedError, match=str(smtp_faults.rules[0].code)):
        await smtp_client.send(*ENDS, MESSAGE)


@pytest.mark.parametrize("smtp_faults", [Faults(Answer("RCPT", 450))])
class TestFaultsOfAClass:
    async def test_first(self, smtp_client, {clock}):
        with pytest.raises(AllRecipientsRejectedError):
            await smtp_client.send(*ENDS, MESSAGE)

    async def test_second_has_the_fault_as_well(self, smtp_client, {clock}):
        with pytest.raises(AllRecipientsRejectedError):
            await smtp_client.send(*ENDS, MESSAGE)


@pytest.mark.smtp_server(hooks=lambda inbox: Greylist(Tarpit(inbox)))
async def test_layers(smtp_server, inbox, {clock}):
    async with smtp_server.client() as client:
        with pytest.raises(AllRecipientsRejectedError, match="Greylisted"):
            await client.send(*ENDS, MESSAGE)
    await trio.sleep(300)
    async with smtp_server.client() as client:
        await client.send(*ENDS, MESSAGE)
    assert smtp_server.inbox is inbox
    assert len(inbox) == 1


class TestOverridden:
    @pytest.fixture
    def inbox(self):
        class RejectingInbox(Inbox):
            async def rcpt(self, session, rcpt):
                return Reply(550, "No such user")

        return RejectingInbox()

    async def test_overridden_inbox(self, smtp_client, inbox, {clock}):
        with pytest.raises(AllRecipientsRejectedError, match="No such user"):
            await smtp_client.send(*ENDS, MESSAGE)
        inbox.assert_empty()


async def test_timeout_of_wait_for(smtp_client, inbox, {clock}):
    with pytest.raises(trio.TooSlowError):
        with trio.fail_after(3600):
            await inbox.wait_for()
"""
PASSED = 10
CLOCK = """
@pytest.fixture
def anyio_backend():
    return "trio", {"clock": MockClock(autojump_threshold=0)}

"""
SYNC = """\
import smtplib
import sys


def test_it(smtp_inbox):
    with smtplib.SMTP(smtp_inbox.host, smtp_inbox.port) as client:
        client.sendmail("me@client.test", ["you@mx.test"], "Subject: hi\\n\\nhello\\n")
    [mail] = smtp_inbox.wait_for(to="you@mx.test")
    assert mail.subject == "hi"
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", installed(tmp_path))
    pytester.makeini(INI)
    return pytester


@pytest.mark.slow
def test_with_pytest_trio(suite: pytest.Pytester) -> None:
    mark = "pytestmark = pytest.mark.trio\n"
    suite.makepyfile(ASYNC.replace("{CLOCK}", mark).replace("{clock}", "autojump_clock"))
    suite.runpytest_subprocess("-p", "no:anyio").assert_outcomes(passed=PASSED)


@pytest.mark.slow
def test_with_anyio(suite: pytest.Pytester) -> None:
    mark = "pytestmark = pytest.mark.anyio\n"
    suite.makepyfile(ASYNC.replace("{CLOCK}", CLOCK + mark).replace("{clock}", "anyio_backend"))
    suite.runpytest_subprocess("-p", "no:trio").assert_outcomes(passed=PASSED)
    # With both plugins, each runs the tests that are marked for it.
    suite.runpytest_subprocess().assert_outcomes(passed=PASSED)


@pytest.mark.slow
def test_fixtures_outside_trio_are_errors(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest

        def test_sync(smtp_client):
            pass

        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["asyncio"])
        async def test_asyncio(smtp_server, anyio_backend):
            pass

        @pytest.mark.smtp_server(120)
        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["trio"])
        async def test_mark(smtp_server, anyio_backend):
            pass
        """
    )
    result = suite.runpytest_subprocess("-p", "no:trio")
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(
        [
            "*but no plugin runs this test in Trio.*pip install pytest-trio*use the fixture smtp_inbox.",
            "*but this test runs in asyncio.*",
            "*pytest.mark.smtp_server accepts keyword arguments only*",
        ]
    )


@pytest.mark.slow
def test_hooks_that_are_none(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.trio
        @pytest.mark.smtp_server(hooks=5)
        async def test_mark(smtp_server):
            pass
        """
    )
    result = suite.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*hooks of pytest.mark.smtp_server must be Hooks, a Server, or a function*"])


@pytest.mark.slow
def test_own_servers_and_failing_hooks(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import threading
        import pytest
        import trio
        from smtp_trio import Hooks, ReplyError, Server

        pytestmark = pytest.mark.trio

        class Desk(Hooks):
            async def mail(self, session, mail):
                if mail.sender.raw == "wrong@client.test":
                    raise ZeroDivisionError("in the hook")
                await trio.to_thread.run_sync(threading.current_thread)

        @pytest.mark.smtp_server(hooks=lambda inbox: Server(Desk(), name="desk.test", size=77))
        async def test_server(smtp_client, inline_threads, autojump_clock):
            assert smtp_client.offered["SIZE"].limit == 77
            await smtp_client.mail("me@client.test")
            assert trio.current_time() == 0

        @pytest.mark.smtp_server(hooks=Desk(), size=78)
        async def test_hooks(smtp_client):
            assert smtp_client.offered["SIZE"].limit == 78

        @pytest.mark.smtp_server(hooks=Desk())
        async def test_failing_hook(smtp_client):
            with pytest.raises(ReplyError, match="451"):
                await smtp_client.mail("wrong@client.test")

        @pytest.mark.smtp_server(hooks=Desk(), raise_hook_errors=False)
        async def test_failing_hook_is_ignored(smtp_client):
            with pytest.raises(ReplyError, match="451"):
                await smtp_client.mail("wrong@client.test")
        """
    )
    result = suite.runpytest_subprocess()
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*ZeroDivisionError: in the hook*", "FAILED *::test_failing_hook *"])


@pytest.mark.slow
def test_without_other_plugins(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin imports neither Trio nor smtp_trio before one of its fixtures is used."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    first = '\nloaded = {"trio", "attr", "smtp_trio.testing"} & set(sys.modules)\n\n\ndef test_first():\n    assert not loaded\n'
    suite.makepyfile(test_a=first.replace("\n", "import sys\n", 1), test_b=SYNC)
    suite.runpytest_subprocess("-p", "smtp_trio").assert_outcomes(passed=2)


@pytest.mark.slow
def test_can_be_disabled(suite: pytest.Pytester) -> None:
    suite.makepyfile(SYNC)
    result = suite.runpytest_subprocess("-p", "no:smtp_trio")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'smtp_inbox' not found*"])


@pytest.mark.slow
def test_with_pytest_xdist(suite: pytest.Pytester) -> None:
    """Each process has its own server, port and messages."""
    pytest.importorskip("xdist", reason="the processes are those of pytest-xdist")
    suite.makepyfile(
        "import pytest\n" + SYNC.replace("def test_it(", '@pytest.mark.parametrize("n", range(8))\ndef test_it(n, ')
    )
    suite.runpytest_subprocess("-n", "2").assert_outcomes(passed=8)


@pytest.mark.slow
def test_marks_and_fixtures_are_listed(suite: pytest.Pytester) -> None:
    output = "\n".join(suite.runpytest_subprocess("--markers").outlines)
    assert output.count("@pytest.mark.smtp_") == 4
    output = "\n".join(suite.runpytest_subprocess("--fixtures").outlines)
    for name in ("inbox", "smtp_faults", "smtp_server", "smtp_client", "smtp_inbox"):
        assert f"\n{name} -- " in output
    assert "no docstring" not in output.partition("smtp_trio._pytest_plugin")[2].partition("-----")[0]


def test_import_loads_no_other_module(tmp_path: Path) -> None:
    """A start of pytest with the plugin costs no more than the import of four small modules."""
    source = "import sys, pytest; before = set(sys.modules); import smtp_trio._pytest_plugin; print(*set(sys.modules) - before)"
    env = {**os.environ, "PYTHONPATH": installed(tmp_path)}
    done = subprocess.run([sys.executable, "-c", source], env=env, capture_output=True, text=True, check=True)
    lazy = {"smtp_trio.protocol", "smtp_trio.protocol.lazy"}  # what imports the public names when they are used
    assert set(done.stdout.split()) == {"smtp_trio", "smtp_trio._pytest_plugin"} | lazy


@pytest.mark.slow
def test_rules_that_have_not_acted_are_reported(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest
        from smtp_trio import AllRecipientsRejectedError
        from smtp_trio.testing import Answer, Close, Faults

        MESSAGE = b"Subject: hi\\r\\n\\r\\nhello\\r\\n"
        pytestmark = pytest.mark.trio


        @pytest.mark.smtp_faults(Answer("DATA", 451))
        async def test_mark(smtp_client, inbox, autojump_clock):
            await smtp_client.send("me@client.test", ["you@mx.test"], MESSAGE)


        @pytest.mark.parametrize("smtp_faults", [Faults(Answer(".", 451)), Faults(Answer(".", 451), Close("NOOP"))])
        async def test_parameter(smtp_client, smtp_faults, autojump_clock):
            with pytest.raises(AllRecipientsRejectedError):
                await smtp_client.send("me@client.test", ["you@mx.test"], MESSAGE)
    """)
    suite.runpytest_subprocess("-p", "no:anyio").assert_outcomes(passed=1, failed=2)  # warnings are errors
    result = suite.runpytest_subprocess("-p", "no:anyio", "-W", "default::pytest.PytestWarning")
    result.assert_outcomes(passed=3, warnings=2)
    result.stdout.fnmatch_lines(
        [
            "*these rules of smtp_faults have not acted: Answer('DATA', 451)",
            "*these rules of smtp_faults have not acted: Close('NOOP')",
        ]
    )
