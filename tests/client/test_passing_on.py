"""Parameters of an envelope that is passed on: RFC 3461 5.2.1 to a server with DSN, 5.2.2 to one without.

The dialogues of RFC 3461 10.2 to 10.5 are among the tests.
"""

from __future__ import annotations

from typing import Any

import pytest
from scripted import GO_AHEAD, ME, MESSAGE, OK, READ_BODY, YOU, Step, hello, scripted
from trio.testing import MockClock

from smtp_trio import AllRecipientsRejectedError, Client, NotOfferedError, Pool, Server, standard
from smtp_trio.protocol import Mail, Param, Params, Rcpt
from smtp_trio.protocol.extension import Extension
from smtp_trio.protocol.extensions import KNOWN, Dsn
from smtp_trio.protocol.extensions.auth import AUTH
from smtp_trio.protocol.extensions.dsn import ENVID, NOTIFY, ORCPT, RET
from smtp_trio.protocol.extensions.eightbitmime import BODY
from smtp_trio.protocol.extensions.size import SIZE
from smtp_trio.protocol.extensions.smtputf8 import SMTPUTF8
from smtp_trio.routing import DomainPool, DomainsResult, send
from smtp_trio.testing import Inbox, MemoryResolver, memory_network

#: A parameter that a message cannot be sent without.
KEEP: Param[str] = Param("KEEP", lambda text: text, lambda text: text)


class KeepExtension(Extension):
    """An extension of a third party."""

    keyword = "KEEP"
    params = {Mail: (KEEP,)}


MAIL_PARAMS = Params({SIZE: 99, BODY: "8BITMIME", RET: "HDRS", ENVID: "QQ 314159", AUTH: "<>"})
RCPT_PARAMS = {
    YOU: Params({NOTIFY: frozenset({"SUCCESS", "FAILURE"}), ORCPT: "rfc822;Bob@Example.COM"}),
    "b@mx.test": Params({NOTIFY: frozenset({"NEVER"})}),
    "other@mx.test": Params({NOTIFY: frozenset({"SUCCESS"})}),  # not a recipient of this call
}


async def pass_on(client: Client, *recipients: str, **params: Any) -> Any:
    given: dict[str, Any] = {"mail_params": MAIL_PARAMS, "rcpt_params": RCPT_PARAMS, **params}
    return await client.send(ME, recipients or [YOU, "b@mx.test", "c@mx.test"], MESSAGE, **given)


async def test_server_with_dsn_gets_the_parameters_unchanged(autojump_clock: MockClock) -> None:
    steps = (
        *(r"MAIL FROM:<me@client\.test> RET=HDRS ENVID=QQ\+20314159 AUTH=<> SIZE=22", OK),
        *(r"RCPT TO:<you@mx\.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Bob@Example\.COM", OK),
        *(r"RCPT TO:<b@mx\.test> NOTIFY=NEVER", OK, r"RCPT TO:<c@mx\.test>", OK),
        *("DATA", GO_AHEAD, READ_BODY, OK),
    )
    async with scripted(*hello("DSN", "8BITMIME", "AUTH PLAIN", "SIZE 1000"), *steps) as script:
        async with script.client() as client:
            result = await pass_on(client)
    assert (result.complete, result.relayed_without_dsn) == (True, ())


async def test_server_without_dsn_gets_none_of_them(autojump_clock: MockClock) -> None:
    """The caller learns which recipient needs a report. One that was refused gets another one."""
    steps = (
        *(r"MAIL FROM:<me@client\.test>", OK, r"RCPT TO:<you@mx\.test>", OK, r"RCPT TO:<b@mx\.test>", OK),
        *("DATA", GO_AHEAD, READ_BODY, OK),
        *("MAIL FROM:<.*>", OK, "RCPT TO:<.*>", b"550 no\r\n", "RSET", OK),
    )
    async with scripted(*hello(), *steps) as script, script.client() as client:
        assert (await pass_on(client, YOU, "b@mx.test")).relayed_without_dsn == (YOU,)
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await pass_on(client, YOU)
        assert caught.value.result.relayed_without_dsn == ()


