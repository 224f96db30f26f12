"""The content of a message for the page and the APIs: parts, decoded texts, and limits."""

from __future__ import annotations

from datetime import UTC, datetime
from email.message import EmailMessage

import pytest
from hypothesis import given, strategies as st

from smtp_trio.stores import Stored
from smtp_trio.web._message import MAX_PARTS, ParsedMessage, parse, read_part, safe_filename


def stored(message: bytes) -> Stored:
    return Stored(
        id="1", received=datetime.now(UTC), sender="a@b", recipients=("c@d",), message=message, size=len(message)
    )


def multipart(*parts: bytes) -> bytes:
    return b"Content-Type: multipart/mixed; boundary=B\r\n\r\n--B\r\n" + b"\r\n--B\r\n".join(parts) + b"\r\n--B--\r\n"


def typical() -> bytes:
    message = EmailMessage()
    message["Subject"] = "Grüße, Wörld"
    message["To"] = '"Ö, A" <a@example.org>, b@example.org'
    message.set_content("Plain ö\n")
    message.add_alternative("<p>HTML <img src='cid:logo'></p>\n", subtype="html")
    message.get_payload()[1].add_related(b"\x89PNG", "image", "png", cid="<logo>")  # type: ignore[index, union-attr]
    message.add_attachment(b"\0\1\2" * 100, maintype="application", subtype="zip", filename="ärchive.zip")
    return message.as_bytes().replace(b"\n", b"\r\n")


def test_typical_message_has_text_html_an_inline_image_and_an_attachment() -> None:
    parsed = ParsedMessage.of(stored(typical()))
    assert parsed.get("SUBJECT") == "Grüße, Wörld"
    assert parsed.mailboxes["to"] == (("Ö, A", "a@example.org"), ("", "b@example.org"))
    assert parsed.text == "Plain ö\n"
    assert parsed.html == "<p>HTML <img src='cid:logo'></p>\n"
    assert [(part.number, part.type, part.role) for part in parsed.parts] == [
        (1, "text/plain", "text"),
        (2, "text/html", "html"),
        (3, "image/png", "inline"),
        (4, "application/zip", "attachment"),
    ]
    image, archive = parsed.parts[2:]
    assert (image.content_id, image.octets()) == ("logo", b"\x89PNG")
    assert (archive.filename, archive.size, archive.octets()) == ("ärchive.zip", 300, b"\0\1\2" * 100)
    assert parsed.truncated == ()


def test_text_of_a_message_that_has_only_html_is_made_of_it() -> None:
    parsed = ParsedMessage.of(stored(b"Content-Type: text/html\r\n\r\n<b>a</b>&amp;<script>x</script>"))
    assert parsed.text.split() == ["a", "&"]


def test_enclosed_message_is_an_attachment_with_its_own_octets() -> None:
    enclosed = b"Subject: inner\r\n\r\ninner"
    parsed = ParsedMessage.of(stored(multipart(b"\r\nouter", b"Content-Type: message/rfc822\r\n\r\n" + enclosed)))
    assert parsed.text == "outer"
    [_, part] = parsed.parts
    assert (part.role, part.safe_filename, part.octets()) == ("attachment", "part-2.eml", enclosed)


def test_report_of_a_delivery_is_text() -> None:
    parsed = ParsedMessage.of(
        stored(multipart(b"\r\nfailed", b"Content-Type: message/delivery-status\r\n\r\nAction: failed"))
    )
    assert parsed.text == "failed\nAction: failed"


@pytest.mark.parametrize(
    "kind", [b"text/calendar", b"text/x-amp-html", b"text/h\0tml", b"image/svg+xml", b"x/" + b"y" * 200]
)
def test_types_that_are_not_shown_are_attachments(kind: bytes) -> None:
    [part] = ParsedMessage.of(stored(b"Content-Type: " + kind + b"\r\n\r\nx")).parts
    assert part.role in ("attachment", "inline")
    assert "\0" not in part.type


