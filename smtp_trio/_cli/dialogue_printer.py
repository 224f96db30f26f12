"""The dialogue with a server on standard error, for ``smtp-trio send --verbose``.

The notation is that of swaks: ``->`` is a line of the client, ``<-`` one of the server, ``<**`` one that refuses a
command; inside TLS they are ``~>``, ``<~`` and ``<~*``. Lines that begin with ``===`` are not part of the dialogue.
"""

from __future__ import annotations

import re
import sys
from contextlib import suppress

import trio

from .._client.client import Client
from .._server.log_events import clean
from .._server.peers import endpoints
from .._wire import OctetProtocol, Wire
from ..protocol.framing import CountedReader, DotTerminatedReader, ReceiveBuffer
from .options import strip_openssl_details

#: The most lines, and the most octets, that are shown of each message.
MESSAGE_LINES = 10
MESSAGE_OCTETS = 1000
#: In place of what may be a password.
HIDDEN = "[hidden]"

AUTH = re.compile(rb"AUTH +([^ ]+)", re.IGNORECASE)
BDAT = re.compile(rb"BDAT +([0-9]+)", re.IGNORECASE)


def print_dialogue(created: object) -> None:
    """Print the dialogue of a client from now on. This is an observer, see `smtp_trio._instrument`."""
    if isinstance(created, Client):
        DialoguePrinter(created)


# The printer stands between the wire of a client and its protocol, where octets are not encrypted, and sees them in the
# order in which they are sent and received. What they mean follows from the lines themselves:
#
# * A message follows a 354 in reply to DATA, or a BDAT.
# * Everything from AUTH to a reply that is not 334 is an exchange that may contain passwords or tokens (RFC 4954 4). Only
#   the mechanism is shown of AUTH, and nothing of the lines and challenges after it.
class DialoguePrinter:
    """Prints the octets between the wire of a client and its protocol. ``label`` is at the beginning of each line."""

    def __init__(self, client: Client, label: str = "") -> None:
        self._client = client
        self._label = label
        self._wire: Wire = client._exchange.wire
        self._protocol: OctetProtocol = self._wire._protocol
        self._wire._protocol = self
        self._secure = False
        self._in_auth = False
        self._last_verb = b""
        self._received = b""
        self._sent = ReceiveBuffer()
        self._message: MessagePrinter | None = None
        peer = endpoints(client.stream)[0]
        self._print("===", f"Connected to {peer if peer.port is not None else client.host}")

    def receive_data(self, data: bytes) -> None:
        """Print what the server has sent, and pass it to the protocol."""
        self._notice_tls()
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            self._print_reply(line.rstrip(b"\r"))
        if not data:
            self._print("===", "Connection closed by the server")
        self._protocol.receive_data(data)

    def data_to_send(self) -> bytes:
        """Return the octets to send, and print them."""
        data = self._protocol.data_to_send()
        self._notice_tls()
        self._sent.add(data)
        while len(self._sent) or self._message is not None:
            if self._message is None:
                end = self._sent.data.find(b"\n", self._sent.at) + 1
                self._print_command(self._sent.take(end - self._sent.at if end else len(self._sent)))
            elif self._message.read():
                self._message = None
            else:
                break
        return data

    def _notice_tls(self) -> None:
        if not self._secure and isinstance(self._wire.stream, trio.SSLStream):
            self._secure = True
            tls = self._client.tls
            if tls is not None:
                trust = "verified" if tls.verified else "not verified"
                problem = f": {strip_openssl_details(tls.problem)}" if tls.problem else ""
                self._print("===", f"TLS started: {tls.version}, {tls.cipher}, certificate {trust}{problem}")

    def _print_reply(self, line: bytes) -> None:
        more = line[3:4] == b"-"
        challenge = self._in_auth and line.startswith(b"334")
        refused = line[:1] in (b"4", b"5")
        arrow = ("<~*" if self._secure else "<**") if refused else "<~ " if self._secure else "<- "
        self._print(arrow, f"334 {HIDDEN}" if challenge else line.decode(errors="replace"))
        if not more:
            self._in_auth = challenge
            if line.startswith(b"354") and self._last_verb == b"DATA":
                self._message = MessagePrinter(self, DotTerminatedReader(self._sent))

    def _print_command(self, line: bytes) -> None:
        self._last_verb = line[:4].upper()
        if self._in_auth:
            self.print_line(HIDDEN)
        elif (match := AUTH.match(line)) is not None:
            self._in_auth = True
            mechanism = match[1].decode(errors="replace").strip()
            self.print_line(f"AUTH {mechanism}" + (f" {HIDDEN}" if line[match.end() :].strip() else ""))
        else:
            self.print_line(line.decode(errors="replace").rstrip("\r\n"))
            if (match := BDAT.match(line)) is not None:
                self._message = MessagePrinter(self, CountedReader(self._sent, int(match[1])))

    def print_line(self, text: str) -> None:
        """Print a line of the client."""
        self._print(" ~>" if self._secure else " ->", text)

    def _print(self, arrow: str, text: str) -> None:
        with suppress(OSError):  # the reader of standard error has ended; the messages are sent all the same
            print(f"{self._label}{arrow} {clean(text)}", file=sys.stderr, flush=True)


class MessagePrinter:
    """Prints the first lines of a message, and the number of the other octets."""

    def __init__(self, printer: DialoguePrinter, reader: DotTerminatedReader | CountedReader) -> None:
        self._printer, self._reader = printer, reader
        self._head = b""
        self._head_printed = False
        self._octets_left_out = 0

    def read(self) -> bool:
        """Read what there is of the message, and print it if it is in the first lines. Return whether it has ended."""
        octets = self._reader.read()
        room = MESSAGE_OCTETS - len(self._head)
        self._head += octets[:room]
        self._octets_left_out += len(octets[room:])
        ended = self._reader.ended
        if not self._head_printed and (ended or len(self._head) == MESSAGE_OCTETS):
            self._print_head()
        if ended and self._octets_left_out:
            self._printer.print_line(f"[{self._octets_left_out:,} more octets]")
        if ended and isinstance(self._reader, DotTerminatedReader):
            self._printer.print_line(".")
        return ended

    def _print_head(self) -> None:
        self._head_printed = True
        *lines, rest = self._head.split(b"\r\n", MESSAGE_LINES)
        for line in lines:
            self._printer.print_line(line.decode(errors="replace"))
        self._octets_left_out += len(rest)
