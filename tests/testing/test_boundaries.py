"""`Transcript.with_fixed_boundaries`."""

from __future__ import annotations

import re
from email.message import EmailMessage
from itertools import pairwise

import pytest
import trio
from hypothesis import given, strategies as st

from smtp_trio.testing import Entry, Inbox, Transcript, memory_pair


def message(*attachments: bytes, nested: bool = False) -> EmailMessage:
    result = EmailMessage()
    result["From"], result["To"], result["Subject"] = "me@example.org", "you@example.net", "files"
    result["Date"], result["Message-ID"] = "Sat, 28 Nov 2026 12:00:00 +0000", "<1@example.org>"
    result.set_content("hello\n")
    if nested:
        result.add_alternative("<p>hello</p>\n", subtype="html")
    for octets in attachments:
        result.add_attachment(octets, "application", "octet-stream")
    return result


async def session(mail: EmailMessage) -> Transcript:
    inbox = Inbox()
    async with trio.open_nursery() as nursery:
        async with await memory_pair(nursery, inbox) as client:
            transcript = Transcript()
            transcript.follow(client)
            await client.send_message(mail)
    return transcript


@pytest.mark.parametrize("nested", [False, True])
async def test_sessions_with_the_same_messages_are_equal(nested: bool) -> None:
    one, two = [await session(message(b"one", b"two", nested=nested)) for _ in range(2)]
    text = one.with_fixed_boundaries().text(times=False)
    assert re.findall(r'boundary="?0*([1-9]\d*)', text) == ["1", "2"][: 1 + nested]
    text = re.sub("queued as .*", "queued as ***", text)
    two.with_fixed_boundaries().compare(text, times=False)
    with pytest.raises(AssertionError, match="differs"):
        two.compare(text, times=False)


async def test_message_without_parts_stays_as_it_is() -> None:
    transcript = await session(message())
    assert transcript.with_fixed_boundaries().entries == transcript.entries


MIME = (
    b"DATA\r\nContent-Type: multipart/mixed; boundary=ab\r\n\r\n--ab\r\n"
    b'Content-Type: multipart/alternative;\r\n\tBoundary="abc d"\r\n\r\nab --ab\r\n--abc d\r\n\r\nx\r\n--abc d--\r\n--ab--\r\n.\r\n'
)
FIXED = (
    b"DATA\r\nContent-Type: multipart/mixed; boundary=01\r\n\r\n--01\r\n"
    b'Content-Type: multipart/alternative;\r\n\tBoundary="00002"\r\n\r\nab --ab\r\n--00002\r\n\r\nx\r\n--00002--\r\n--01--\r\n.\r\n'
)


@given(st.lists(st.integers(0, len(MIME)), max_size=8))
def test_boundaries_are_replaced_in_whatever_pieces_they_were_sent(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(MIME)]
    pieces = [MIME[begin:end] for begin, end in pairwise(ends)]
    entries = [Entry(0, "C", piece) for piece in pieces]
    entries.insert(1, Entry(0, "S", b"354 --ab\r\n--ab\r\n"))
    fixed = Transcript(entries).with_fixed_boundaries()
    assert fixed.octets("C") == FIXED
    assert [len(entry.data) for entry in fixed] == [len(entry.data) for entry in entries]


def test_boundaries_of_several_sessions_have_different_numbers() -> None:
    entries = [
        Entry(0, "C", b"boundary=" + name + b"\r\n--" + name + b"\r\n", session=number)
        for number, name in (("1", b"aaa"), ("2", b"bbb"), ("3", b"aaa"))
    ]
    fixed = Transcript(entries).with_fixed_boundaries()
    assert [entry.data[9:12] for entry in fixed] == [b"001", b"002", b"001"]
