"""The SMTP protocol without I/O, usable on its own, as h11 is for HTTP.

It does not use Trio, sockets, clocks or TLS. Each side of a connection is an object that takes the received octets,
returns events, and provides the octets to send.

protocol = ServerProtocol("mx.example.org")
protocol.send_reply(protocol.default_reply(protocol.next_event()))   # the greeting
protocol.receive_data(b"EHLO client.example\\r\\n")
protocol.next_event()                                          # Ehlo(domain='client.example')
"""

from .client import AnsweredCommand, ClientProtocol, ReplyError
from .commands import (
    Command,
    Connect,
    CountedCommand,
    Data,
    Ehlo,
    EndOfData,
    Expn,
    Hello,
    Helo,
    Help,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Rset,
    Vrfy,
)
from .dialogue import Phase, Table
from .errors import (
    BadCommandError,
    BodyError,
    LocalProtocolError,
    NotOfferedError,
    ProtocolError,
    RemoteProtocolError,
    SMTPError,
)
from .events import CONNECTION_LOST, END_OF_BODY, END_OF_CHUNK, FAULT, NEED_DATA, Signal
from .extension import Extension
from .extensions import standard
from .limits import Limits
from .params import Param, Params
from .proxy_header import ProxyHeader, ProxyHeaderError, ProxyHeaderReader, ProxyTls
from .replies import Reply
from .server import ServerProtocol
from .session_state import SessionState
from .strictness import NORMAL, STRICT, Strictness, lenient_mode
from .syntax import Path

__all__ = [
    "CONNECTION_LOST",
    "END_OF_BODY",
    "END_OF_CHUNK",
    "FAULT",
    "NEED_DATA",
    "NORMAL",
    "STRICT",
    "AnsweredCommand",
    "BadCommandError",
    "BodyError",
    "ClientProtocol",
    "Command",
    "Connect",
    "CountedCommand",
    "Data",
    "Ehlo",
    "EndOfData",
    "Expn",
    "Extension",
    "Hello",
    "Helo",
    "Help",
    "Limits",
    "LocalProtocolError",
    "Mail",
    "Noop",
    "NotOfferedError",
    "Param",
    "Params",
    "Path",
    "Phase",
    "ProtocolError",
    "ProxyHeader",
    "ProxyHeaderError",
    "ProxyHeaderReader",
    "ProxyTls",
    "Quit",
    "Rcpt",
    "RemoteProtocolError",
    "Reply",
    "ReplyError",
    "Rset",
    "SMTPError",
    "ServerProtocol",
    "SessionState",
    "Signal",
    "Strictness",
    "Table",
    "Vrfy",
    "lenient_mode",
    "standard",
]
