"""The notation of the cases: what lines mean, and how mistakes are reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from smtp_trio.conform import Case, Level, NotationError, Stage, read_cases
from smtp_trio.conform._client_cases import CHAPTERS as CLIENT_CHAPTERS, messages, read_client_cases
from smtp_trio.conform._server_cases import CHAPTERS
from smtp_trio.conform._steps import (
    Expect,
    ExpectClose,
    ExpectReplies,
    ExpectSilence,
    RepeatLimit,
    Send,
    When,
    parse_limit,
)

HEAD = "== test.case: a case\nMUST RFC 5321 4.2: A sentence.\n"


def one(text: str) -> Case:
    _, (requirement,) = read_cases(text, "test.txt")
    assert isinstance(requirement, Case)
    return requirement


def test_head_and_keys() -> None:
    title, (case,) = read_cases(
        "chapter: Test\n\n# A remark.\n== test.case: a case\n"
        "SHOULD RFC 5321 4.2: A sentence\n  of two lines.\n"
        "after: MAIL\nneeds: SIZE n,\n  --user\nskip if: DSN\nend: no QUIT\n"
    )
    assert isinstance(case, Case)
    assert (title, case.id, case.title, case.group) == ("Test", "test.case", "a case", "test")
    assert (case.level, case.section, case.sentence) == (Level.SHOULD, "RFC 5321 4.2", "A sentence of two lines.")
    assert (case.stage, case.needs, case.skip_if, case.send_quit) == (Stage.MAIL, ("SIZE n", "--user"), ("DSN",), False)


def test_lines_that_follow_each_other_are_one_piece() -> None:
    assert one(HEAD + "C: RSET\nC> N\\x4fOP\\r\\n\n~\nC: QUIT\n").steps == (
        Send(b"RSET\r\nNOOP\r\n"),
        Send(b"QUIT\r\n"),
    )


@pytest.mark.parametrize(
    ("line", "data", "times"),
    [
        ("C:", b"\r\n", 1),
        ("C:  NOOP", b" NOOP\r\n", 1),
        ("C: NOOP {x*3}", b"NOOP xxx\r\n", 1),
        ("C> {{x*2}\\r\\n*2}", b"xx\r\nxx\r\n", 1),
        ("C> {RCPT TO:<{to}>\\r\\n*2}", b"RCPT TO:<{to}>\r\nRCPT TO:<{to}>\r\n", 1),
        ("C*3> {x*4}", b"xxxx", 3),
        ("C: {base64:n={nonce},{x*2}=}", b"{base64:n={nonce},xx=}\r\n", 1),
    ],
)
def test_octets(line: str, data: bytes, times: int) -> None:
    assert one(HEAD + line).steps == (Send(data, times=times),)


def test_expectations() -> None:
    assert one(
        HEAD
        + "S: 250|251 or closes  # a meaning\nS: 250 no text a|b\nS: 250 does not list SIZE.*\nS: 334 decodes n=.*\n"
        "S. closes within 3 s after 4..\nS. sends nothing for 0.3 s\nS. replies 250 (221|421) and closes  # both\n"
    ).steps == (
        Expect("250|251", "a meaning", or_close=True),
        Expect("250", text="!a|b"),
        Expect("250", lists="!SIZE.*"),
        Expect("334", decodes="n=.*"),
        ExpectClose(after="4..", within=3),
        ExpectSilence(0.3, ""),
        ExpectReplies("250 (221|421)", "both"),
    )


def test_single_reply_names_its_command() -> None:
    steps = one(HEAD + "C: NOOP\nS: 250\nC: RSET\nC: NOOP\nS: 250\nS: 250\n").steps
    assert [step.to for step in steps if isinstance(step, Expect)] == ["NOOP", "", ""]


def test_blocks() -> None:
    text = "C: DATA\nS: 354|5..\nif 354:\n  C: .\n  S: 5..\nelse:\n  C: NOOP\nrepeat 2:\n  C: RSET\n"
    assert one(HEAD + text).steps[2:] == (
        When("354", (Send(b".\r\n"), Expect("5..", to=".")), (Send(b"NOOP\r\n"),)),
        *[Send(b"RSET\r\n")] * 2,
    )
    assert one(HEAD + "repeat RCPTMAX:\n  C: RSET\n").steps == (RepeatLimit("RCPTMAX", (Send(b"RSET\r\n"),)),)


@pytest.mark.parametrize(
    ("parameters", "limit"),
    [("MAILMAX=5 RCPTMAX=20", 20), ("rcptmax=1000", 1000), ("RCPTMAX=1001", 0), ("RCPTMAX=07", 0), ("XRCPTMAX=7", 0)],
)
def test_limits_that_are_tried(parameters: str, limit: int) -> None:
    """RFC 9422 4. With greater ones a case would take too long."""
    assert parse_limit(parameters, "RCPTMAX") == limit


def test_table_stands_for_several_cases() -> None:
    _, cases = read_cases(
        "== test.$name: $what\n$level RFC 5321 4.2\n"
        "| name | level  | what | octets |\n| a | MUST | one | x\\r |\n| b | SHOULD | or two | |\n"
        "C> ${octets}NOOP 1|2\\r\\n\n"
    )
    assert [(case.id, case.title, case.level) for case in cases] == [
        ("test.a", "one", Level.MUST),
        ("test.b", "or two", Level.SHOULD),
    ]
    assert [case.steps for case in cases if isinstance(case, Case)] == [
        (Send(b"x\rNOOP 1|2\r\n"),),
        (Send(b"NOOP 1|2\r\n"),),
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("NOOP\n", "test.txt:1: expected '== id: title': 'NOOP'"),
        ("== Test: a\n", "test.txt:1: expected '== id: title'"),
        ("\n== test.case: a case\nC: NOOP\n", "test.txt:2: no line with the level and the RFC section"),
        (HEAD + "S: fine\n", "test.txt:3: invalid line of a case: 'S: fine'"),
        (HEAD + "neds: SIZE\n", "test.txt:3: unknown key 'neds', expected one of after, needs"),
        (HEAD + "after: HELO\n", "test.txt:3: 'after' must be one of connect, "),
        (HEAD + "C> \\xzz\n", "test.txt:3: invalid escape"),
        (HEAD + "C: NOOP\n  C: NOOP\n", "test.txt:4: unexpected indentation"),
        (HEAD + "S: 250 text (\n", "test.txt:3: invalid pattern: missing )"),
        (HEAD + "else:\n  C: NOOP\n", "test.txt:3: 'else' without 'if'"),
        (HEAD + "repeat often:\n  C: NOOP\n", "test.txt:3: expected 'if CODES:' or 'repeat NUMBER:'"),
        (HEAD + "check: what\n", "test.txt:3: unknown check 'what', expected one of reply syntax"),
        (HEAD + "| a | b |\n| 1 |\n", "test.txt:4: expected 2 cells, got 1"),
        (HEAD + "| a |\n| 1 |\nC: $b\n", "test.txt:5: the table has no column 'b'"),
    ],
)
def test_mistakes_in_cases_for_servers(text: str, error: str) -> None:
    with pytest.raises(NotationError) as caught:
        read_cases(text, "test.txt")
    assert str(caught.value).startswith(error)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("S: 250\n", "test.txt:3: expected 'on EVENT:', and what the server does indented below it"),
        ("on mail:\n  S: 250 Ok\n", "test.txt:3: expected 'on EVENT:'"),
        ("on MAIL:\n  S. waits\n", "test.txt:4: invalid line of a case"),
        ("expect: joy\n", "test.txt:3: unknown expectation: 'expect: joy'"),
        ("check: joy\n", "test.txt:3: unknown check 'joy'"),
        ("after: MAIL\n", "test.txt:3: unknown key 'after'"),
    ],
)
def test_mistakes_in_cases_for_clients(text: str, error: str) -> None:
    with pytest.raises(NotationError) as caught:
        read_client_cases(HEAD + text, "test.txt")
    assert str(caught.value).startswith(error)


def test_messages() -> None:
    assert messages()["dot-first"].endswith(b"\r\n\r\n.\r\n")
    assert messages()["open"].endswith(b"no end")
    assert len(messages()["large"]) > 1_000_000


@pytest.mark.parametrize(
    ("folder", "chapters"), [("cases", CHAPTERS), ("client_cases", (*CLIENT_CHAPTERS, "messages"))]
)
def test_every_file_is_a_chapter(folder: str, chapters: tuple[str, ...]) -> None:
    import smtp_trio.conform

    files = Path(smtp_trio.conform.__file__).parent.joinpath(folder).iterdir()
    assert {file.name for file in files} == {f"{chapter}.txt" for chapter in chapters}
