"""ETRN, RFC 1985: a client asks the server to send the mail that waits for a host.

Adds the verb ETRN and its EHLO keyword, which is shown when the server has the hook ``etrn``. Not in `STANDARD`: a
server for message submission must not offer it (RFC 6409 7), and a `Server` does not on the ports 465 and 587.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal, Self, cast

from attrs import frozen

from ..commands import Command
from ..dialogue import READY, Table
from ..errors import BadCommandError
from ..extension import Commands, Extension
from ..params import KnownParams
from ..replies import Reply

# RFC 1985 5: a fully qualified domain name. 5.3: after "#", the name of a queue has the form that the server defines.
NODE = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+", re.ASCII)
QUEUE = re.compile(r"[!-~]+", re.ASCII)


@frozen(eq=False, repr=False)
class Etrn(Command):
    """ETRN: send the mail that waits for ``node`` (RFC 1985 5).

    With the ``option`` "@", the mail for the domain and all of its subdomains is sent, and with "#" the mail in the queue of
    this name (5.3).
    """

    node: str
    option: Literal["", "@", "#"] = ""

    verb = "ETRN"
    usage = "ETRN [@|#]node"
    hook: ClassVar[str | None] = "etrn"
    codes: ClassVar[frozenset[int]] = frozenset({250, 251, 252, 253, 458, 459})  # RFC 1985 5.1

    def encode(self) -> str:
        """Return the command line without its CRLF."""
        return f"ETRN {self.option}{self.node}"

    @classmethod
    def decode(cls, argument: str, known_params: KnownParams) -> Self:
        """Parse the argument. Raises `BadCommandError` if it is not valid."""
        if not argument:  # the example in RFC 1985 7
            raise BadCommandError(Reply(500, f"Syntax: {cls.usage}", "5.5.2"))
        option = argument[0] if argument[0] in "@#" else ""
        node = argument.removeprefix(option)
        if (QUEUE if option == "#" else NODE).fullmatch(node) is None:
            raise BadCommandError(Reply(501, f"Not a domain name, syntax: {cls.usage}", "5.5.4"))
        return cls(node, cast("Literal['', '@', '#']", option))


class EtrnExtension(Extension):
    """Remote queue starting (RFC 1985). Not in `STANDARD`, because message submission must not have it."""

    keyword = "ETRN"
    rfc = 1985
    verbs: ClassVar[Commands] = (Etrn,)
    # RFC 1985 5: not during a transaction.
    table: ClassVar[Table] = Table(accepted={Etrn: {READY: READY}})
