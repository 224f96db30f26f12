"""The list of commands in the reply to HELP (RFC 5321 4.1.1.8)."""

from __future__ import annotations

from typing import Any

import pytest

from smtp_trio.protocol import Command, Expn, Extension, Reply, SessionState, Table
from smtp_trio.protocol.dialogue import READY, RECIPIENT as RECIPIENT_PHASE, SENDER as SENDER_PHASE
from smtp_trio.protocol.extensions import Auth, StartTls, standard
from smtp_trio.protocol.strictness import lenient_mode

from .driver import HELLO, RECIPIENT, SENDER, ServerDriver, replying


def listed(driver: ServerDriver) -> set[str]:
    """Return the verbs that HELP lists."""
    reply = driver.send_lines("HELP")[-1]
    *lines, hint = [line[4:].removeprefix("2.0.0 ") for line in reply.split("\n")]
    assert hint == "HELP followed by a command shows its syntax"
    first, *verbs = " ".join(lines).split(" ")
    assert first == "Commands:"
    assert len(set(verbs)) == len(verbs)
    return set(verbs)


#: A line for each verb that is accepted where the verb is allowed.
SAMPLES = {
    "HELO": "HELO a.test", "EHLO": HELLO, "MAIL": SENDER, "RCPT": RECIPIENT, "DATA": "DATA", "RSET": "RSET", "NOOP": "NOOP",
    "QUIT": "QUIT", "VRFY": "VRFY a", "EXPN": "EXPN a", "HELP": "HELP", "STARTTLS": "STARTTLS", "BDAT": "BDAT 0",
    "AUTH": "AUTH PLAIN AGEAc2VjcmV0", "XWHO": "XWHO",
}  # fmt: skip


class XwhoCommand(Command):
    """XWHO, a verb of another package."""

    __slots__ = ()

    verb = "XWHO"
    usage = "XWHO"
    default_reply = Reply(250, "You", "2.0.0")


class Xwho(Extension):
    """An extension whose verb is allowed after MAIL only, and not for one client."""

    keyword = "XWHO"
    verbs = (XwhoCommand,)
    table = Table({XwhoCommand: {SENDER_PHASE: SENDER_PHASE, RECIPIENT_PHASE: RECIPIENT_PHASE}})

    def check_verb(self, verb: str, state: SessionState) -> Reply | None:
        denied = verb == "XWHO" and state.mail is not None and state.mail.sender.local == "denied"
        return Reply(530, "Not for you", "5.7.0") if denied else None


@pytest.mark.parametrize("lines", [
    [], [HELLO], ["HELO a.test"], [HELLO, SENDER], [HELLO, SENDER, RECIPIENT], [HELLO, SENDER, RECIPIENT, "BDAT 0"],
    [HELLO, SENDER, RECIPIENT, "BDAT 0", "BDAT 0 LAST"], [HELLO, "STARTTLS"], [HELLO, "STARTTLS", HELLO],
    [HELLO, "STARTTLS", HELLO, "AUTH PLAIN AGEAc2VjcmV0"], [HELLO, "STARTTLS", HELLO, "AUTH PLAIN AGEAc2VjcmV0", SENDER],
    [HELLO, "MAIL FROM:<denied@a.test>"], [HELLO, "AUTH PLAIN AGEAc2VjcmV0"], ["HELO a.test", SENDER, RECIPIENT],
])  # fmt: skip
@pytest.mark.parametrize("settings", [
    {}, {"hooks": {"auth", "expn"}}, {"tls": True}, {"tls": True, "hooks": {"auth"}},
    {"secure": True, "tls": True, "hooks": {"auth"}},
    {"tls": True, "hooks": {"auth"}, "extensions": standard(StartTls(required=True), Auth(required=True))},
    {"hooks": {"auth"}, "extensions": standard(Auth(required=True, cleartext=True), Xwho())}, {"extensions": ()},
    {"tls": True, "hooks": {"auth"}, "extensions": standard(Auth(cleartext=True)), "strictness": lenient_mode("a.test")},
])  # fmt: skip
def test_help_lists_the_verbs_that_are_allowed_now(settings: dict[str, Any], lines: list[str]) -> None:
    """Compare the list with the reply to each verb in the same state: 502, 503, 530 and 538 mean that it is not allowed."""

    def begin() -> ServerDriver:
        driver = ServerDriver(answer=replying((Expn, Reply(250, "<a@mx.test>", "2.1.5"))), **settings)
        driver.send_lines()
        for line in lines:
            driver.send_lines(line)
        return driver

    driver = begin()
    if driver.closed:  # by BDAT without the extension
        return
    help_code = begin().send_lines("HELP")[-1][:3]
    if help_code != "214":  # HELP is not allowed before a required STARTTLS (RFC 3207 4) and between two chunks
        assert help_code in ("503", "530")
        return
    not_allowed = ("502", "503", "530", "538")
    allowed = {
        verb
        for verb in driver.protocol.grammar.verbs
        if not begin().send_lines(SAMPLES[verb])[-1].startswith(not_allowed)
    }
    assert listed(driver) == allowed


def test_help_lists_many_verbs_on_several_lines() -> None:
    """RFC 5321 4.5.3.1.5: a reply line has at most 512 octets, which the driver checks."""

    def extension(number: int) -> Extension:
        verb = f"XVERB{number:03}"
        command = type(verb, (XwhoCommand,), {"__slots__": (), "verb": verb})
        attributes = {"keyword": verb, "verbs": (command,), "table": Table({command: {READY: READY}})}
        made: Extension = type(verb, (Extension,), attributes)()
        return made

    driver = ServerDriver(extensions=standard(*map(extension, range(200)))).begin()
    assert {f"XVERB{number:03}" for number in range(200)} <= listed(driver)
    assert driver.output.count(b"\r\n214-") > 3
