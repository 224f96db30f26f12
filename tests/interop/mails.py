"""The mails that the foreign programs send: the files of tests/mails, and a large one made on the spot."""

from __future__ import annotations

import random
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "mails"
MAILS = sorted(FOLDER.glob("*.eml"))
CHARACTERS = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")

# Date and Message-ID are there: some servers would add them.
HEADER = (
    b"Date: Mon, 16 Mar 2026 08:00:00 +0000\r\nFrom: ada@example.net\r\nTo: bo@example.org\r\n"
    b"Subject: a large one\r\nMessage-ID: <20260316080000.14@example.net>\r\n\r\n"
)


def large(path: Path, size: int = 10 * 1024 * 1024) -> Path:
    """Write a mail of exactly `size` octets, the same each time: lines of every length, 8-bit text, dots in front."""
    dice = random.Random(size)
    lines = [HEADER]
    left = size - len(lines[0])
    while left > 1000:
        text = b"." * dice.randrange(3) + CHARACTERS[dice.randrange(len(CHARACTERS)) :] + CHARACTERS * 4
        lines.append(text[: dice.randrange(997)] + b"\r\n")
        left -= len(lines[-1])
    path.write_bytes(b"".join(lines) + b"x" * (left - 2) + b"\r\n")
    return path


def unix(mail: Path, copy: Path) -> Path:
    """Write the mail as Unix programs keep it: a lone LF ends each line."""
    copy.write_bytes(mail.read_bytes().replace(b"\r\n", b"\n"))
    return copy
