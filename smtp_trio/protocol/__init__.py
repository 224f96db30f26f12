"""The SMTP protocol without I/O, usable on its own, as h11 is for HTTP.

It does not use Trio, sockets, clocks or TLS. Each side of a connection is an object that takes the received octets,
returns events, and provides the octets to send.

protocol = ServerProtocol("mx.example.org")
protocol.send_reply(protocol.default_reply(protocol.next_event()))   # the greeting
protocol.receive_data(b"EHLO client.example\r\n")
protocol.next_event()                                          # Ehlo(domain='client.example')
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import lazy_names

if TYPE_CHECKING:
    from .client import AnsweredCommand as AnsweredCommand, ClientProtocol as ClientProtocol, ReplyError as ReplyError
    from .commands import (
        Command as Command,
        Connect as Connect,
        CountedCommand as CountedCommand,
        Data as Data,
        Ehlo as Ehlo,
        EndOfData as EndOfData,
        Expn as Expn,
        Hello as Hello,
        Helo as Helo,
        Help as Help,
        Mail as Mail,
        Noop as Noop,
        Quit as Quit,
        Rcpt as Rcpt,
        Rset as Rset,
        Vrfy as Vrfy,
    )
    from .dialogue import Phase as Phase, Table as Table
    from .errors import (
        BadCommandError as BadCommandError,
        BodyError as BodyError,
        LocalProtocolError as LocalProtocolError,
        NotOfferedError as NotOfferedError,
        ProtocolError as ProtocolError,
        RemoteProtocolError as RemoteProtocolError,
        SMTPError as SMTPError,
    )
    from .events import (
        CONNECTION_LOST as CONNECTION_LOST,
        END_OF_BODY as END_OF_BODY,
        END_OF_CHUNK as END_OF_CHUNK,
        FAULT as FAULT,
        NEED_DATA as NEED_DATA,
        Signal as Signal,
    )
    from .extension import Extension as Extension
    from .extensions.defaults import standard as standard
    from .limits import Limits as Limits
    from .params import Param as Param, Params as Params
    from .proxy_header import (
        ProxyHeader as ProxyHeader,
        ProxyHeaderError as ProxyHeaderError,
        ProxyHeaderReader as ProxyHeaderReader,
        ProxyTls as ProxyTls,
    )
    from .replies import Reply as Reply
    from .server import ServerProtocol as ServerProtocol
    from .session_state import SessionState as SessionState
    from .strictness import NORMAL as NORMAL, STRICT as STRICT, Strictness as Strictness, lenient_mode as lenient_mode
    from .syntax import Path as Path

#: The public names, by module; see `lazy_names`.
_MODULES = {
    "client": "AnsweredCommand ClientProtocol ReplyError",
    "commands": "Command Connect CountedCommand Data Ehlo EndOfData Expn Hello Helo Help Mail Noop Quit Rcpt Rset Vrfy",
    "dialogue": "Phase Table",
    "errors": "BadCommandError BodyError LocalProtocolError NotOfferedError ProtocolError RemoteProtocolError SMTPError",
    "events": "CONNECTION_LOST END_OF_BODY END_OF_CHUNK FAULT NEED_DATA Signal",
    "extension": "Extension",
    "extensions.defaults": "standard",
    "limits": "Limits",
    "params": "Param Params",
    "proxy_header": "ProxyHeader ProxyHeaderError ProxyHeaderReader ProxyTls",
    "replies": "Reply",
    "server": "ServerProtocol",
    "session_state": "SessionState",
    "strictness": "NORMAL STRICT Strictness lenient_mode",
    "syntax": "Path",
}

__all__ = [name for names in _MODULES.values() for name in names.split()]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _MODULES)
