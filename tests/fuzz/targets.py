"""The functions that are fuzzed. Each takes any octets, and fails only if smtp_trio has a fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from protocol.driver import ServerDriver, respond
from protocol.test_extension_sets import ALL, HOOKS, NOW, TRUSTED
from protocol.test_segmentation import check_same_results

from smtp_trio.protocol import (
    CONNECTION_LOST,
    NEED_DATA,
    NORMAL,
    STRICT,
    AnsweredCommand,
    BadCommandError,
    ClientProtocol,
    Command,
    Connect,
    Data,
    Ehlo,
    Limits,
    LocalProtocolError,
    Mail,
    NotOfferedError,
    Path,
    Quit,
    Rcpt,
    RemoteProtocolError,
    Reply,
    ReplyError,
    lenient_mode,
    standard,
)
from smtp_trio.protocol.der import dns_names, public_key_info
from smtp_trio.protocol.dialogue import MESSAGE
from smtp_trio.protocol.extensions import KNOWN, Auth, BinaryMime, Lmtp
from smtp_trio.protocol.extensions.starttls import HANDSHAKE, StartTlsCommand
from smtp_trio.protocol.framing import ReceiveBuffer
from smtp_trio.protocol.grammar import Grammar
from smtp_trio.protocol.params import parse_params
from smtp_trio.protocol.reply_parser import ReplyParser
from smtp_trio.protocol.sasl import (
    MECHANISMS,
    AnonymousCredentials,
    BearerToken,
    ClientCredentials,
    ExternalCredentials,
    MechanismContext,
    PasswordCredentials,
    decode_challenge,
)

MODES = (NORMAL, STRICT, lenient_mode("default.test"))
NEWLINES = ("reject", "normalize", "preserve")
GRAMMAR = Grammar(KNOWN)
MECHANISM_NAMES = tuple(MECHANISMS)
EVERY_EXTENSION = (*(each for each in ALL if each.keyword != "AUTH"), Auth(cleartext=True, mechanisms=MECHANISM_NAMES))
#: Without LMTP and with it.
GRAMMARS = (Grammar(EVERY_EXTENSION), Grammar((Lmtp(), *EVERY_EXTENSION)))
CREDENTIALS: dict[type[ClientCredentials], ClientCredentials] = {
    PasswordCredentials: PasswordCredentials("fred", "secret"),
    BearerToken: BearerToken("fred", "token"),
    ExternalCredentials: ExternalCredentials(),
    AnonymousCredentials: AnonymousCredentials(),
}


def take(data: bytes, count: int) -> tuple[bytes, bytes]:
    """Return the first octets, which choose the settings of a run, and the rest. Missing ones are zero."""
    return data[:count].ljust(count, b"\0"), data[count:]


def cuts(choices: bytes, length: int) -> list[int]:
    """Return where the octets are cut into segments."""
    return sorted(choice * length // 256 for choice in choices)


# --- the server's side --------------------------------------------------------------------------------------------------


def run_server(octets: bytes, at: list[int], **settings: Any) -> ServerDriver:
    """Send a server these octets in segments, and then the end of the input."""
    driver = ServerDriver(size=2000, limits=Limits(errors=15, work=150, received=2, line=600), **settings)
    driver.urls = {"imap://x/1": [b"Subject: x\r\n", b"\r\n"], "imap://x/2": [b"\r", b"\n."]}
    driver.send_in_segments(octets, at)
    driver.end_input()
    return driver


def server(data: bytes) -> None:
    """Run sessions. Each command gets one valid reply, and segments do not matter."""
    (mode, newlines, *choices), octets = take(data, 5)
    settings: dict[str, Any] = {
        "strictness": MODES[mode % len(MODES)],
        "newlines": NEWLINES[newlines % len(NEWLINES)],
        "hooks": {"auth", "expn"},
        "extensions": standard(Auth(cleartext=True), BinaryMime()),
    }
    check_same_results(
        run_server(octets, cuts(bytes(choices), len(octets)), **settings), run_server(octets, [], **settings)
    )


def extensions(data: bytes) -> None:
    """Run sessions of servers with every extension, as in `server`, of LMTP or SMTP and with or without trust and TLS."""
    (choice, *choices), octets = take(data, 4)
    lmtp = choice & 1
    settings: dict[str, Any] = {
        "extensions": GRAMMARS[lmtp],
        "hooks": HOOKS | {"auth", "secret", "expn"},
        "trusted": TRUSTED if choice & 2 else frozenset(),
        "secure": bool(choice & 4),
        "now": lambda: NOW,
        "checked": not lmtp,  # in LMTP the end of a message has any number of replies
    }
    check_same_results(
        run_server(octets, cuts(bytes(choices), len(octets)), **settings), run_server(octets, [], **settings)
    )


def auth(data: bytes) -> None:
    """Run the server's side of a SASL exchange."""
    (choice,), octets = take(data, 1)
    name = MECHANISM_NAMES[choice % len(MECHANISM_NAMES)]
    driver = ServerDriver(
        hooks={"auth", "secret"}, extensions=standard(Auth(cleartext=True, mechanisms=MECHANISM_NAMES))
    )
    driver.begin()
    driver.send(f"AUTH {name}".encode() + octets[:5000] + b"\r\n")
    driver.end_input()