@pytest.mark.parametrize(
    ("params", "log_in", "sent"),
    [
        (Params(), True, " AUTH=<>"), (Params({RET: "HDRS"}), True, " RET=HDRS AUTH=<>"),
        (Params({AUTH: "a+b@client.test"}), True, r" AUTH=a\+2Bb@client\.test"), (Params(), False, ""), (None, True, ""),
        (Params({AUTH: "a@client.test"}), False, r" AUTH=a@client\.test"),
    ],
)  # fmt: skip
async def test_submitter_of_a_message_that_is_passed_on(
    params: Params | None, log_in: bool, sent: str, autojump_clock: MockClock
) -> None:
    """The server must not take the login of the relay for that of the submitter (RFC 4954 5)."""
    login: tuple[Step, ...] = ("AUTH PLAIN .*", b"235 2.7.0 ok\r\n") if log_in else ()
    steps = (*login, f"MAIL FROM:<me@client\\.test>{sent}", OK, "RCPT .*", OK, "DATA", GO_AHEAD, READ_BODY, OK)
    async with scripted(*hello("DSN", "AUTH PLAIN"), *steps) as script:
        async with script.client(auth=("fred", "secret") if log_in else None, allow_cleartext=True) as client:
            await client.send(ME, [YOU], MESSAGE, mail_params=params)


async def test_named_parameters_come_first_and_must_be_offered(autojump_clock: MockClock) -> None:
    steps = ("MAIL FROM:<.*> RET=FULL ENVID=.* AUTH=<>", OK, "RCPT TO:<.*> NOTIFY=DELAY ORCPT=.*", OK)
    body = ("DATA", GO_AHEAD, READ_BODY, OK)
    async with scripted(*hello("DSN", "AUTH PLAIN"), *steps, *body) as script, script.client() as client:
        await pass_on(client, YOU, ret="FULL", notify=("DELAY",))
    async with scripted(*hello()) as script, script.client() as client:
        with pytest.raises(NotOfferedError, match="RET"):
            await pass_on(client, YOU, ret="FULL")


@pytest.mark.parametrize(
    ("params", "offers", "mail"),
    [
        (Params({SMTPUTF8: True}), ("SMTPUTF8", "8BITMIME"), "MAIL FROM:<.*> SMTPUTF8"),
        (Params({SMTPUTF8: True, BODY: "8BITMIME"}), (), "MAIL FROM:<[^ ]*>"),  # the message needs neither
        (Params({BODY: "BINARYMIME"}), ("BINARYMIME", "8BITMIME", "CHUNKING"), "MAIL FROM:<.*> BODY=BINARYMIME"),
        (Params({KEEP: "x"}), ("KEEP",), "MAIL FROM:<.*> KEEP=x"),
    ],
    ids=["smtputf8", "not-needed", "binary", "third-party"],
)
async def test_other_parameters(autojump_clock: MockClock, params: Params, offers: tuple[str, ...], mail: str) -> None:
    body: tuple[Step, ...] = ("DATA", GO_AHEAD, READ_BODY, OK)
    if "CHUNKING" in offers:
        body = ("BDAT 22 LAST", *MESSAGE.decode().splitlines(), OK)
    async with scripted(*hello(*offers), mail, OK, "RCPT TO:<.*>", OK, *body) as script:
        async with script.client(extensions=[*KNOWN, KeepExtension()]) as client:
            await client.send(ME, [YOU], MESSAGE, mail_params=params)


@pytest.mark.parametrize("params", [Params({BODY: "BINARYMIME"}), Params({KEEP: "x"})], ids=["binary", "third-party"])
async def test_parameter_that_a_message_needs_is_not_dropped(autojump_clock: MockClock, params: Params) -> None:
    async with scripted(*hello()) as script:
        async with script.client(extensions=[*KNOWN, KeepExtension()]) as client:
            with pytest.raises(NotOfferedError):
                await client.send(ME, [YOU], MESSAGE, mail_params=params)


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"mail_params": {"ret": "HDRS"}}, "mail_params"),
        ({"rcpt_params": Params({NOTIFY: frozenset({"NEVER"})})}, "rcpt_params"),
        ({"rcpt_params": {YOU: "NOTIFY=NEVER"}}, "rcpt_params"),
        ({"rcpt_params": [YOU]}, "rcpt_params"),
    ],
)
async def test_invalid_parameters(autojump_clock: MockClock, params: dict[str, Any], name: str) -> None:
    async with scripted(*hello("DSN")) as script, script.client() as client:
        with pytest.raises(TypeError, match=name):
            await client.send(ME, [YOU], MESSAGE, **params)
    with pytest.raises(TypeError, match=name):
        await send(MESSAGE, sender=ME, recipients=[YOU], resolver=MemoryResolver({}), **params)


