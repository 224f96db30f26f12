"""Tests of transcripts: their text, masked secrets, recording and comparison."""

from __future__ import annotations

import base64
import re
import textwrap
from pathlib import Path

import pytest
import trio
from helpers import client_tls, server_tls
from hypothesis import given, strategies as st

from smtp_trio import Hooks, Reply, Server, Session
from smtp_trio.protocol import standard
from smtp_trio.protocol.extensions import Auth
from smtp_trio.protocol.sasl import Credentials, ScramSecret
from smtp_trio.testing import Entry, Inbox, Transcript, deterministic, memory_pair

OPENING = """\
S: 220 mx.test ESMTP
C: EHLO client.test
S: 250-mx.test
S: 250-PIPELINING
S: 250-SIZE 31457280
S: 250-8BITMIME
S: 250-SMTPUTF8
S: 250-ENHANCEDSTATUSCODES
S: 250-CHUNKING
S: 250-DSN
S: 250 HELP
"""


MASKED = "***"


def text(*entries: tuple[float, str, bytes | str], pieces: bool = False, times: bool = True) -> str:
    """Return the text of octets and events."""
    return transcript(*entries).text(pieces=pieces, times=times)


def transcript(*entries: tuple[float, str, bytes | str]) -> Transcript:
    return Transcript(
        Entry(time, side, data) if isinstance(data, bytes) else Entry(time, side, event=data)  # type: ignore[arg-type]
        for time, side, data in entries
    )


# --- text -----------------------------------------------------------------------------------------------------------


def test_text_has_lines_events_and_times() -> None:
    assert text(
        (0, "S", b"220 mx.test\r\n"),
        (0, "C", b"NO"),
        (299.5, "C", b"OP\r\nRS"),
        (300, "S", b"421 4.4.2 Timeout\r\n"),
        (300, "S", "closes"),
        (300.25, "C", "resets"),
    ) == ("S: 220 mx.test\n@ 299.5\nC: NOOP\nC> RS\n@ 300\nS: 421 4.4.2 Timeout\nS. closes\n@ 300.25\nC. resets\n")


def test_text_with_pieces() -> None:
    entries = (0.0, "S", b"220 m"), (0.0, "S", b"x\r\n250 "), (2.0, "S", b"Ok\r\n"), (2.0, "C", b"QUIT\r\n")
    assert text(*entries) == "@ 0\nS: 220 mx\n"[4:] + "@ 2\nS: 250 Ok\nC: QUIT\n"
    assert text(*entries, pieces=True) == "S> 220 m\n~\nS: x\nS> 250\\x20\n@ 2\nS: Ok\nC: QUIT\n"
    assert text(*entries, pieces=True, times=False) == "S> 220 m\n~\nS: x\nS> 250\\x20\n~\nS: Ok\nC: QUIT\n"


@pytest.mark.parametrize(
    ("octets", "line"),
    [
        (b"\r\n", "C:"),
        ("Grüße\tan Hänschen\r\n".encode(), "C: Grüße\tan Hänschen"),
        (b"ends in a space \r\n", r"C> ends in a space \r\n"),
        (b"bare\nLF\r\n", r"C> bare\nLF\r\n"),
        (b"caf\xe9\r\n", r"C> caf\xe9\r\n"),
        (b"back\\slash\r\n", "C: back\\slash"),
        (b"back\\slash", r"C> back\\slash"),
        (b"\r", r"C> \r"),
        ("\u2028\r\n".encode(), r"C> \xe2\x80\xa8\r\n"),
    ],
)
def test_text_that_editors_may_change_is_escaped(octets: bytes, line: str) -> None:
    assert text((0, "C", octets)) == line + "\n"
    assert Transcript.parse(line).octets("C") == octets


def test_sessions_follow_each_other() -> None:
    mixed = Transcript(
        [
            Entry(0, "S", b"220 a\r\n", session="first"),
            Entry(0, "S", b"220 b\r\n", session="second"),
            Entry(1, "C", b"QUIT\r\n", session="first"),
            Entry(2, "C", b"NOOP\r\n", session="second"),
        ]
    )
    assert str(mixed) == "== first\nS: 220 a\n@ 1\nC: QUIT\n== second\nS: 220 b\n@ 2\nC: NOOP\n"
    assert mixed.octets("C", session="second") == b"NOOP\r\n"
    assert Transcript.parse(str(mixed)).entries == sorted(mixed.entries, key=lambda entry: entry.session)


