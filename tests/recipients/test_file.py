"""The file of recipients: its format, errors that name the line, and large files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smtp_trio.recipients import RecipientFile, SourceError, _file
from smtp_trio.recipients._file import parse

CONTENT = """\
# The mailboxes of example.org

fred@example.org
Wilma.Flintstone@Example.ORG   # case does not matter
  # a comment between an entry and nothing
info@example.org: fred@example.org, Wilma.Flintstone@example.org
staff@example.org:
    fred@example.org,
# a comment within an entry
\tbarney@away.test   # not here
a#b@example.org
"c: d, e #f\\""@example.org: "x, y"@example.org
fred@[IPv6:2001:db8::1]:fred@example.org
@example.net:fred@example.org
@.lab.example.org
@BÜCHER.example
jürgen@bücher.example
PostMaster: fred@example.org
"plain"@example.org
"""


def test_format() -> None:
    table = parse(CONTENT)
    assert table.entries == {
        "fred@example.org": (),
        "wilma.flintstone@example.org": (),
        "info@example.org": ("fred@example.org", "Wilma.Flintstone@example.org"),
        "staff@example.org": ("fred@example.org", "barney@away.test"),
        "a#b@example.org": (),
        '"c: d, e #f\\""@example.org': ('"x, y"@example.org',),
        "fred@[ipv6:2001:db8::1]": ("fred@example.org",),
        "@example.net": ("fred@example.org",),
        "@.lab.example.org": (),
        "@xn--bcher-kva.example": (),
        "jürgen@xn--bcher-kva.example": (),
        "postmaster": ("fred@example.org",),
        "plain@example.org": (),
    }
    assert table.domains == {
        "example.org", "[ipv6:2001:db8::1]", "example.net", ".lab.example.org", "xn--bcher-kva.example",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("", "line 1: no recipients in file"),
        ("# nothing\n\n", "line 1: no recipients in file"),
        ("a@b.test\n\nfred\n", "line 3: expected an address, @domain, @.domain or postmaster, got 'fred'"),
        ("a@b.test\n@\n", "line 2: expected an address, @domain, @.domain or postmaster, got '@'"),
        ("@.\n", "line 1: expected an address, @domain, @.domain or postmaster, got '@.'"),
        ("a@b.test c@d.test\n", "line 1: expected an address, .* got 'a@b.test c@d.test'"),
        ("a@b.test, c@d.test\n", "line 1: expected an address, .* got 'a@b.test, c@d.test'"),
        ("<a@b.test>\n", "line 1: expected an address, .* got '<a@b.test>'"),
        ("a@b..test\n", "line 1: expected an address, .* got 'a@b..test'"),
        (": a@b.test\n", "line 1: expected an address, .* got ''"),
        ('"a@b.test\n', "line 1: expected an address, .* got '\"a@b.test'"),
        ("a@b.test:\n", "line 1: expected addresses after the colon of a@b.test"),
        ("x@b.test\na@b.test: b@c.test,\n  d\n", "line 2: invalid target of a@b.test: 'd'"),
        ("a@b.test: c@d.test, ,\n", "line 1: invalid target of a@b.test: ''"),
        ("a@b.test: c@d.test e@f.test\n", "line 1: invalid target of a@b.test: 'c@d.test e@f.test'"),
        ("a@b.test: @d.test\n", "line 1: invalid target of a@b.test: '@d.test'"),
        ("a@b.test: postmaster\n", "line 1: invalid target of a@b.test: 'postmaster'"),
        ("a@b.test\n\nA@B.test: c@d.test\n", "line 3: a@b.test is listed in line 1 already"),
        (
            "x@b.test\na@b.test: c@b.test\nc@b.test: A@b.test\n",
            "line 2: the alias a@b.test leads to aliases only, .*: c@b.test",
        ),
        ("a@b.test: c@b.test, d@b.test\nc@b.test: d@b.test\nd@b.test: c@b.test\n", "line 1: .*: c@b.test, d@b.test"),
        ("  a@b.test\n", "line 1: begins with white space, but there is no line that it continues"),
        ("a@b.test: c@d.test\x00\n", "line 1: invalid target of a@b.test: 'c@d.test\\\\x00'"),
    ],
    ids=range(22),
)
def test_error_names_the_file_and_the_line(content: str, error: str, tmp_path: Path) -> None:
    file = tmp_path / "recipients"
    file.write_text(content)
    with pytest.raises(SourceError, match=f"^{file}, {error}$"):
        RecipientFile(file).load()


def test_circles_with_a_way_out_are_valid() -> None:
    parse("a@b.test: A@b.test\nc@b.test: d@b.test\nd@b.test: c@b.test, x@away.test\ne@b.test: f@b.test\nf@b.test\n")
    parse("a@b.test: a+x@b.test\n@c.test: a@c.test\njürgen@b.test: jÜrgen@b.test\n")


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    source = RecipientFile(str(tmp_path / "recipients"))
    with pytest.raises(SourceError, match=f"^{source}: No such file or directory$"):
        source.load()
    Path(source.path).write_bytes(b"b\xfcro@example.org\n")
    with pytest.raises(SourceError, match=f"^{source}: not text in UTF-8$"):
        source.load()
    with pytest.raises(TypeError, match=r"^path must be str or PathLike, got 7"):
        RecipientFile(7)  # type: ignore[arg-type]


async def test_file_is_read_when_it_is_used_and_when_it_is_loaded(tmp_path: Path) -> None:
    """A file that cannot be used changes nothing."""
    file = tmp_path / "recipients"
    source = RecipientFile(file)
    with pytest.raises(SourceError):
        await source.look_up(["a@b.test"])
    file.write_bytes(b"\xef\xbb\xbfa@b.test\r\nc@d.test: a@b.test\r\n")
    assert await source.look_up(["a@b.test", "c@d.test", "x@b.test"]) == {"a@b.test": (), "c@d.test": ("a@b.test",)}
    assert [await source.has_domain([name]) for name in ("b.test", "d.test", ".test")] == [True, True, False]
    for content in ("x@b.test\n", "x\n"):
        file.write_text(content)
        assert await source.look_up(["a@b.test"])
        with pytest.raises(SourceError):
            file.write_text("x\n")
            source.load()
    os.unlink(file)
    with pytest.raises(SourceError):
        source.load()
    assert await source.look_up(["a@b.test", "x@b.test"]) == {"a@b.test": ()}


def test_lines_with_addresses_only_need_no_parser_of_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 100,000 addresses is read in half a second, since nearly all its lines are of this form."""

    def fail(line: str) -> None:
        raise AssertionError(line)

    monkeypatch.setattr(_file, "parse_entry", fail)
    text = "".join(f"First.Last-{n}@Example.org  # {n}\ninfo_{n}@b.test: X+{n}@c.test , y@D.test\n" for n in range(100))
    table = parse(text)
    assert len(table.entries) == 200
    assert table.entries["first.last-7@example.org"] == ()
    assert table.entries["info_7@b.test"] == ("X+7@c.test", "y@D.test")
    assert table.domains == {"example.org", "b.test"}