# --- the dialogues of RFC 3461 ----------------------------------------------------------------------------------------

ALICE = "Alice@Example.ORG"
ALICE_MAIL = Params({RET: "HDRS", ENVID: "QQ314159"})


def asked(address: str, *notify: str) -> Params:
    return Params({NOTIFY: frozenset(notify), ORCPT: f"rfc822;{address}"})


async def test_rfc3461_10_2_relay_to_example_com(autojump_clock: MockClock) -> None:
    dialogue: tuple[Step, ...] = (
        *(b"220 mail.Example.COM says hello\r\n", "EHLO Example.ORG", b"250-mail.Example.COM\r\n250 DSN\r\n"),
        *("MAIL FROM:<Alice@Example.ORG> RET=HDRS ENVID=QQ314159", b"250 sender okay\r\n"),
        *("RCPT TO:<Bob@Example.COM> NOTIFY=SUCCESS ORCPT=rfc822;Bob@Example.COM", b"250 recipient okay\r\n"),
        *("DATA", b"354 send message\r\n", READ_BODY, b"250 message received\r\n"),
        *("QUIT", b"221 bcnu\r\n"),
    )
    async with scripted(*dialogue) as script, script.client(name="Example.ORG") as client:
        rcpt_params = {"Bob@Example.COM": asked("Bob@Example.COM", "SUCCESS")}
        await client.send(ALICE, ["Bob@Example.COM"], MESSAGE, mail_params=ALICE_MAIL, rcpt_params=rcpt_params)


async def test_rfc3461_10_3_relay_to_ivory_edu(autojump_clock: MockClock) -> None:
    carol, dana = "Carol@Ivory.EDU", "Dana@Ivory.EDU"
    dialogue: tuple[Step, ...] = (
        *(b"220 Ivory.EDU gateway to FooMail(tm) here\r\n", "EHLO Example.ORG", b"250-Ivory.EDU\r\n250 DSN\r\n"),
        *("MAIL FROM:<Alice@Example.ORG> RET=HDRS ENVID=QQ314159", b"250 ok\r\n"),
        f"RCPT TO:<{carol}> NOTIFY=FAILURE ORCPT=rfc822;{carol}",
        b"550 error - no such recipient\r\n",
        f"RCPT TO:<{dana}> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;{dana}",
        b"250 recipient ok\r\n",
        *("DATA", b"354 send message, end with '.'\r\n", READ_BODY, b"250 message received\r\n"),
        *("QUIT", b"221 bye\r\n"),
    )
    async with scripted(*dialogue) as script, script.client(name="Example.ORG") as client:
        rcpt_params = {carol: asked(carol, "FAILURE"), dana: asked(dana, "SUCCESS", "FAILURE")}
        result = await client.send(ALICE, [carol, dana], MESSAGE, mail_params=ALICE_MAIL, rcpt_params=rcpt_params)
    assert [outcome.reply.text for outcome in result.rejected] == ["error - no such recipient"]
    assert [outcome.recipient for outcome in result.accepted] == [dana]


async def test_rfc3461_10_4_relay_to_bombs_af_mil(autojump_clock: MockClock) -> None:
    """The server has no EHLO. This client does not send the RSET of the example between EHLO and HELO."""
    eric, fred = "Eric@Bombs.AF.MIL", "Fred@Bombs.AF.MIL"
    body: tuple[Step, ...] = ("DATA", b"354 send message\r\n", READ_BODY, b"250 message accepted\r\n")
    dialogue: tuple[Step, ...] = (
        b"220-Bombs.AF.MIL reporting for duty.\r\n220 Electronic mail is to be used for official business only.\r\n",
        *("EHLO Example.ORG", b"502 command not implemented\r\n", "HELO Example.ORG", b"250 Bombs.AF.MIL\r\n"),
        *("MAIL FROM:<Alice@Example.ORG>", b"250 ok\r\n", f"RCPT TO:<{eric}>", b"250 ok\r\n", *body),
        *("MAIL FROM:<>", b"250 ok\r\n", f"RCPT TO:<{fred}>", b"250 ok\r\n", *body),
        *("QUIT", b"221 Bombs.AF.MIL closing connection\r\n"),
    )
    rcpt_params = {eric: asked(eric, "FAILURE"), fred: Params({NOTIFY: frozenset({"NEVER"})})}
    async with scripted(*dialogue) as script, script.client(name="Example.ORG") as client:
        for sender, recipient in ((ALICE, eric), ("", fred)):
            result = await client.send(sender, [recipient], MESSAGE, mail_params=ALICE_MAIL, rcpt_params=rcpt_params)
            assert result.relayed_without_dsn == ()