LINES = st.sampled_from(
    [
        b"RCPT TO:<a>\r\n",
        b"503 \r\n",
        b"xAUTH a b\n",
        b"AUTH PLAIN c2VjcmV0\r\n",
        b"334 \r\n",
        b"334 bWVo\r\n",
        b"354 \r\n",
        b".\r\n",
        b"BDAT 5\r\n",
        b"*",
    ]
)
DATA = st.one_of(LINES, st.binary(max_size=8), st.text("Cc .~@#*\\=\r\n é", max_size=12).map(str.encode))
ENTRIES = st.lists(
    st.builds(
        Entry,
        st.sampled_from([0.0, 1.5, 2.0]),
        st.sampled_from(["C", "S"]),
        DATA.filter(bool),
        session=st.sampled_from("12"),
    ),
    max_size=12,
).map(lambda entries: Transcript(sorted(entries, key=lambda entry: (entry.session, entry.time))))


@given(ENTRIES, st.booleans(), st.booleans())
def test_parse_is_the_inverse_of_text(made: Transcript, times: bool, pieces: bool) -> None:
    once = made.text(times=times, pieces=pieces)
    read = Transcript.parse(once)
    assert read.text(times=times, pieces=pieces) == once
    if MASKED not in once:
        assert (read.octets("C"), read.octets("S")) == (made.octets("C"), made.octets("S"))


@pytest.mark.parametrize("line", ["X: what", "C", "C. sneezes", "S:x y\nC", "@ noon", "C> \\x", "hello"])
def test_invalid_line(line: str) -> None:
    with pytest.raises(ValueError, match=r"line|float|escape|decode"):
        Transcript.parse("S: 220 mx.test\n" + line)


# --- secrets --------------------------------------------------------------------------------------------------------

SECRET = base64.b64encode(b"\0fred\0secret")
NAME, WORD = base64.b64encode(b"fred"), base64.b64encode(b"secret")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ([b"C:auth  plain  " + SECRET + b"\r\n"], "C: auth  plain  ***"),
        ([b"C:AUTH EXTERNAL =\r\n"], "C: AUTH EXTERNAL ="),
        ([b"C:AUTH LOGIN\r\n", b"S:334 VXNlcm5hbWU6\r\n", b"C:" + NAME + b"\r\n"], "C: AUTH LOGIN S: 334 VXNlcm5hbWU6 C: ***"),
        ([b"C:AUTH LOGIN\r\n", b"S:334 \r\n", b"C:*\r\n"], r"C: AUTH LOGIN S> 334 \r\n C: *"),
        ([b"C:AUTH CRAM-MD5\r\n", b"S:334 PDEuMkBteD4=\r\n", b"C:not base64!\r\n"], "C: AUTH CRAM-MD5 S: 334 *** C: ***"),
        ([b"C:AUTH LOGIN\r\n" + NAME + b"\r\n" + WORD + b"\r\nNOOP\r\n"], "C: AUTH LOGIN C: *** C: *** C: NOOP"),
        ([b"C:AUTH LOGIN\r\n" + NAME + b"\r\nNOOP\r\n", b"S:334 \r\n", b"C:RSET\r\n"],
         r"C: AUTH LOGIN C: *** C: NOOP S> 334 \r\n C: RSET"),
        ([b"C:AUTH PLAIN\r\n", b"S:535 no\r\n", b"C:" + SECRET + b"\r\n"], "C: AUTH PLAIN S: 535 no C: ***"),
        ([b"C:AUTH PLAIN " + SECRET[:7]], "C> AUTH PLAIN ***"),
        ([b"C:AUTH PLAIN " + SECRET[:7], b"S:421 bye\r\n", b"C:" + SECRET[7:] + b"\r\n"], r"C> AUTH PLAIN *** S: 421 bye C: ***"),
        ([b"C:DATA\r\n", b"S:354 Go\r\n", b"C:AUTH PLAIN is a verb\r\n.\r\nAUTH PLAIN eA==\r\n"],
         "C: DATA S: 354 Go C: AUTH PLAIN is a verb C: . C: AUTH PLAIN ***"),
        ([b"C:RCPT TO:<a@b>\r\nBDAT 12 LAST\r\nAUTH PLAIN xAUTH PLAIN x\r\n"],
         "C: RCPT TO:<a@b> C: BDAT 12 LAST C: AUTH PLAIN xAUTH PLAIN ***"),
        ([b"C:xAUTH PLAIN " + SECRET + b"\r\n"], "C: xAUTH PLAIN ***"),
        ([b"C:NOOP\nAUTH PLAIN " + SECRET + b"\r\n"], r"C> NOOP\nAUTH PLAIN ***\r\n"),
        ([b"C:xauth login\r\n" + NAME + b"\r\n"], "C: xauth login C: ***"),
        ([b"C:BDAT 100\r\nAUTH PLAIN " + SECRET + b"\r\n"], "C: BDAT 100 C: AUTH PLAIN ***"),
        ([b"C:RCPT TO:<a@b>\r\nRSET\r\nBDAT 100\r\nAUTH PLAIN " + SECRET + b"\r\n"],
         "C: RCPT TO:<a@b> C: RSET C: BDAT 100 C: AUTH PLAIN ***"),
        ([b"C:RCPT TO:<a@b>\r\n", b"S:550 no\r\n", b"C:BDAT 100\r\n", b"S:503 no\r\n", b"C:AUTH PLAIN " + SECRET + b"\r\n"],
         "C: RCPT TO:<a@b> S: 550 no C: BDAT 100 S: 503 no C: AUTH PLAIN ***"),
    ],
)  # fmt: skip
def test_secrets_are_masked(said: list[bytes], shown: str) -> None:
    entries = [(0.0, chr(each[0]), each[2:]) for each in said]
    assert text(*entries).replace("\n", " ").strip() == shown
    pieces = [(0.0, side, bytes([octet])) for _, side, data in entries for octet in data]
    for secret in (SECRET, NAME, WORD):
        assert secret.decode() not in text(*pieces, pieces=True).replace("\n~\n", "").replace("C> ", "")
        assert secret.decode() not in repr(transcript(*entries).entries)


