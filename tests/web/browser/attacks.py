"""Messages built to attack the page. ``TRAP`` in them is the address of a server that must not be asked for anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from email.header import Header
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import quote

#: What each script does: it asks the server, changes the title and opens a dialog.
SCRIPT = "fetch('TRAP/script');new Image().src='TRAP/image';top.document.title='changed';alert(1)"

#: HTML by what it tries. ``SCRIPT`` in it is the script.
HTML: Mapping[str, str] = {
    path.stem: path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parent / "corpus").glob("*.html"))
}

#: File names that could leave the directory for downloads, end a header, or look like another name.
NAMES = (
    "../../../etc/passwd",
    "..\\..\\windows\\system.ini",
    'a"; filename="b.html',
    "a\r\nContent-Type: text/html\r\n\r\n<script>alert(1)</script>",
    "invoice\u202efdp.exe",
    "<img src=x onerror=alert(1)>.png",
    "n" * 300 + ".txt",
    "\0\x1b[31m.txt",
    ".htaccess",
    "CON",
)


def html(body: str, trap: str) -> bytes:
    """Return a message with HTML whose address of the trap is filled in."""
    message = EmailMessage()
    message["Subject"] = "HTML"
    filled = body.replace("SCRIPT", SCRIPT).replace("TRAPHOST", trap.removeprefix("http://")).replace("TRAP", trap)
    message.set_content(f"<!doctype html><html><head></head><body><h1>shown</h1>{filled}</body></html>", subtype="html")
    return message.as_bytes()


def fields(trap: str) -> bytes:
    """Return a message with HTML and control characters in its fields."""
    attack = f'<img src="{trap}/subject" onerror="alert(1)"></title><script>alert(1)</script>\u202egnp\x07\x1b[31m{{{{7*7}}}}'
    encoded = Header(attack, "utf-8").encode()
    lines = [
        f"{name}: {encoded}" for name in ("Subject", "From", "To", "Cc", "Date", "Reply-To", "X-Attack", "Content-Type")
    ]
    return ("\r\n".join(lines) + f"\r\n\r\n{attack}\r\n").encode()


def file_names() -> bytes:
    """Return a message with attachments of hostile names and types."""
    parts = [
        f'Content-Type: text/html\r\nContent-ID: <"><script>alert(1)</script>>\r\n'
        f"Content-Disposition: attachment; filename*=utf-8''{quote(name)}\r\n\r\n<script>alert(1)</script>"
        for name in NAMES
    ]
    return multipart(*parts)


def multipart(*parts: str) -> bytes:
    """Return a message of parts."""
    delimiter = "\r\n--B\r\n"
    header = "Subject: parts\r\nContent-Type: multipart/mixed; boundary=B\r\n"
    return f"{header}{delimiter}{delimiter.join(parts)}\r\n--B--\r\n".encode()


def many_attachments() -> bytes:
    """Return a message with 10,000 attachments."""
    return multipart(*[f'Content-Disposition: attachment; filename="{n}.txt"\r\n\r\n{n}' for n in range(10_000)])


def deep_tree() -> bytes:
    """Return a message of 2,000 multiparts in each other."""
    parts = [f"Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n" for n in range(2000)]
    return ("Subject: deep\r\n" + "".join(parts) + "\r\nend\r\n").encode()


def enclosed() -> bytes:
    """Return a message of 1,000 messages in each other."""
    return ("Subject: enclosed\r\n" + "Content-Type: message/rfc822\r\n\r\n" * 1000 + "\r\nend\r\n").encode()


def charsets() -> bytes:
    """Return a message whose charsets do not exist, or are not charsets."""
    names = ("klingon", "rot13", "zlib", "idna", "utf-7", "utf-16", "unicode_escape", "\xff", "x" * 3000)
    text = "Content-Transfer-Encoding: quoted-printable\r\n\r\n=FF=FE+ADw-script+AD4-alert(1)+ADw-/script+AD4-=00"
    return multipart(
        *[f'Content-Type: text/{kind}; charset="{name}"\r\n{text}' for name in names for kind in ("plain", "html")]
    )


def large_html(start: str, repeated: str) -> bytes:
    """Return a message of 5 MB of HTML."""
    return f"Subject: large\r\nContent-Type: text/html\r\n\r\n{start}".encode() + repeated.encode() * (
        5_000_000 // len(repeated)
    )


#: Messages that take time or memory.
LARGE: Mapping[str, Callable[[], bytes]] = {
    "attachments": many_attachments,
    "deep": deep_tree,
    "enclosed": enclosed,
    "charsets": charsets,
    "text": lambda: large_html("<p>", "many words "),
    "open elements": lambda: large_html("", "<div>"),
    "formatting": lambda: large_html("", "<b><p><font color=red>"),
    "tables": lambda: large_html("", "<table><tr><td>"),
    "attributes": lambda: large_html("<p ", "a=b "),
    "rows": lambda: large_html("<table>", "<tr><td style='color:red'>cell</td></tr>\r\n"),
    "image": lambda: large_html('<img src="data:image/png;base64,', "AAAA"),
    "recipients": lambda: b"Subject: x\r\nTo: " + b",\r\n ".join([b"ada@example.org"] * 20_000) + b"\r\n\r\nx",
    "words": lambda: b"Subject: " + b"\r\n ".join([b"=?utf-8?q?x?="] * 20_000) + b"\r\n\r\nx",
    "marks": lambda: b"Content-Type: text/plain; charset=utf-8\r\n\r\na" + "\u0301\u0327".encode() * 500_000,
}
