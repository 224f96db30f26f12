"""An aiosmtpd server that stores each message in a file. Arguments: DIRECTORY PORT SMTPS CHAIN KEY USER PASSWORD [lmtp]."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import sys
from pathlib import Path

from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

directory, port, smtps, chain, key, user, password, *lmtp = sys.argv[1:]
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(chain, key)
numbers = itertools.count()


class StoringHandler:
    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("nobody@"):
            return "550 5.1.1 no such user here"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        store(envelope.content)
        return "250 2.0.0 stored"


def store(content: bytes) -> None:
    file = Path(directory, "box", "tmp", f"{next(numbers)}")
    file.write_bytes(content)
    file.rename(Path(directory, "box", "new", file.name))


def check(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword) -> AuthResult:
    correct = (data.login, data.password) == (user.encode(), password.encode())
    # Without `handled=False` aiosmtpd sends no reply after a failure.
    return AuthResult(success=correct, handled=False)


def make(starttls: ssl.SSLContext | None) -> SMTP:
    return SMTP(
        StoringHandler(),
        hostname="localhost",
        data_size_limit=50_000_000,
        enable_SMTPUTF8=True,
        tls_context=starttls,
        authenticator=check,
        auth_require_tls=starttls is not None,  # aiosmtpd does not detect implicit TLS
    )


async def main() -> None:
    loop = asyncio.get_running_loop()
    if lmtp:
        await loop.create_server(lambda: LMTP(StoringHandler(), hostname="localhost"), "127.0.0.1", int(port))
        await asyncio.Event().wait()
    await loop.create_server(lambda: make(context), "127.0.0.1", int(port))
    await loop.create_server(lambda: make(None), "127.0.0.1", int(smtps), ssl=context)
    await asyncio.Event().wait()


asyncio.run(main())
