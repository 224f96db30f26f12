"""Commands, parameters, paths and replies as values: encoding, decoding and validation."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
import re
from typing import Any

import pytest
from attrs import evolve, field, frozen
from hypothesis import given, strategies as st

import smtp_trio.protocol
from smtp_trio.protocol import (
    BadCommandError,
    Command,
    Connect,
    Data,
    Ehlo,
    EndOfData,
    Expn,
    Helo,
    Help,
    Mail,
    Noop,
    Param,
    Params,
    Path,
    Quit,
    Rcpt,
    Reply,
    Rset,
    Vrfy,
)
from smtp_trio.protocol.commands import COMMON_CODES
from smtp_trio.protocol.extensions import STANDARD, Size
from smtp_trio.protocol.extensions.auth import AUTH, AuthCommand, AuthResponse
from smtp_trio.protocol.extensions.chunking import Bdat, BdatLast
from smtp_trio.protocol.extensions.eightbitmime import BODY
from smtp_trio.protocol.extensions.size import SIZE
from smtp_trio.protocol.extensions.smtputf8 import SMTPUTF8
from smtp_trio.protocol.extensions.starttls import StartTlsCommand
from smtp_trio.protocol.grammar import Grammar
from smtp_trio.protocol.params import NO_PARAMS
from smtp_trio.protocol.session_state import SessionState
from smtp_trio.protocol.syntax import decode_xtext, encode_xtext
from smtp_trio.protocol.values import Value

from .driver import ANY, CODES

OFFER = Grammar(STANDARD).offer(SessionState(hooks=frozenset({"auth"}), secure=True)).params

# --- paths ----------------------------------------------------------------------------------------------------------

ATEXT = "abcXYZ019!#$%&'*+-/=?^_`{|}~\u00e9\u65e5"
atoms = st.lists(st.text(ATEXT, min_size=1, max_size=5), min_size=1, max_size=3).map(".".join)
quoted = st.lists(st.sampled_from([*' <>@,:;()[].ab"\\\u00e9']), max_size=6).map(
    # The space needs the quotes: without it, `Path.local` might be shorter than what was sent.
    lambda chars: '" ' + "".join("\\" + char if char in '"\\' else char for char in chars) + '"'
)
domains = st.one_of(
    st.lists(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True), min_size=1, max_size=3).map(".".join),
    st.ip_addresses(v=4).map(lambda ip: f"[{ip}]"),
    st.ip_addresses(v=6).map(lambda ip: f"[IPv6:{ip}]"),
)
mailboxes = st.builds(lambda local, domain: Path(f"{local}@{domain}", local, domain), st.one_of(atoms, quoted), domains)
recipients = st.one_of(
    mailboxes, st.sampled_from(["Postmaster", "POSTMASTER"]).map(lambda name: Path(name, name, None))
)
senders = st.one_of(recipients, st.just(Path("", "", None)))


@given(senders)
def test_path_round_trip(path: Path) -> None:
    assert Path.parse(f"<{path.raw}>") == path
    assert str(path) == path.raw
    assert path.is_null == (path.raw == "")


@pytest.mark.parametrize(
    ("text", "user", "detail", "postmaster"),
    [
        ("<fred+lists@x>", "fred", "lists", False), ("<fred@x>", "fred", None, False), ("<a+b+c@x>", "a", "b+c", False),
        ("<a+@x>", "a", "", False), ("<Postmaster>", "Postmaster", None, True), ("<POSTMASTER@X>", "POSTMASTER", None, True),
        ("<>", "", None, False),
    ],
)  # fmt: skip
def test_parts_of_a_path(text: str, user: str, detail: str | None, postmaster: bool) -> None:
    path = Path.parse(text)
    assert path is not None
    assert (path.user, path.detail, path.is_postmaster) == (user, detail, postmaster)


@pytest.mark.parametrize(
    ("sent", "local"),
    [
        ('"nobody"', "nobody"), (r'"\n\o\body"', "nobody"), ('"a.b"', "a.b"), ('"a+b"', "a+b"), ('"é"', "é"),
        ('"Postmaster"', "Postmaster"), ('"a b"', '"a b"'), (r'"\a\ b"', '"a b"'), (r'"a\"b\\"', r'"a\"b\\"'), ('""', '""'),
        ('"a@b"', '"a@b"'), ('"a..b"', '"a..b"'), ('".a"', '".a"'), ('"a."', '"a."'), ("nobody", "nobody"),
    ],
)  # fmt: skip
def test_local_part_has_the_fewest_quotes(sent: str, local: str) -> None:
    """RFC 5321 4.1.2: all quoted forms are equivalent, so that a comparison of `Path.local` finds the same mailbox."""
    path = Path.parse(f"<{sent}@x>")
    assert path is not None
    assert (path.raw, path.local, str(path)) == (f"{sent}@x", local, f"{local}@x")
    assert Path.parse(f"<{path}>") == evolve(path, raw=str(path))


def test_quoted_postmaster_is_postmaster() -> None:
    path = Path.parse('<"postMaster"@x>')
    assert path is not None
    assert (path.is_postmaster, path.user) == (True, "postMaster")


def test_domain_is_lower_case() -> None:
    path = Path.parse("<Fred@B\u00fccher.Example>")
    assert path is not None
    assert (str(path), path.raw, path.is_ascii) == ("Fred@xn--bcher-kva.example", "Fred@B\u00fccher.Example", False)


@pytest.mark.parametrize("text", ["<a@B\u3002c.d>", "<a@b\uff0ec\uff0ed>", "<a@b.c\uff61D>"])
def test_other_full_stops_separate_labels(text: str) -> None:
    """RFC 3490 3.1: U+3002, U+FF0E and U+FF61."""
    path = Path.parse(text)
    assert path is not None
    assert path.domain == "b.c.d"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "<a>",
        "<a@b",
        "a@b>",
        "<a@\u2488com>",
        "<a@xn\u2010>",
        "<a@" + "\u00e9" * 300 + ">",
        "<a@\u00e9..b>",
        "<a@b\u3002>",
        "<a@\u00e9\uff61>",
    ],
)
def test_invalid_paths(text: str) -> None:
    assert Path.parse(text) is None


@given(st.text(max_size=30))
def test_any_text_as_path(text: str) -> None:
    """Any text is refused or gives a domain that can be written into a command or a header field."""
    for candidate in (text, f"<{text}>", f"<a@{text}>"):
        path = Path.parse(candidate)
        if path is not None and path.domain is not None:
            assert re.fullmatch(r"[a-z0-9_.-]+|\[[!-~]+\]", path.domain)


# --- parameters -----------------------------------------------------------------------------------------------------

values: dict[Param[Any], st.SearchStrategy[Any]] = {
    SIZE: st.integers(0, 10**20 - 1),
    BODY: st.sampled_from(["7BIT", "8BITMIME", "BINARYMIME"]),
    SMTPUTF8: st.just(True),
    AUTH: st.one_of(st.just("<>"), st.text("ab =+@<>\u00e9\U0001f600", min_size=1, max_size=20)),
}
params = st.fixed_dictionaries({}, optional=values).map(Params)


@pytest.mark.parametrize("param", values, ids=repr)
@given(st.data())
def test_parameter_round_trip(param: Param[Any], data: st.DataObject) -> None:
    value = data.draw(values[param])
    assert param.parse(param.format(value)) == value


def test_params_are_a_mapping() -> None:
    one, other = Params({SIZE: 5, BODY: "7BIT"}), Params({BODY: "7BIT", SIZE: 5})
    assert one == other == {SIZE: 5, BODY: "7BIT"}
    assert hash(one) == hash(other)
    assert (one.encode(), other.encode()) == ("SIZE=5 BODY=7BIT", "BODY=7BIT SIZE=5")
    assert (one[SIZE], one.get(SMTPUTF8), one.get(SMTPUTF8, False), len(one), list(one)) == (
        5,
        None,
        False,
        2,
        [SIZE, BODY],
    )
    assert repr(one) == "<Params SIZE=5 BODY=7BIT>"
    assert NO_PARAMS.encode() == ""
    assert Params({SMTPUTF8: True}).encode() == "SMTPUTF8"
    with pytest.raises(KeyError):
        one[AUTH]


def test_size_of_the_server() -> None:
    assert Size().parse_offer(["1000"]) == Size(1000)
    assert Size().parse_offer([]) == Size()
    assert Size().parse_offer(["many"]) == Size(0)


@given(st.text(max_size=40))
def test_xtext_round_trip(text: str) -> None:
    encoded = encode_xtext(text)
    assert decode_xtext(encoded) == text
    assert re.fullmatch(r"[!-~]*", encoded)
    assert "=" not in encoded


@pytest.mark.parametrize("text", ["+zz", "+3d", "+", "+3", "a b", "a=b", "\u00e9", "+C3", "\t"])
def test_invalid_xtext(text: str) -> None:
    assert decode_xtext(text) is None


# --- commands -------------------------------------------------------------------------------------------------------

words = st.text("abcABC019-.:[]<>@\u00e9", min_size=1, max_size=12)
phrases = st.lists(words, min_size=1, max_size=3).map(" ".join)
initials = st.one_of(st.none(), st.binary(max_size=40))
commands = st.one_of(
    st.builds(Ehlo, domains),
    st.builds(Helo, domains),
    st.builds(Mail, senders, params),
    st.builds(Rcpt, recipients),
    st.sampled_from([Data(), Rset(), Noop(), Quit(), Help(), StartTlsCommand()]),
    st.builds(Vrfy, phrases, st.sampled_from([NO_PARAMS, Params({SMTPUTF8: True})])),
    st.builds(Expn, phrases),
    st.builds(Help, phrases),
    st.builds(AuthCommand, st.sampled_from(["PLAIN", "LOGIN", "SCRAM-SHA-256"]), initials),
    st.builds(Bdat, st.integers(0, 2**64 - 1)),
    st.builds(BdatLast, st.integers(0, 2**64 - 1)),
)


@given(commands)
def test_command_round_trip(command: Command) -> None:
    verb, _, argument = command.encode().partition(" ")
    assert verb == command.verb
    kind = Bdat if type(command) is BdatLast else type(command)
    assert kind.decode(argument, OFFER.get(kind, {})) == command


arguments = st.one_of(
    st.builds(
        "{}{}:{}{}".format,
        st.sampled_from(["FROM", "from", "TO", "FROM "]),
        st.sampled_from(["", "", " "]),
        st.one_of(
            senders.map(lambda path: f"<{path.raw}>"),
            st.sampled_from(["<A.b@C.d>", "<a@b_c>", "<a@b.>", "a@b", "<@x:a@b>", "<a@b>>"]),
        ),
        st.sampled_from(["", " ", " SIZE=5", "  SIZE=5 BODY=7BIT", "x", " SIZE=", " SIZE=1 SIZE=1", " <"]),
    ),
    st.text('FROM:<a@b.c>" =\u00e9', max_size=12),
)


def outcome(argument: str) -> Mail | Reply:
    try:
        return Mail.decode(argument, OFFER[Mail])
    except BadCommandError as bad:
        return bad.reply


@given(arguments)
def test_cached_argument_gives_the_same_result(argument: str) -> None:
    assert outcome(argument) == outcome(argument)


@given(st.text("ABCabc019+/=", max_size=20))
def test_auth_response_round_trip(line: str) -> None:
    assert AuthResponse.decode(AuthResponse(line).encode(), {}) == AuthResponse(line)


def test_end_of_body_and_auth_response() -> None:
    assert EndOfData().encode() == "."
    assert Connect().encode() == "CONNECT"


@pytest.mark.parametrize("command", [Quit(), Ehlo("x"), Vrfy("x"), Bdat(1), BdatLast(1), Connect(), StartTlsCommand()])
def test_commands_without_fields_are_frozen_values(command: Command) -> None:
    assert not hasattr(command, "__dict__")
    assert repr(command).startswith(f"{type(command).__name__}(")
    assert command == copy.copy(command) == pickle.loads(pickle.dumps(command))
    assert len({command, copy.copy(command)}) == 1
    with pytest.raises(AttributeError):
        command.verb = "NOOP"  # type: ignore[misc]


def test_commands_of_different_classes_are_not_equal() -> None:
    assert len({Quit(), Rset(), Noop(), Data()}) == 4
    assert len({Ehlo("x"), Helo("x")}) == len({Bdat(1), BdatLast(1)}) == 2


def test_add_status() -> None:
    rcpt = Rcpt(Path("a@b", "a", "b"))
    assert rcpt.add_status(Reply(250, "Fine")).encode() == b"250 2.1.5 Fine\r\n"
    assert rcpt.add_status(Reply(250, "Fine", "2.0.0")).encode() == b"250 2.0.0 Fine\r\n"
    assert rcpt.add_status(Reply(550, "No")).encode() == b"550 5.7.1 No\r\n"


# --- replies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 99, 100, 199, 600, 999, -250])
def test_invalid_reply_code(code: int) -> None:
    with pytest.raises(ValueError, match="invalid reply code"):
        Reply(code)


@pytest.mark.parametrize(
    ("code", "status", "why"),
    [
        (250, "5.1.1", "does not match"), (550, "4.1.1", "does not match"), (354, "2.0.0", "does not match"),
        (250, "2.1", "invalid enhanced"),
        (250, "2.1.1 ", "invalid enhanced"), (250, "3.0.0", "invalid enhanced"), (250, "2.1.1234", "invalid enhanced"),
        (250, "2.1.1\r\n", "invalid enhanced"), (250, "ok", "invalid enhanced"),
    ],
)  # fmt: skip
def test_invalid_status(code: int, status: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Reply(code, "x", status)


@pytest.mark.parametrize(
    ("reply", "printed"),
    [
        (Reply(250), b"250 2.0.0 \r\n"),
        (Reply(250, "Ok"), b"250 2.0.0 Ok\r\n"),
        (Reply(250, "Ok", ""), b"250 Ok\r\n"),
        (Reply(354, "Go"), b"354 Go\r\n"),
        (Reply(259, "x"), b"259 2.0.0 x\r\n"),
        (Reply(550, "one\ntwo", "5.1.1"), b"550-5.1.1 one\r\n550 5.1.1 two\r\n"),
        (Reply(550, "one\r\ntwo\rthree", ""), b"550-one\r\n550-two\r\n550 three\r\n"),
        (Reply(250, "a\r\n221 b", ""), b"250-a\r\n250 221 b\r\n"),
        (Reply(250, "a\0b\x1b\x7f", ""), b"250 a?b??\r\n"),
        (Reply(250, "a\tb", ""), b"250 a\tb\r\n"),
        (Reply(250, "a\x0b\x0c\x1c\x85\u2028b", ""), b"250 a?????b\r\n"),
        (Reply(250, "caf\u00e9", ""), "250 caf\u00e9\r\n".encode()),
        (Reply(250, "a\ud800b", ""), b"250 a?b\r\n"),
        (Reply(250, "a\n", ""), b"250-a\r\n250 \r\n"),
    ],
)
def test_encoded_replies(reply: Reply, printed: bytes) -> None:
    assert reply.encode() == printed


def test_encode_without_status() -> None:
    assert Reply(550, "one\ntwo", "5.1.1").encode(enhanced=False) == b"550-one\r\n550 two\r\n"


def test_reply_as_str() -> None:
    assert str(Reply(550, "one\ntwo", "5.1.1")) == "550-5.1.1 one / 550 5.1.1 two"
    assert repr(Reply(250, "Ok")) == "Reply(code=250, text='Ok', status=None)"
    assert Reply(250, "Ok") == Reply(250, "Ok") != Reply(250, "Ok", "2.0.0")
    assert len({Reply(250, "Ok"), Reply(250, "Ok")}) == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (220, "accepted"), (259, "accepted"), (300, "intermediate"), (359, "intermediate"), (400, "temporary"), (459, "temporary"),
        (500, "permanent"), (559, "permanent"),
    ],
)  # fmt: skip
def test_kinds_of_reply(code: int, kind: str) -> None:
    reply = Reply(code)
    kinds = {name for name in ("accepted", "intermediate", "temporary", "permanent") if getattr(reply, name)}
    assert kinds == {kind}
    assert reply.refused == (code >= 400)


@given(st.integers(200, 599), st.text(max_size=1200), st.booleans())
def test_any_text_is_encoded_as_one_reply(code: int, text: str, bare: bool) -> None:
    octets = Reply(code, text, "" if bare else None).encode()
    *lines, empty = octets.split(b"\r\n")
    assert empty == b""
    assert [line[3:4] for line in lines] == [b"-"] * (len(lines) - 1) + [b" "]
    for line in lines:
        assert len(line) <= 510
        assert line[:3] == str(code).encode()
        line.decode()
        assert not re.search(rb"[\0-\x08\x0a-\x1f\x7f]", line)


@pytest.mark.parametrize(
    "words", ["x" * 2000, "word " * 300, "\u65e5" * 700, " " * 1500, "x " + "y" * 900, "e\u0301" * 400]
)
def test_folded_lines_contain_all_words(words: str) -> None:
    lines = Reply(250, words, "2.0.0").encode().decode().split("\r\n")[:-1]
    assert max(len(line.encode()) for line in lines) <= 510
    assert "".join(line[10:] for line in lines).replace(" ", "") == words.replace(" ", "")
    if words.startswith("word"):
        assert all(line.rstrip().endswith("word") for line in lines if line[10:].strip())


def test_line_of_512_octets_is_not_folded() -> None:
    assert len(Reply(250, "x" * 500, "2.0.0").encode()) == 512
    assert Reply(250, "x" * 501, "2.0.0").encode().count(b"\r\n") == 2
    assert len(Reply(250, "x" * 506, "").encode()) == 512
    assert len(Reply(250, "\u00e9" * 253, "").encode()) == 512


@pytest.mark.parametrize(
    ("text", "lower"),
    [
        ("<Fred@EXAMPLE.org>", "fred@example.org"),
        ('<"Fred"@example.org>', "fred@example.org"),
        ('<"Fred B"@example.org>', '"fred b"@example.org'),
        ("<Postmaster>", "postmaster"),
        ("<>", ""),
        ("<Fred@[IPv6:::1]>", "fred@[ipv6:::1]"),
        ("<GR\u00dcN@b\u00fccher.example>", "gr\u00dcn@xn--bcher-kva.example"),
        ("<\u212aate@example.org>", "\u212aate@example.org"),  # not kate, although str.lower says so
    ],
)
def test_mailbox_in_lower_case(text: str, lower: str) -> None:
    path = Path.parse(text)
    assert path is not None
    assert path.lower() == lower


def test_bad_command_error() -> None:
    bad = BadCommandError(Reply(501, "No", "5.5.4"), verb="MAIL", close=True)
    assert (str(bad), bad.verb, bad.close) == ("MAIL: 501 No", "MAIL", True)
    assert str(BadCommandError(Reply(500, "No"))) == "line: 500 No"


# --- the tables -----------------------------------------------------------------------------------------------------

KINDS: list[type[Command]] = [
    Ehlo, Helo, Mail, Rcpt, Data, EndOfData, Rset, Noop, Quit, Vrfy, Expn, Help, AuthCommand, AuthResponse, Bdat, BdatLast,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_allowed_reply_codes(kind: type[Command]) -> None:
    # 502 to BDAT is the reply of a server without CHUNKING.
    assert kind.codes | ANY == CODES[kind.verb] - ({502} if kind.counted else set()) | ANY


def test_allowed_reply_codes_of_extensions() -> None:
    assert StartTlsCommand.codes | ANY == {220, 454, 502} | ANY
    assert Connect.codes == {220} | {code for code in range(400, 600) if code // 10 % 10 <= 5}
    assert ANY - {503} == COMMON_CODES


#: From RFC 3463, RFC 5248 and the RFCs that define the codes.
DEFAULT_STATUS = """
    211 2.0.0  214 2.0.0  220 2.0.0  221 2.0.0  235 2.7.0  250 2.0.0  251 2.1.5  252 2.5.0
    421 4.3.0  432 4.7.12  450 4.2.0  451 4.3.0  452 4.3.1  454 4.7.0  455 4.5.4
    500 5.5.2  501 5.5.4  502 5.5.1  503 5.5.1  504 5.5.4  521 5.3.2  525 5.7.13  530 5.7.0  534 5.7.9  535 5.7.8  538 5.7.11
    550 5.7.1  551 5.1.6  552 5.3.4  553 5.1.3  554 5.0.0  555 5.5.4  556 5.1.10
    259 2.0.0  459 4.0.0  559 5.0.0
