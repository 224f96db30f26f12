"""aiosmtpd, which keeps each message in a file: FOLDER PORT SMTPS CHAIN KEY USER PASSWORD."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import sys
from pathlib import Path

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

folder, port, smtps, chain, key, user, password = sys.argv[1:]
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(chain, key)
numbers = itertools.count()


class Keeper:
    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("nobody@"):
            return "550 5.1.1 no such user here"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        keep(envelope.content)
        return "250 2.0.0 kept"


def keep(content: bytes) -> None:
    file = Path(folder, "box", "tmp", f"{next(numbers)}")
    file.write_bytes(content)
    file.rename(Path(folder, "box", "new", file.name))


def check(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword) -> AuthResult:
    right = (data.login, data.password) == (user.encode(), password.encode())
    # Without `handled=False` a failure gets no answer at all.
    return AuthResult(success=right, handled=False)


def make(starttls: ssl.SSLContext | None) -> SMTP:
    return SMTP(
        Keeper(),
        hostname="localhost",
        data_size_limit=50_000_000,
        enable_SMTPUTF8=True,
        tls_context=starttls,
        authenticator=check,
        auth_require_tls=starttls is not None,  # it does not know that TLS is there from the first octet on
    )


async def main() -> None:
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: make(context), "127.0.0.1", int(port))
    await loop.create_server(lambda: make(None), "127.0.0.1", int(smtps), ssl=context)
    await asyncio.Event().wait()


asyncio.run(main())
