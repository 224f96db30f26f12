"""The deviations from the grammar that a server accepts in each mode: strict, normal and lenient."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from attrs import asdict, evolve, fields
from hypothesis import given, strategies as st

from smtp_trio.protocol import (
    NORMAL,
    STRICT,
    BadCommandError,
    Command,
    Hello,
    Helo,
    Mail,
    Path,
    Rcpt,
    ServerProtocol,
    Strictness,
    lenient_mode,
)
from smtp_trio.protocol.extensions import STANDARD, Auth, standard
from smtp_trio.protocol.extensions.auth import AuthCommand
from smtp_trio.protocol.grammar import Grammar
from smtp_trio.protocol.strictness import select_mode

from .driver import HELLO, RECIPIENT, SENDER, ServerDriver, codes

LENIENT = lenient_mode("example.org")
MODES = {"strict": STRICT, "normal": NORMAL, "lenient": LENIENT}
PLAIN = "AUTH PLAIN AGZyZWQAc2VjcmV0"

# --- the table ------------------------------------------------------------------------------------------------------

#: For each member of `Strictness`: lines with that deviation and no other one, and the code that refuses them.
ROWS: dict[str, tuple[str, Sequence[str | bytes]]] = {
    "missing_brackets": ("501", ["MAIL FROM:a@b", "MAIL FROM:a@b SIZE=1", "RCPT TO:a@b", 'RCPT TO:"a"@b', "rcpt to:a@[192.0.2.1]"]),
    "spaces_at_colon": (
        "501",
        ["MAIL FROM: <a@b>", "MAIL FROM :<a@b> SIZE=1", "RCPT TO : <a@b>", "RCPT TO: <Postmaster>", "MAIL FROM: <>"],
    ),
    "extra_space": (
        "501",
        ["EHLO  x", "MAIL  FROM:<a@b>", "MAIL\tFROM:<a@b>", "MAIL FROM:<a@b>  SIZE=1", "VRFY a \tb", "NOOP\t\tx"],
    ),
    "invalid_hello_name": (
        "501",
        ["EHLO a_b", "HELO -a.b", "EHLO a-", "EHLO a..b", "EHLO a.b.", "HELO a,b", "EHLO [1.2.3]", "EHLO [a]", "EHLO a b",
         "HELO [192.0.2.11", "EHLO a.b]"],
    ),
    "missing_hello_name": ("501", ["EHLO", "HELO", "ehlo ", "HELO \t"]),
    "non_ascii_hello_name": (
        "501",
        ["EHLO b\u00fcro.test", "HELO b\u00fcro", b"EHLO b\xfcro", b"helo \xff\xfe", "EHLO \u4f8b.test."],
    ),
    "invalid_mailbox": (
        "501",
        ["MAIL FROM:<.a@b>", "MAIL FROM:<a..b@c> SIZE=1", "MAIL FROM:<a.@b>", "MAIL FROM:<...@b>", "RCPT TO:<a@b_c.d>",
         "RCPT TO:<a@_b>",
         "MAIL FROM:<a@-b.c>", "MAIL FROM:<a@b-.c>", "RCPT TO:<a@b.->", "RCPT TO:<@x:a.@b>", "RCPT TO:<a.@[192.0.2.1]>"],
    ),
    "default_domain": (
        "501",
        ["MAIL FROM:<a>", "MAIL FROM:<a@>", "MAIL FROM:<a> SIZE=1", "RCPT TO:<a>", "RCPT TO:<@x,@y:a>", 'RCPT TO:<"a b">'],
    ),
    "trailing_dot": ("501", ["MAIL FROM:<a@b.>", "MAIL FROM:<a@b.c.> SIZE=1", "RCPT TO:<@x:a@b.>", 'RCPT TO:<"a"@b.>']),
    "extensions_after_helo": ("503", [PLAIN, "AUTH LOGIN ZnJlZA==", "STARTTLS"]),
}  # fmt: skip


def try_line(line: str | bytes, strictness: Strictness) -> str:
    """Return the reply to a line, sent where its verb is allowed."""
    driver = ServerDriver(strictness=strictness, tls=True, hooks={"auth"}, extensions=standard(Auth(cleartext=True)))
    verb = (line if isinstance(line, str) else line.decode("latin-1"))[:4].upper()
    first = ["HELO x"] if verb in ("AUTH", "STAR") else [HELLO]
    driver.send_lines(*first, *[SENDER] * (verb == "RCPT"))
    return codes(driver.send_lines(line))[0]


@pytest.mark.parametrize(
    ("row", "refusal", "line"), [(row, code, line) for row, (code, lines) in ROWS.items() for line in lines]
)
def test_deviation_is_accepted_by_its_member_only(row: str, refusal: str, line: str | bytes) -> None:
    """With all others allowed the deviation is refused, and with it alone it is accepted."""
    values = asdict(LENIENT)
    assert try_line(line, Strictness(**{**values, row: None if row == "default_domain" else False}))[:3] == refusal
    assert try_line(line, Strictness(**{row: values[row]}))[0] in "23"


def test_every_member_has_a_row() -> None:
    assert set(ROWS) == {field.name for field in fields(Strictness)}
    assert all(getattr(LENIENT, row) for row in ROWS)


def test_modes_accept_more_and_more() -> None:
    accepted = [{row for row in ROWS if getattr(mode, row)} for mode in MODES.values()]
    assert accepted[0] == set()
    assert accepted[1] == {"missing_brackets", "spaces_at_colon", "extra_space", "invalid_hello_name"}
    assert accepted[2] == set(ROWS)
    assert ServerProtocol().state.strictness == NORMAL


# --- what no mode changes -------------------------------------------------------------------------------------------

VALID = [
    "EHLO client.test", "EHLO [192.0.2.1]", "HELO [IPv6:2001:db8::1]", "EHLO 1-2.xn--bcher-kva", "EHLO x ", "MAIL FROM:<>",
    "MAIL FROM:<a@b> SIZE=1 BODY=8BITMIME", "MAIL FROM:<A.b+c@B-c.D>", "MAIL FROM:<@x,@y.z:a@b>", 'MAIL FROM:<"a  b"@c>',
    "MAIL FROM:<\u00e9@b\u00fccher.test> SMTPUTF8", "mail from:<a@b> \t", "RCPT TO:<Postmaster>", "RCPT TO:<postmaster@b>",
    "RCPT TO:<a@[IPv6:::1]>", "RCPT TO:<a@b>", "VRFY a", "VRFY a b", "NOOP", "RSET", "HELP", "QUIT",
]  # fmt: skip
INVALID = [
    "MAIL FROM:", "MAIL FROM:<a@b", "MAIL FROM:a@b>", "MAIL FROM:<a@>>", "MAIL FROM:<@>", "MAIL FROM:<a b>", "MAIL FROM:<a@b@c>",
    "MAIL FROM:<a@.>", "MAIL FROM:<a@b..>", "MAIL FROM:<a@[192.0.2.1].>", "MAIL FROM:<a@[192.0.2]>", "MAIL FROM:<a@b.> X=1",
    "MAIL FROM:<@x:>", 'MAIL FROM:<"a>', "MAIL TO:<a>", "MAIL FROM:<a@-\u00ad.>", "RCPT TO:<>", "RCPT TO:<@x:a@b", "RCPT TO:<@a>",
    "EHLO \u2028", "EHLO a\0b", b"MAIL FROM:<\xff>", b"RCPT TO:<a@\xff.>", "MAIL FROM:<\u00e9>", "RCPT TO:<\u00e9@b.>", "AUTH", "",
]  # fmt: skip


def command_of(line: str, strictness: Strictness) -> object:
    driver = ServerDriver(strictness=strictness).begin(*[SENDER] * line.lower().startswith("rcpt"))
    driver.send_lines(line)
    return driver.events[-1]


@pytest.mark.parametrize("line", VALID)
def test_valid_command_is_the_same_in_all_modes(line: str) -> None:
    strict, normal, lenient = (command_of(line, mode) for mode in MODES.values())
    assert isinstance(strict, Command)
    assert strict == normal == lenient


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("line", INVALID)
def test_what_has_no_clear_meaning_is_refused_in_all_modes(line: str | bytes, mode: str) -> None:
    assert try_line(line, MODES[mode])[0] == "5"


def test_hint_names_the_deviation() -> None:
    driver = ServerDriver(strictness=STRICT).begin()
    replies = driver.send_lines("MAIL FROM:a@b", "MAIL FROM: <a@b>", "MAIL  FROM:<a@b>", "EHLO a_b")
    assert [reply.partition(", syntax")[0] for reply in replies] == [
        "501 5.5.4 Angle brackets missing",
        "501 5.5.4 No space allowed at the colon",
        "501 5.5.4 More than one space between words",
        "501 Not a domain or an address literal",
    ]


def test_refused_bdat_with_extra_space_closes_the_session() -> None:
    """The size of the chunk was not parsed, so that its octets cannot be told from commands."""
    driver = ServerDriver(strictness=STRICT).begin(SENDER, RECIPIENT)
    assert codes(driver.send(b"BDAT  4 LAST\r\nabc\r\nNOOP\r\n")) == ["501 5.5.4"]
    assert driver.closed
    assert driver.messages == []


# --- repaired mailboxes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "raw", "local", "domain"),
    [
        ("a", "a@example.org", "a", "example.org"),
        ("a@", "a@example.org", "a", "example.org"),
        ("Scan+to.Mail", "Scan+to.Mail@example.org", "Scan+to.Mail", "example.org"),
        ('"a b"', '"a b"@example.org', '"a b"', "example.org"),
        ('"a@b"', '"a@b"@example.org', '"a@b"', "example.org"),
        ('"a."@', '"a."@example.org', '"a."', "example.org"),
        ("@relay.test:a", "a@example.org", "a", "example.org"),
        ("a@B.Test.", "a@B.Test", "a", "b.test"),
        ("@relay.test:a@b.", "a@b", "a", "b"),
        ("Postmaster@b.", "Postmaster@b", "Postmaster", "b"),
        ("postmaster@", "postmaster@example.org", "postmaster", "example.org"),
        ("a%b", "a%b@example.org", "a%b", "example.org"),
    ],
)
@pytest.mark.parametrize("form", ["<{}>", "<{}> SIZE=1", "{}"])
def test_mailbox_is_repaired(sent: str, raw: str, local: str, domain: str, form: str) -> None:
    if " " in sent:  # without brackets it would end the path
        form = form if form.startswith("<") else "<{}>"
    driver = ServerDriver(strictness=LENIENT).begin(
        f"MAIL FROM:{form.format(sent)}", f"RCPT TO:{form.format(sent).split(' SIZE')[0]}"
    )
    _, mail, rcpt = driver.events[-3:]
    assert isinstance(mail, Mail)
    assert isinstance(rcpt, Rcpt)
    for path in (mail.sender, rcpt.recipient):
        assert (path.raw, path.local, path.domain, path.sent) == (raw, local, domain, sent)
        assert str(path) == f"{local}@{domain}"
        assert path.bracketed == form.startswith("<")
        # Another server reads the repaired mailbox, which is what ``encode`` sends it.
        assert Path.parse(f"<{path.raw}>") == evolve(path, sent=None, bracketed=True)
    assert rcpt.encode() == f"RCPT TO:<{raw}>"


def test_recipient_postmaster_needs_no_domain() -> None:
    """RFC 5321 4.5.1 and 4.1.1.3. As a sender it gets the default domain, since a reverse-path must have one."""
    for mode in MODES.values():
        driver = ServerDriver(strictness=mode).begin(
            "MAIL FROM:<Postmaster>", "RCPT TO:<PostMaster>", "RCPT TO:<postmaster@mx.test>"
        )
        _, mail, rcpt, _ = driver.events[-4:]
        assert isinstance(mail, Mail)
        assert isinstance(rcpt, Rcpt)
        assert (rcpt.recipient.raw, rcpt.recipient.domain, rcpt.recipient.sent) == ("PostMaster", None, None)
        assert mail.sender.domain == mode.default_domain


def test_null_sender_gets_no_domain() -> None:
    driver = ServerDriver(strictness=LENIENT).begin("MAIL FROM:<>")
    assert driver.protocol.state.mail == Mail(Path("", "", None))


@pytest.mark.parametrize(
    ("sent", "raw", "domain"),
    [
        ("\u00e9", "\u00e9@example.org", "example.org"),
        ("a@b\u00fccher.test.", "a@b\u00fccher.test", "xn--bcher-kva.test"),
        ("a@b\u00fccher.test\u3002", "a@b\u00fccher.test", "xn--bcher-kva.test"),
        ("a@b\u00fccher\uff61test\uff0e", "a@b\u00fccher\uff61test", "xn--bcher-kva.test"),
    ],
)
def test_non_ascii_mailbox_is_repaired_with_smtputf8(sent: str, raw: str, domain: str) -> None:
    driver = ServerDriver(strictness=LENIENT).begin(f"MAIL FROM:<{sent}> SMTPUTF8", f"RCPT TO:<{sent}>")
    mail = driver.protocol.state.mail
    assert mail is not None
    assert (mail.sender.raw, mail.sender.domain) == (raw, domain)
    assert codes(ServerDriver(strictness=LENIENT).begin().send_lines(f"MAIL FROM:<{sent}>")) == ["550 5.6.7"]


@pytest.mark.parametrize("dot", "\u3002\uff0e\uff61")
def test_other_dot_after_the_domain_is_refused(dot: str) -> None:
    """UTS 46 maps it to a dot, so the domain would end with one (RFC 5321 4.1.2)."""
    for mode in (NORMAL, STRICT):
        for domain in (f"b\u00fccher{dot}", f"b{dot}", f"b{dot}.", f"b.{dot}"):
            driver = ServerDriver(strictness=mode).begin()
            assert codes(driver.send_lines(f"MAIL FROM:<a@{domain}> SMTPUTF8")) == ["501 5.1.7"]


def test_auth_parameter_is_not_completed() -> None:
    """AUTH= is the identity of a submitter (RFC 4954 5), which only another server states."""
    extensions = standard(Auth(trusted=("fred",)))
    driver = ServerDriver(strictness=LENIENT, hooks={"auth"}, secure=True, extensions=extensions)
    driver.begin("AUTH PLAIN AGZyZWQAc2VjcmV0", "MAIL FROM:<a> AUTH=b", "RSET")
    (mail,) = [event for event in driver.events if isinstance(event, Mail)]
    assert mail.params.encode() == "AUTH=b"


def test_vrfy_is_not_completed() -> None:
    for mode in MODES.values():
        driver = ServerDriver(strictness=mode)
        assert codes(driver.begin().send_lines("VRFY a", "VRFY a@b.", "VRFY <a>")) == ["252 2.5.0"] * 3


@given(
    st.text(min_size=1).map(lambda text: text.replace("\n", "")), st.sampled_from(["<{}>", "<{}@>", "<{}@b.>", "{}"])
)
def test_repaired_mailbox_is_a_path(text: str, form: str) -> None:
    try:
        mail = Mail.decoder(LENIENT)(f"FROM:{form.format(text)}", {})
    except BadCommandError:
        return
    assert isinstance(mail, Mail)
    path = mail.sender
    assert path.is_null or path.domain is not None
    assert Path.parse(f"<{path.raw}>") == evolve(path, bracketed=True)


def test_repaired_mailbox_is_checked_too() -> None:
    """A mode that adds domains may still refuse invalid mailboxes."""
    mode = evolve(LENIENT, invalid_mailbox=False)
    driver = ServerDriver(strictness=mode).begin()
    lines = ["MAIL FROM:<.a>", "MAIL FROM:<a.>", "MAIL FROM:<a@b_c.>", "MAIL FROM:<a@-b.>"]
    assert codes(driver.send_lines(*lines)) == ["501 5.1.7"] * 4
    assert codes(ServerDriver(strictness=evolve(mode, default_domain="b_c")).begin().send_lines("MAIL FROM:<a>")) == [
        "501 5.1.7"
    ]
    for line in lines:
        assert try_line(line, LENIENT) == "250 2.1.0"


def test_clients_can_send_to_invalid_mailboxes() -> None:
    """They exist, so `Path.parse` accepts them and says that they are not well-formed."""
    valid = ["a.b@c-d", '"a."@b', "a@[192.0.2.1]"]
    for text in ("a..b@c", ".a@b", "a@b_c", "a@-b", *valid):
        path = Path.parse(f"<{text}>")
        assert path is not None
        assert (path.raw, path.well_formed) == (text, text in valid)
        assert Rcpt(path).encode() == f"RCPT TO:<{text}>"


# --- names in HELO and EHLO -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        (b"", ""),
        (b"client.test", "client.test"),
        (b"under_score", "under_score"),
        (b"[192.0.2.1]", "[192.0.2.1]"),
        ("b\u00fcro.test".encode(), "xn--bro-hoa.test"),
        ("B\u00dcRO.Test.".encode(), "xn--bro-hoa.test"),
        ("b\u00fcro\u3002test".encode(), "xn--bro-hoa.test"),
        ("b\u00fcro pc".encode(), "xn--bro-hoa"),
        ("b\u00fc_ro".encode(), ""),
        ("[b\u00fcro]".encode(), ""),
        ("b\u00fcro)".encode(), ""),
        ("\u202eoreb".encode(), ""),
        (b"b\xfcro.test", ""),
        (b"\xff\xfe", ""),
    ],
)
@pytest.mark.parametrize("verb", [b"EHLO", b"HELO"])
def test_hello_name_is_ascii_in_lenient_mode(name: bytes, domain: str, verb: bytes) -> None:
    driver = ServerDriver(strictness=LENIENT)
    *_, reply = driver.send_lines(verb + b" " + name)
    assert reply.startswith("250")
    hello = driver.protocol.state.hello
    assert isinstance(hello, Hello)
    assert (hello.verb, hello.domain) == (verb.decode(), domain)
    assert reply.isascii()


@pytest.mark.parametrize("line", [b"VRFY \xff", b"MAIL FROM:<\xff@b>", b"NOOP \xff", b"X \xff", b"\xff"])
def test_only_names_may_be_invalid_utf8(line: bytes) -> None:
    assert codes(ServerDriver(strictness=LENIENT).begin().send_lines(line))[0][:3] in ("500", "501")


# --- AUTH after HELO ------------------------------------------------------------------------------------------------


def test_auth_after_helo() -> None:
    driver = ServerDriver(strictness=LENIENT, hooks={"auth"}, secure=True)
    assert codes(driver.send_lines("HELO printer", PLAIN, SENDER, PLAIN)) == [
        "220",
        "250",
        "235 2.7.0",
        "250 2.1.0",
        "503 5.5.1",
    ]
    assert driver.protocol.state.user == "fred"
    assert isinstance(driver.protocol.state.hello, Helo)
    # Parameters are still those of the offer, and HELO has none.
    assert codes(driver.send_lines("RSET", "MAIL FROM:<a@b> SIZE=1")) == ["250 2.0.0", "555 5.5.4"]


def test_auth_login_after_helo_in_several_lines() -> None:
    driver = ServerDriver(strictness=LENIENT, hooks={"auth"}, secure=True)
    assert codes(driver.send_lines("HELO printer", "AUTH LOGIN", "ZnJlZA==", "c2VjcmV0")) == [
        "220",
        "250",
        "334",
        "334",
        "235 2.7.0",
    ]


def test_auth_after_helo_needs_tls_and_helo() -> None:
    driver = ServerDriver(strictness=LENIENT, hooks={"auth"}, tls=True)
    assert codes(driver.send_lines(PLAIN, "HELO printer", PLAIN)) == ["220", "538 5.7.11", "250", "538 5.7.11"]
    assert codes(driver.send_lines("STARTTLS")) == ["220 2.0.0"]
    assert codes(driver.send_lines(PLAIN, "HELO printer", PLAIN)) == ["503 5.5.1", "250", "235 2.7.0"]


def test_help_lists_auth_after_helo() -> None:
    for mode, listed in ((NORMAL, False), (LENIENT, True)):
        driver = ServerDriver(strictness=mode, hooks={"auth"}, secure=True)
        *_, reply = driver.send_lines("HELO printer", "HELP")
        assert ("AUTH" in reply.split("\n")[0]) is listed


# --- the caches -----------------------------------------------------------------------------------------------------

LINES = [
    "MAIL FROM:<a>",
    "MAIL FROM:<a@b.>",
    "MAIL FROM:a@b",
    "MAIL FROM: <a@b>",
    "MAIL FROM:<a@b>",
    "MAIL FROM:<a> SIZE=1",
]


@pytest.mark.parametrize("lines", [LINES, LINES[::-1]])
def test_servers_of_different_modes_share_no_parsed_commands(lines: Sequence[str]) -> None:
    """They share a `Grammar`, whose caches hold what any of them has parsed."""
    grammar = Grammar(STANDARD)
    modes = {**MODES, "other": lenient_mode("other.test"), "strict again": Strictness()}
    drivers = {name: ServerDriver(strictness=mode, extensions=grammar).begin() for name, mode in modes.items()}
    for _ in range(3):
        for line in lines:
            for name, driver in drivers.items():
                alone = ServerDriver(strictness=modes[name], extensions=Grammar(STANDARD)).begin()
                assert driver.send_lines(line, "RSET") == alone.send_lines(line, "RSET"), (name, line)
                assert driver.events[-2:] == alone.events[-2:]
                if line == LINES[0] and modes[name].default_domain:
                    mail = driver.events[-2]
                    assert isinstance(mail, Mail)
                    assert mail.sender.domain == modes[name].default_domain


def test_equal_modes_share_parsed_commands() -> None:
    assert lenient_mode("example.org") == lenient_mode("EXAMPLE.org") != lenient_mode("example.net")
    decoders = [Mail.decoder(mode) for mode in (LENIENT, lenient_mode("example.org"))]
    assert decoders[0]("FROM:<a>", {}) is decoders[1]("FROM:<a>", {})


def test_decode_is_that_of_the_normal_mode() -> None:
    assert Mail.decode("FROM:a@b", {}) == Mail.decoder(NORMAL)("FROM:a@b", {})
    assert Rcpt.decode("TO: <a@b>", {}) == Rcpt.decoder(NORMAL)("TO: <a@b>", {})
    assert Helo.decode("a_b", {}) == Helo("a_b")
    for cls, argument in ((Mail, "FROM:<a>"), (Rcpt, "TO:<a@b.>"), (Helo, "")):
        with pytest.raises(BadCommandError):
            cls.decode(argument, {})
    assert AuthCommand.decoder(LENIENT) == AuthCommand.decode


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("example.org", "example.org"),
        ("Example.ORG", "example.org"),
        ("b\u00fccher.test", "xn--bcher-kva.test"),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
        ("localhost", "localhost"),
    ],
)
def test_default_domain(domain: str, expected: str) -> None:
    assert lenient_mode(domain).default_domain == expected


@pytest.mark.parametrize(
    "domain", ["", " ", "a b", "@a", "a@b", ".a", "a.", "a..b", "<a>", "[1.2.3]", "a\r\nb", "a\0", "*", "\u2028"]
)
def test_invalid_default_domain(domain: str) -> None:
    with pytest.raises(ValueError, match="lenient needs a domain or an address literal"):
        lenient_mode(domain)


def test_mode_of_the_settings_of_a_server() -> None:
    assert select_mode("mx.test", lenient=False, strict=False) is NORMAL
    assert select_mode("mx.test", lenient=False, strict=True) is STRICT
    assert select_mode("mx.test", lenient=True, strict=False) == lenient_mode("mx.test")
    assert select_mode("mx.test", lenient="example.org", strict=False) == LENIENT
    with pytest.raises(ValueError, match="strict cannot be combined with lenient"):
        select_mode("mx.test", lenient=True, strict=True)
    with pytest.raises(ValueError, match="got 'my host'"):
        select_mode("my host", lenient=True, strict=False)
    with pytest.raises(TypeError, match="lenient must be True, False or a domain, got None"):
        select_mode("mx.test", lenient=None, strict=False)  # type: ignore[arg-type]