"""


@pytest.mark.parametrize(
    ("code", "status"), list(zip(DEFAULT_STATUS.split()[::2], DEFAULT_STATUS.split()[1::2], strict=True))
)
def test_default_status(code: str, status: str) -> None:
    assert Reply(int(code), "x").encode() == f"{code} {status} x\r\n".encode()


def protocol_values() -> set[type]:
    """Return the classes of attrs in smtp_trio.protocol."""
    modules = pkgutil.walk_packages(smtp_trio.protocol.__path__, "smtp_trio.protocol.")
    values = [value for module in modules for value in vars(importlib.import_module(module.name)).values()]
    return {value for value in values if isinstance(value, type) and "__attrs_attrs__" in vars(value)}


def inherits(cls: type, method: str) -> bool:
    """Return whether a class has the method of `object`."""
    return getattr(cls, method) is getattr(object, method)


def test_values_are_compared_and_shown_by_their_fields() -> None:
    """A class with ``eq=False`` or ``repr=False`` has the methods of `Value`."""
    classes = protocol_values()
    assert len(classes) >= 50
    assert {each.__name__ for each in classes if inherits(each, "__repr__")} == set()
    assert {each.__name__ for each in classes if inherits(each, "__eq__")} == {"Param", "SessionState"}


@frozen(eq=False, repr=False)
class Sample(Value):
    number: int
    secret: str = field(default="", repr=False)
    note: str = field(default="", eq=False)
    table: dict[str, int] = field(factory=dict, hash=False)


@frozen
class Generated:
    """What attrs makes of the same fields."""

    number: int
    secret: str = field(default="", repr=False)
    note: str = field(default="", eq=False)
    table: dict[str, int] = field(factory=dict, hash=False)


SAMPLES = [(1,), (2,), (1, "s"), (1, "", "n"), (1, "", "", {"a": 1})]


@pytest.mark.parametrize("one", SAMPLES, ids=str)
@pytest.mark.parametrize("other", SAMPLES, ids=str)
def test_shared_methods_have_the_results_of_those_of_attrs(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert (Sample(*one) == Sample(*other)) == (Generated(*one) == Generated(*other))
    assert (hash(Sample(*one)) == hash(Sample(*other))) == (hash(Generated(*one)) == hash(Generated(*other)))
    assert repr(Sample(*one)) == repr(Generated(*one)).replace("Generated", "Sample")
    assert Sample(*one) != Generated(*one)