# --- the client's side --------------------------------------------------------------------------------------------------

PATH = Path.parse("<a@b>")
assert PATH is not None
COMMANDS: tuple[Command, ...] = (Ehlo("x"), StartTlsCommand(), Ehlo("x"), Mail(PATH), Rcpt(PATH), Data(), Quit())


def client(data: bytes) -> None:
    """Send a client these octets as the server's replies. It raises no other error than those of the peer."""
    (choice,), octets = take(data, 1)
    step = choice % 64 + 1
    protocol, commands = ClientProtocol(), iter(COMMANDS)
    pieces = (octets[at : at + step] for at in range(0, len(octets), step))
    with suppress(RemoteProtocolError, ReplyError):
        for piece in (*pieces, b""):
            if protocol.closed:
                return
            protocol.receive_data(piece)
            while isinstance(event := protocol.next_event(), AnsweredCommand):
                go_on(protocol, commands)
            assert event in (NEED_DATA, CONNECTION_LOST)


def go_on(protocol: ClientProtocol, commands: Iterator[Command]) -> None:
    """Do what a client does after a reply."""
    if protocol.dialogue.phase is HANDSHAKE:
        protocol.tls_started()
    if protocol.dialogue.phase is MESSAGE:
        protocol.send_body(b"Subject: x\r\n\r\n.\r\n")
        protocol.end_body()
    with suppress(LocalProtocolError, NotOfferedError):
        if protocol.awaiting_reply is None and not isinstance(command := next(commands, Connect()), Connect):
            protocol.send_command(command)
    protocol.data_to_send()


def parse_replies(pieces: Iterator[bytes]) -> tuple[list[Reply], str | None]:
    """Return the replies in these segments, and the error that ends them."""
    buffer = ReceiveBuffer()
    parser, found = ReplyParser(buffer), []
    try:
        for piece in pieces:
            buffer.add(piece)
            while (reply := parser.read_reply()) is not None:
                found.append(reply)
    except RemoteProtocolError as error:
        return found, type(error).__name__
    return found, None


def replies(data: bytes) -> None:
    """Parse replies, whole and octet by octet."""
    whole = parse_replies(iter([data]))
    assert parse_replies(data[at : at + 1] for at in range(len(data))) == whole
    for reply in whole[0]:
        assert 100 <= reply.code <= 999


def challenges(data: bytes) -> None:
    """Run the client's side of a SASL exchange with these challenges, one on each line."""
    (choice,), octets = take(data, 1)
    mechanism = MECHANISMS[MECHANISM_NAMES[choice % len(MECHANISM_NAMES)]]
    context = MechanismContext("mx.test", bytes, channel_binding=b"binding")
    exchange = mechanism.client(CREDENTIALS[mechanism.credentials], context)
    with suppress(StopIteration, RemoteProtocolError, LocalProtocolError, BadCommandError, ReplyError):
        respond(exchange, None)
        for line in octets.split(b"\n"):
            challenge = decode_challenge(line.decode("utf-8", "replace"), mechanism)
            if len(challenge) < 2000:
                respond(exchange, challenge)


# --- parts of a command -------------------------------------------------------------------------------------------------


def paths(data: bytes) -> None:
    """Parse paths. One that is accepted is accepted again as it is written, and has no control characters."""
    text = data.decode("utf-8", "replace")  # a command line that is not UTF-8 is refused before it is parsed
    path = Path.parse(text)
    if path is not None:
        assert not any(ord(char) < 32 or ord(char) == 127 for char in str(path))
        assert str(Path.parse(f"<{path}>")) == str(path)


def parameters(data: bytes) -> None:
    """Parse the parameters of MAIL and RCPT. Those that are accepted have the same values when they are written."""
    text = data.decode("utf-8", "replace")
    for command in (Mail, Rcpt):
        known = {param.keyword: param for param in GRAMMAR.params(command)}
        try:
            found = parse_params(text, known)
        except BadCommandError:
            continue
        assert dict(parse_params(found.encode(), known)) == dict(found)


def certificates(data: bytes) -> None:
    """Read what is needed from a certificate."""
    public_key_info(data)
    dns_names(data)


Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (server, extensions, auth, client, replies, challenges, paths, parameters, certificates)
}