class AcceptsFred(Hooks):
    """Hooks that authenticate fred with any mechanism."""

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        return None

    async def secret(self, session: Session, user: str, mechanism: str) -> ScramSecret | str:
        return "secret-word"


async def login(mechanism: str, seed: int) -> Transcript:
    written = Transcript()
    server = Server(
        AcceptsFred(),
        name="mx.test",
        extensions=standard(Auth(mechanisms=(mechanism,), cleartext=True)),
        **deterministic(seed),
    )
    async with trio.open_nursery() as nursery:
        async with await memory_pair(
            nursery, server, transcript=written, tls="never", auth=("fred", "secret-word"), allow_cleartext=True
        ) as client:
            assert client.user == "fred"
    return written


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "CRAM-MD5", "LOGIN", "PLAIN"])
async def test_text_of_a_login_does_not_depend_on_nonces(autojump_clock: object, mechanism: str) -> None:
    """Nonces could help to compute the password, so they are masked as well."""
    once, again = await login(mechanism, 1), await login(mechanism, 2)
    assert str(once) == str(again)
    lines = str(once).splitlines()
    assert all("***" in line for line in lines if line.startswith("S: 334") and "VXN" not in line and "UGF" not in line)
    assert b"fred" not in b"".join(map(decoded, re.findall(r"[\w+/=]{4,}", str(once))))


def decoded(word: str) -> bytes:
    try:
        return base64.b64decode(word, validate=True)
    except ValueError:
        return b""


# --- recording ------------------------------------------------------------------------------------------------------


async def test_recorded_session(autojump_clock: object) -> None:
    written = Transcript()
    async with trio.open_nursery() as nursery:
        async with await memory_pair(nursery, Inbox(), transcript=written) as client:
            await trio.sleep(2.5)
            await client.noop()
    assert str(written) == OPENING + textwrap.dedent(
        """\
        @ 2.5
        C: NOOP
        S: 250 2.0.0 Ok
        C: QUIT
        S: 221 2.0.0 mx.test Goodbye
        C. closes
        """
    )


