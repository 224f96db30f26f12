"""An aiosmtpd server that stores every message in a Maildir. Arguments: HOST PORT CERTIFICATE DIRECTORY."""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path

from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

host, port, certificate, directory = sys.argv[1:]
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(certificate)
handler = Mailbox(Path(directory))


def refuse(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object) -> AuthResult:
    """Refuse every login. It costs nothing, unlike checking a password."""
    return AuthResult(success=False, handled=False)


async def main() -> None:
    loop = asyncio.get_running_loop()

    def make() -> SMTP:
        return SMTP(
            handler, hostname="attacked.example.org", tls_context=context, loop=loop, authenticator=refuse, ident="x"
        )

    server = await loop.create_server(make, host, int(port), backlog=4096)
    await server.serve_forever()


asyncio.run(main())
