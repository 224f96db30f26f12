"""`ServerProtocol` as the calling program sees it: events, replies, and local protocol errors."""

from __future__ import annotations

import ast
import copy
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import smtp_trio.protocol.extensions
import smtp_trio.protocol.sasl
from smtp_trio.protocol import (
    CONNECTION_LOST,
    END_OF_BODY,
    END_OF_CHUNK,
    FAULT,
    NEED_DATA,
    BadCommandError,
    BodyError,
    Command,
    Connect,
    Data,
    Ehlo,
    EndOfData,
    Limits,
    LocalProtocolError,
    Mail,
    Noop,
    ProtocolError,
    RemoteProtocolError,
    Reply,
    ServerProtocol,
    SMTPError,
)
from smtp_trio.protocol.extensions.chunking import Bdat, BdatLast
from smtp_trio.protocol.lazy import lazy_pattern

from .driver import ServerDriver

PACKAGE = Path(smtp_trio.protocol.__file__).parent
FORBIDDEN_MODULES = {
    "trio",
    "anyio",
    "asyncio",
    "socket",
    "ssl",
    "select",
    "selectors",
    "threading",
    "time",
    "datetime",
    "random",
    "secrets",
    "os",
}


def ready(octets: bytes = b"", **settings: Any) -> ServerProtocol:
    """Return a protocol after EHLO that has received these octets."""
    protocol = ServerProtocol("mx.test", **settings)
    protocol.receive_data(b"EHLO x\r\n")
    for _ in range(2):
        answer(protocol)
    protocol.data_to_send()
    if octets:
        protocol.receive_data(octets)
    return protocol


def answer(protocol: ServerProtocol) -> Command:
    """Answer the next command with its default reply."""
    command = protocol.next_event()
    assert isinstance(command, Command)
    protocol.send_reply(protocol.default_reply(command))
    return command