@pytest.mark.parametrize("implicit", [True, False])
async def test_recording_inside_tls(autojump_clock: object, implicit: bool) -> None:
    """The client's and the server's recordings agree."""
    written, inbox = Transcript(), Inbox()
    server = Server(inbox, name="mx.test", tls=server_tls(), **deterministic())
    async with trio.open_nursery() as nursery:
        async with await memory_pair(
            nursery,
            server,
            transcript=written,
            implicit_tls=implicit,
            tls="implicit" if implicit else "required",
            host="mx.test",
            ssl_context=client_tls(),
        ):
            pass
    assert "C. begins TLS" in str(written)
    written.compare(str(inbox.transcripts[0]) + "C. closes")
    last = OPENING.replace("S: 220 mx.test ESMTP\n", "") + "C: QUIT\nS: 221 2.0.0 mx.test Goodbye\nC. closes\n"
    assert str(written).endswith(last)


async def test_several_sessions_are_numbered(autojump_clock: object) -> None:
    written = Transcript()
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            async with await memory_pair(nursery, Inbox(), transcript=written):
                pass
    sessions = str(written).split("== ")
    assert [session.splitlines()[0] for session in sessions[1:]] == ["1", "2"]
    assert sessions[1].splitlines()[1:] == sessions[2].splitlines()[1:]


# --- comparison ------------------------------------------------------------------------------------------------------

SAID = transcript((0, "S", b"220 mx.test\r\n"), (0, "C", b"NOOP\r\n"), (1, "S", b"250 Ok 17\r\n"))


@pytest.mark.parametrize(
    "wanted",
    [
        "S: 220 mx.test\nC: NOOP\n@ 1\nS: 250 Ok 17\n",
        """
        # A remark.
        S: 220 mx.test
        C: NOOP

        @ 1
        S: 250 Ok ***
        """,
    ],
)
def test_compare_with_text(wanted: str) -> None:
    SAID.compare(wanted)


def test_compare_without_times() -> None:
    SAID.compare("S: 220 mx.test\nC: NOOP\nS: 250 Ok 17", times=False)


def test_difference_is_shown() -> None:
    with pytest.raises(AssertionError) as info:
        SAID.compare("S: 220 ***\nC: NOOP\n@ 2\nS: 250 Ok 17")
    assert str(info.value).splitlines()[3:] == [
        "@@ -1,4 +1,4 @@",
        " S: 220 mx.test",
        " C: NOOP",
        "-@ 2",
        "+@ 1",
        " S: 250 Ok 17",
    ]


def test_compare_with_a_file_and_update_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMTP_TRIO_UPDATE_TRANSCRIPTS", raising=False)
    file = tmp_path / "session.txt"
    with pytest.raises(AssertionError, match="SMTP_TRIO_UPDATE_TRANSCRIPTS=1 writes it:\nS: 220"):
        SAID.compare(file)
    assert not file.exists()
    SAID.compare(file, update=True)
    assert file.read_text() == str(SAID)
    SAID.compare(file)
    file.write_text("# Why.\nS: 220 ***\nC: NOOP\n")
    with pytest.raises(AssertionError, match="SMTP_TRIO_UPDATE_TRANSCRIPTS=1 rewrites the file"):
        SAID.compare(file)
    monkeypatch.setenv("SMTP_TRIO_UPDATE_TRANSCRIPTS", "1")
    SAID.compare(file)
    assert file.read_text() == "# Why.\n" + str(SAID)


def test_update_keeps_a_file_that_matches(tmp_path: Path) -> None:
    file = tmp_path / "session.txt"
    file.write_text(old := "S: 220 ***\nC: NOOP\n# so late\n@ 1\nS: 250 Ok ***\n")
    SAID.compare(file, update=True)
    assert file.read_text() == old


async def test_empty_transcript_is_true(autojump_clock: object) -> None:
    written = Transcript()
    assert written
    assert (len(written), str(written), repr(written)) == (0, "", "<Transcript of 0 entries>")
    written.add("C", b"")
    assert not list(written)


async def test_follow_a_client_during_its_session(autojump_clock: object) -> None:
    written = Transcript()
    async with trio.open_nursery() as nursery:
        async with await memory_pair(nursery, Inbox()) as client:
            written.follow(client)
            await client.noop()
    assert str(written) == "C: NOOP\nS: 250 2.0.0 Ok\nC: QUIT\nS: 221 2.0.0 mx.test Goodbye\n"
