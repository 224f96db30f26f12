"""Save the attachments of each message as files, without keeping any of them in memory.

    python examples/attachments.py FOLDER [port]

Each message is spooled to a temporary file, which a thread reads line by line: the standard library parses a message only
as a whole, in memory. Ctrl-C stops the program.
"""

import signal
import sys
import tempfile
from binascii import a2b_base64, a2b_qp
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from email.message import Message
from email.parser import BytesHeaderParser
from functools import partial
from pathlib import Path
from typing import BinaryIO

import trio

from smtp_trio import Body, Reply, Server, Session

PIECE, MAX_HEADER, MAX_DEPTH = 65536, 102400, 20  # a message may be a single line, or all header, or nested


def split(file: BinaryIO) -> Iterator[Message | bytes]:
    """Yield the header of each part that is not multipart, then the lines of its content (RFC 2046 5.1)."""
    delimiters: list[bytes] = []  # of the multipart parts that are open, the outermost first
    part: Message | None = None
    header, held, in_header, line_begins = b"", b"", True, True
    while piece := file.readline(PIECE):
        line = piece.rstrip()
        at = [i for i, each in enumerate(delimiters) if line_begins and line in (each, each + b"--")]
        line_begins = piece.endswith(b"\n")
        if at:
            yield held.removesuffix(b"\r\n")  # the line end before a delimiter belongs to it
            in_header = line == delimiters[at[0]]
            del delimiters[at[0] + 1 if in_header else at[0] :]
            part, header, held = None, b"", b""
        elif in_header:
            header += piece
            if len(header) > MAX_HEADER or len(delimiters) > MAX_DEPTH:
                raise ValueError("a header is too long, or there are too many parts within parts")
            if not line:
                part, in_header = BytesHeaderParser().parsebytes(header), False
                if part.get_content_maintype() == "multipart" and (boundary := part.get_boundary()):
                    delimiters.append(b"--" + boundary.encode(errors="surrogateescape"))
                    part = None
                else:
                    yield part
        elif part is not None:
            yield held
            held = piece
    yield held


def save_attachments(file: BinaryIO, folder: Path) -> list[str]:
    """Write the attachments of a message into files; return their names. Called in a thread."""
    names: list[str] = []
    output, encoding, encoded = None, "", b""
    with ExitStack() as stack:
        for item in split(file):
            if isinstance(item, Message):
                stack.close()
                output, encoding, encoded = None, str(item["Content-Transfer-Encoding"]).strip().lower(), b""
                if item.get_content_disposition() == "attachment":  # never written to a name that a client has chosen
                    output = stack.enter_context(tempfile.NamedTemporaryFile(dir=folder, delete=False))
                    names.append(output.name)
            elif output is not None and encoding == "base64":
                encoded += b"".join(item.split())
                output.write(a2b_base64(encoded[: len(encoded) // 4 * 4]))
                encoded = encoded[len(encoded) // 4 * 4 :]
            elif output is not None:
                output.write(a2b_qp(item) if encoding == "quoted-printable" else item)
    return names


async def receive(folder: Path, session: Session, body: Body) -> Reply:
    with await body.spool() as file, suppress(ValueError):  # which base64 that cannot be decoded raises, too
        names = await trio.to_thread.run_sync(save_attachments, file, folder)
        return Reply(250, f"Saved {len(names)} attachments", "2.0.0")
    return Reply(554, "The message cannot be parsed", "5.6.0")


async def main(folder: str, port: int) -> None:
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        server = Server(newlines="normalize")
        server.on(data=partial(receive, Path(folder)))
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(server.serve, port, "127.0.0.1")
            print("listening on port", listener.socket.getsockname()[1], flush=True)
            await anext(signals)
            await server.stop()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2525)