async def test_rfc3461_10_5_forward_to_sam(autojump_clock: MockClock) -> None:
    """The recipient is replaced, and ORCPT keeps the original one."""
    dialogue: tuple[Step, ...] = (
        *(b"220 BoonDoggle.GOV says hello\r\n", "EHLO Example.ORG", b"250-mail.Example.COM\r\n250 DSN\r\n"),
        *("MAIL FROM:<Alice@Example.ORG> RET=HDRS ENVID=QQ314159", b"250 sender okay\r\n"),
        *("RCPT TO:<Sam@Boondoggle.GOV> NOTIFY=SUCCESS ORCPT=rfc822;George@Tax-ME.GOV", b"250 recipient okay\r\n"),
        *("DATA", b"354 send message\r\n", READ_BODY, b"250 message received\r\n"),
        *("QUIT", b"221 bcnu\r\n"),
    )
    async with scripted(*dialogue) as script, script.client(name="Example.ORG") as client:
        rcpt_params = {"Sam@Boondoggle.GOV": asked("George@Tax-ME.GOV", "SUCCESS")}
        await client.send(ALICE, ["Sam@Boondoggle.GOV"], MESSAGE, mail_params=ALICE_MAIL, rcpt_params=rcpt_params)


# --- pools and domains ------------------------------------------------------------------------------------------------

RESOLVER = MemoryResolver({"one.example": {"A": ["192.0.2.1"]}, "two.example": {"A": ["192.0.2.2"]}})


@pytest.mark.parametrize("pooled", [False, True])
async def test_domains(pooled: bool) -> None:
    """Each recipient keeps its parameters; the server of the second domain does not offer DSN."""
    one, two = Inbox(), Inbox()
    servers = {
        "192.0.2.1": Server(one, extensions=standard(Dsn())),
        "192.0.2.2": Server(two, extensions=standard(without=(Dsn,))),
    }
    names = ["a@one.example", "b@two.example", "c@two.example"]
    rcpt_params = {name: asked(name, "SUCCESS") for name in names[:2]}
    options: dict[str, Any] = {"sender": ME, "recipients": names, "mail_params": ALICE_MAIL, "rcpt_params": rcpt_params}
    result: DomainsResult
    async with memory_network(servers):
        if pooled:
            async with DomainPool(resolver=RESOLVER) as pool:
                result = await pool.send(MESSAGE, **options)
        else:
            result = await send(MESSAGE, resolver=RESOLVER, **options)
    assert (result.complete, result.relayed_without_dsn) == (True, ("b@two.example",))
    assert [one[0].envelope.params.get(RET), two[0].envelope.params.get(RET)] == ["HDRS", None]
    assert [rcpt.params.encode() for rcpt in one[0].envelope.rcpts] == ["NOTIFY=SUCCESS ORCPT=rfc822;a@one.example"]
    assert [rcpt.params.encode() for rcpt in two[0].envelope.rcpts] == ["", ""]


async def test_pool() -> None:
    inbox = Inbox()
    async with memory_network({"mx.test": Server(inbox, extensions=standard(Dsn()))}), Pool("mx.test") as pool:
        await pool.send(ME, [YOU], MESSAGE, mail_params=MAIL_PARAMS, rcpt_params=RCPT_PARAMS)
    rcpts: tuple[Rcpt, ...] = inbox[0].envelope.rcpts
    assert [rcpt.params for rcpt in rcpts] == [RCPT_PARAMS[YOU]]