def with_recipient(octets: bytes, **settings: Any) -> ServerProtocol:
    protocol = ready(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n" + octets, **settings)
    answer(protocol)
    answer(protocol)
    protocol.data_to_send()
    return protocol


def test_example_of_the_docstring() -> None:
    protocol = ServerProtocol("mx.example.org")
    greeting = protocol.next_event()
    assert isinstance(greeting, Connect)
    protocol.send_reply(protocol.default_reply(greeting))
    protocol.receive_data(b"EHLO client.example\r\n")
    assert protocol.next_event() == Ehlo("client.example")


def test_each_command_must_be_answered_first() -> None:
    protocol = ServerProtocol()
    assert protocol.next_event() == Connect()
    with pytest.raises(LocalProtocolError, match=r"Connect\(\) must be answered first"):
        protocol.next_event()
    protocol = ready(b"NOOP\r\nNOOP\r\n")
    assert protocol.next_event() == Noop()
    assert protocol.pending == Noop()
    with pytest.raises(LocalProtocolError, match=r"Noop\(\) must be answered first"):
        protocol.next_event()


def test_greeting_may_be_sent_before_next_event() -> None:
    protocol = ServerProtocol()
    protocol.send_reply(Reply(220, "Hello"))
    protocol.receive_data(b"NOOP\r\n")
    assert protocol.next_event() == Noop()
    with pytest.raises(LocalProtocolError, match="must be answered first"):
        protocol.next_event()


def test_refused_command_must_be_answered() -> None:
    protocol = ready(b"FOO\r\nNOOP\r\n")
    with pytest.raises(BadCommandError) as caught:
        protocol.next_event()
    assert protocol.pending is caught.value
    with pytest.raises(LocalProtocolError, match="must be answered first"):
        protocol.next_event()
    protocol.send_reply(caught.value.reply)
    assert protocol.next_event() == Noop()


def test_reply_without_a_command() -> None:
    with pytest.raises(LocalProtocolError, match=r"no command is waiting for a reply, got 250 2\.0\.0 Ok"):
        ready().send_reply(Reply(250, "Ok"))


def test_buffered_octets() -> None:
    protocol = ready(b"NOOP\r\nRS")
    assert protocol.buffered == 8
    protocol.next_event()
    assert protocol.buffered == 2


def test_replies_are_collected() -> None:
    protocol = ready(b"NOOP\r\nNOOP\r\n")
    assert protocol.data_to_send() == b""
    answer(protocol)
    assert protocol.data_to_send() == b"250 2.0.0 Ok\r\n"
    answer(protocol)
    protocol.receive_data(b"RSET\r\n")
    answer(protocol)
    assert protocol.data_to_send() == b"250 2.0.0 Ok\r\n" * 2
    assert protocol.data_to_send() == b""


def test_end_of_input_after_a_command() -> None:
    protocol = ready(b"NOOP\r\nNOO")
    protocol.receive_data(b"")
    assert answer(protocol) == Noop()
    assert protocol.next_event() is CONNECTION_LOST
    assert protocol.next_event() is CONNECTION_LOST


# --- messages -------------------------------------------------------------------------------------------------------


def test_message_sent_with_data() -> None:
    protocol = with_recipient(b"DATA\r\nhel")
    assert protocol.inspector is None
    assert answer(protocol) == Data()
    assert [protocol.next_event(), protocol.next_event()] == [b"hel", NEED_DATA]
    assert protocol.inspector is not None
    protocol.receive_data(b"lo\r\n.\r\n")
    assert [protocol.next_event(), protocol.next_event()] == [b"lo\r\n", END_OF_BODY]
    assert protocol.inspector.size == 7
    assert protocol.pending == EndOfData()
    protocol.send_reply(Reply(250, "Taken"))
    assert protocol.inspector is None
    assert protocol.state.mail is None


def test_message_sent_with_bdat() -> None:
    protocol = with_recipient(b"BDAT 3\r\nabcBDAT 2 LAST\r\nde")
    assert [protocol.next_event(), protocol.next_event(), protocol.next_event()] == [Bdat(3), b"abc", END_OF_CHUNK]
    protocol.send_reply(Reply(250))
    assert protocol.inspector is not None
    assert [protocol.next_event(), protocol.next_event(), protocol.next_event()] == [BdatLast(2), b"de", END_OF_BODY]
    assert protocol.inspector.size == 5
    protocol.send_reply(Reply(250))
    assert protocol.inspector is None


def test_bdat_is_answered_after_its_octets() -> None:
    protocol = with_recipient(b"BDAT 3\r\nab")
    protocol.next_event()
    for reply in (Reply(250), Reply(452)):
        with pytest.raises(LocalProtocolError, match="the octets of BDAT must be read before it is answered"):
            protocol.send_reply(reply)
    protocol.receive_data(b"c")
    assert [protocol.next_event(), protocol.next_event()] == [b"abc", END_OF_CHUNK]
    protocol.send_reply(Reply(250))


@pytest.mark.parametrize("octets", [b"DATA\r\na\nb\r\n.\r\n", b"BDAT 3\r\na\nb", b"BDAT 3 LAST\r\na\nb"])
def test_message_with_a_fault_cannot_be_accepted(octets: bytes) -> None:
    protocol = with_recipient(octets)
    command = protocol.next_event()
    if isinstance(command, Data):
        protocol.send_reply(protocol.default_reply(command))
    assert protocol.next_event() is FAULT
    assert protocol.next_event() in (END_OF_BODY, END_OF_CHUNK)
    with pytest.raises(
        LocalProtocolError, match=r"the message cannot be accepted: 550 5\.5\.2 Message refused: bare LF"
    ):
        protocol.send_reply(Reply(250))
    assert protocol.fault is not None
    # It may be refused for another reason.
    protocol.send_reply(Reply(451, "Later"))
    assert protocol.fault is None
    assert protocol.inspector is None


def test_discarded_octets_give_no_events() -> None:
    protocol = with_recipient(b"DATA\r\nhello")
    answer(protocol)
    assert protocol.next_event() == b"hello"
    protocol.discard()
    protocol.receive_data(b"a\nb" * 100 + b"\r\n")
    assert protocol.next_event() is NEED_DATA
    protocol.receive_data(b".\r\n")
    assert protocol.next_event() is END_OF_BODY
    protocol.send_reply(Reply(554, "No"))
    # The next message is not discarded.
    protocol.receive_data(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nx\r\n.\r\n")
    for _ in range(3):
        answer(protocol)
    assert protocol.next_event() == b"x\r\n"


def test_repaired_pieces_are_counted() -> None:
    protocol = with_recipient(b"DATA\r\n", newlines="normalize")
    answer(protocol)
    for octets, repaired in ((b"a\r\n", 0), (b"b\nc\n", 1), (b"d\r\r", 1), (b"e", 2)):
        protocol.receive_data(octets)
        protocol.next_event()
        assert protocol.inspector is not None
        assert protocol.inspector.repaired == repaired


# --- closing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("octets", [b"", b"NOOP\r\n", b"MAIL FROM:<a@b>\r\n"])
def test_close_without_a_command(octets: bytes) -> None:
    protocol = ready(octets)
    protocol.next_event()
    protocol.close(Reply(421, "mx.test Shutting down", "4.3.2"))
    assert protocol.data_to_send() == b"421 4.3.2 mx.test Shutting down\r\n"
    assert protocol.closed
    assert protocol.pending is None


@pytest.mark.parametrize("asked", [False, True])
def test_close_before_the_greeting(asked: bool) -> None:
    """A 421 in place of the greeting has no enhanced status code (RFC 2034 3)."""
    protocol = ServerProtocol("mx.test")
    if asked:
        assert isinstance(protocol.next_event(), Connect)
    protocol.close(Reply(421, "mx.test Shutting down", "4.3.2"))
    assert protocol.data_to_send() == b"421 mx.test Shutting down\r\n"
    assert protocol.closed


def test_close_during_a_message() -> None:
    protocol = with_recipient(b"DATA\r\nhello")
    answer(protocol)
    protocol.close(Reply(421))
    assert (protocol.inspector, protocol.closed) == (None, True)
    protocol.receive_data(b"NOOP\r\n")
    assert protocol.next_event() is CONNECTION_LOST


# --- the package ----------------------------------------------------------------------------------------------------


def test_exception_classes() -> None:
    assert issubclass(BadCommandError, RemoteProtocolError)
    assert issubclass(RemoteProtocolError, ProtocolError)
    assert issubclass(LocalProtocolError, ProtocolError)
    assert issubclass(ProtocolError, SMTPError)
    assert issubclass(BodyError, SMTPError)
    assert not issubclass(BodyError, ProtocolError)
    assert BodyError("gone").reply is None
    assert str(BodyError("too big", Reply(552))) == "too big"


@pytest.mark.parametrize("package", [smtp_trio.protocol, smtp_trio.protocol.extensions, smtp_trio.protocol.sasl])
def test_public_names_exist(package: ModuleType) -> None:
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert hasattr(package, name)


@pytest.mark.parametrize("package", [smtp_trio.protocol, smtp_trio.protocol.extensions, smtp_trio.protocol.sasl])
def test_name_that_does_not_exist(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'Unknown'"):
        package.Unknown  # noqa: B018


def test_lazy_pattern_is_copied_before_and_after_its_use() -> None:
    pattern = lazy_pattern("a+", re.IGNORECASE)
    for _ in range(2):
        for each in (pattern, copy.deepcopy(pattern), pickle.loads(pickle.dumps(pattern))):
            assert each.fullmatch("AA")
            assert each.pattern == "a+"


def test_importing_the_core_does_not_load_io_modules() -> None:
    code = "import sys; before = set(sys.modules); import smtp_trio.protocol; print(*set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    assert "smtp_trio" in loaded
    # attrs itself loads threading.
    assert not loaded & {
        "trio",
        "anyio",
        "asyncio",
        "socket",
        "ssl",
        "select",
        "selectors",
        "datetime",
        "logging",
        "idna",
    }


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_core_imports_nothing_outside_itself(file: Path) -> None:
    root = PACKAGE.parent
    for node in ast.walk(ast.parse(file.read_text())):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
        assert not (isinstance(node, ast.Attribute) and node.attr in {"today", "utcnow"}), "a clock"
        if isinstance(node, ast.Attribute) and node.attr == "now":  # the application's clock is a member of the state
            assert isinstance(node.value, ast.Name | ast.Attribute), "a clock"
            assert ast.unparse(node.value) in {"state", "self.state"}, "a clock"
        if isinstance(node, ast.Import):
            assert not {alias.name.partition(".")[0] for alias in node.names} & FORBIDDEN_MODULES
        elif isinstance(node, ast.ImportFrom):
            assert node.level or (node.module or "").partition(".")[0] not in {*FORBIDDEN_MODULES, "smtp_trio"}
            up = file.relative_to(root).parts[: -node.level] if node.level else ("protocol",)
            assert up, "an import from above the core"


def test_state_holds_the_accepted_mail_command() -> None:
    protocol = ready(b"MAIL FROM:<a@b> SIZE=5\r\n")
    mail = protocol.next_event()
    assert isinstance(mail, Mail)
    assert protocol.state.mail is None
    protocol.send_reply(protocol.default_reply(mail))
    assert protocol.state.mail is mail


@pytest.mark.parametrize("end", [b"", b"\r", b"\r\n", b"\r\n."])
@pytest.mark.parametrize(
    ("begin", "octets"),
    [
        (b"", b"NOOP\r\n"),
        (b"", b"x"),  # a line that is too long
        (b"BDAT 99999\r\n", b"x"),  # a chunk that is refused
        (b"MAIL FROM:<>\r\nRCPT TO:<a@mx.test>\r\nDATA\r\n", b"x" * 70 + b"\r\n"),
        (b"MAIL FROM:<>\r\nRCPT TO:<a@mx.test>\r\nDATA\r\n", b"x\n"),  # a message that is refused
        (b"MAIL FROM:<>\r\nRCPT TO:<a@mx.test>\r\nBDAT 99999\r\n", b"x" * 70 + b"\r\n"),
    ],
)
def test_octets_that_were_processed_are_free_during_a_wait(begin: bytes, octets: bytes, end: bytes) -> None:
    driver = ServerDriver(limits=Limits(work=0, errors=10**6)).begin()
    driver.feed(begin)
    block = octets * (65000 // len(octets)) + end
    references = sys.getrefcount(block)
    driver.feed(block)
    for kept in (driver._body, driver.refused, driver._answered):  # the tracebacks refer to the block
        kept.clear()
    assert sys.getrefcount(block) == references
