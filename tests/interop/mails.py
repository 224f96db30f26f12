"""The messages that other programs send: the files in tests/mails, and a large one that is generated."""

from __future__ import annotations

import random
from pathlib import Path

DIRECTORY = Path(__file__).parent.parent / "mails"
MAILS = sorted(DIRECTORY.glob("*.eml"))
CHARACTERS = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")

# With Date and Message-ID, because some servers add these fields if they are missing.
HEADER = (
    b"Date: Mon, 16 Mar 2026 08:00:00 +0000\r\nFrom: ada@example.net\r\nTo: bo@example.org\r\n"
    b"Subject: a large one\r\nMessage-ID: <20260316080000.14@example.net>\r\n\r\n"
)


def large(path: Path, size: int = 10 * 1024 * 1024) -> Path:
    """Write a message of `size` octets, always the same one, with lines of all lengths, 8-bit text and leading dots."""
    generator = random.Random(size)
    lines = [HEADER]
    left = size - len(lines[0])
    while left > 1000:
        text = b"." * generator.randrange(3) + CHARACTERS[generator.randrange(len(CHARACTERS)) :] + CHARACTERS * 4
        lines.append(text[: generator.randrange(997)] + b"\r\n")
        left -= len(lines[-1])
    path.write_bytes(b"".join(lines) + b"x" * (left - 2) + b"\r\n")
    return path


def unix(mail: Path, copy: Path) -> Path:
    """Write the message with LF line ends."""
    copy.write_bytes(mail.read_bytes().replace(b"\r\n", b"\n"))
    return copy