@pytest.mark.parametrize(
    ("given", "safe"),
    [
        ("a.txt", "a.txt"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("C:\\x.exe", "C__x.exe"),
        ("gpj.\u202eexe", "gpj._exe"),
        ("a\r\nSet-Cookie: x", "a__Set-Cookie_ x"),
        ("..", "default"),
        ("", "default"),
        ("x" * 500 + ".pdf", "x" * 80 + ".pdf"),
        ("x" * 500, "x" * 100),
        ("a." + "x" * 500, "a." + "x" * 98),
    ],
)
def test_safe_filename(given: str, safe: str) -> None:
    assert safe_filename(given, "default") == safe


def test_parts_that_exceed_the_limit_are_left_out_and_said_to_be() -> None:
    message = multipart(*[b"Content-Disposition: attachment\r\n\r\nx"] * 10_000)
    parsed = ParsedMessage.of(stored(message))
    assert len(parsed.parts) == MAX_PARTS
    assert parsed.truncated == ("parts",)


def test_fields_and_texts_that_exceed_the_limit_are_left_out_and_said_to_be() -> None:
    parsed = ParsedMessage.of(stored(b"a: b\r\n" * 3000 + b"Content-Type: text/html\r\n\r\n" + b"x" * 2_000_000))
    assert set(parsed.truncated) >= {"header"}
    parsed = ParsedMessage.of(stored(b"Content-Type: text/html\r\n\r\n" + b"x" * 2_000_000))
    assert parsed.truncated == ("text", "html")


@pytest.mark.parametrize(
    "character", [b"(", b"<", b'"\\', b",", b"=?utf-8?q?x?= ", b"[", b"@", b":;", b"=?utf-16?b?/w==?= "]
)
def test_hostile_fields_are_read_in_bounded_time(character: bytes) -> None:
    value = character * (60_000 // len(character))
    parsed = ParsedMessage.of(stored(b"To: " + value + b"\r\nContent-Type: text/plain; " + value + b"\r\n\r\nx"))
    assert len(parsed.mailboxes["to"]) <= 1000


@pytest.mark.parametrize("newline", [b"\r\n", b"\n"])
def test_parts_without_content_between_delimiters(newline: bytes) -> None:
    message = b"Content-Type: multipart/mixed; boundary=B\n\n--B\n--B\n\n--B\nx\n--Bx\n--B--".replace(b"\n", newline)
    parsed = ParsedMessage.of(stored(message))
    assert [part.octets() for part in parsed.parts][:2] == [b"", b""]
    assert len(parsed.parts) == 3


def test_lines_that_begin_like_a_delimiter_are_text() -> None:
    message = b"Content-Type: multipart/mixed; boundary=B\n\n--B\n\n--BB\n--B x\n---B\n --B\nx--B\n--B \t\n\nlast\n--B-- \nepilogue"
    parts = ParsedMessage.of(stored(message)).parts
    assert [part.octets() for part in parts] == [b"--BB\n--B x\n---B\n --B\nx--B", b"last"]
    many = b"Content-Type: multipart/mixed; boundary=B\r\n\r\n" + b"--B x\r\n" * 200_000 + b"--B\r\n\r\nx"
    assert [part.type for part in ParsedMessage.of(stored(many)).parts] == ["multipart/mixed"]


def test_charset_whose_decoder_waits_for_the_end_is_not_used() -> None:
    """A text in UTF-7 can consist of one sequence, of which each chunk is decoded with all chunks before it."""
    parsed = ParsedMessage.of(stored(b"Content-Type: text/plain; charset=utf-7\r\n\r\n" + b"+AAAA" * 500_000))
    assert (parsed.parts[0].charset, parsed.truncated) == ("utf-8", ("text",))


async def test_part_is_read_by_its_number() -> None:
    for message in typical(), typical() + b"x" * 10_000:
        found = await read_part(stored(message), 4)
        assert found is not None
        assert found == (found[0], b"\0\1\2" * 100)
        assert (await parse(stored(message))).parts[3] == found[0]
        for number in (-1, 0, 5, 10**30):
            assert await read_part(stored(message), number) is None


FRAGMENTS = st.sampled_from(
    [
        b"Content-Type: multipart/mixed; boundary=B\r\n", b"Content-Type: text/html; charset=utf-16\r\n", b"--B\r\n", b"--B--",
        b"Content-Disposition: attachment; filename*=utf-8''%ff%", b"Content-Type: message/rfc822\r\n", b"\r\n", b"\n", b"\0",
        b"Content-Transfer-Encoding: base64\r\n", b"Content-Type: text/plain; charset=rot13\r\n", b"=?utf-8?b?//8=?=", b"To: ",
        b"Content-Transfer-Encoding: quoted-printable\r\n", b"Content-ID: <\xff>\r\n", b"\xff\xfe", b"QUJ", b"=E2=",
        b"Content-Disposition: inline; filename*0*=x''a; filename*2=b\r\n", b"&#99999999999;", b"<script>", b";",
    ]
)  # fmt: skip


@given(st.lists(FRAGMENTS | st.binary(max_size=8), max_size=40))
def test_no_message_raises_an_error(fragments: list[bytes]) -> None:
    message = stored(b"".join(fragments))
    parsed = ParsedMessage.of(message)
    for part in parsed.parts:
        assert len(part.octets()) == part.size
        assert part.safe_filename.isprintable()
    parsed.text.encode()
    parsed.html.encode()
