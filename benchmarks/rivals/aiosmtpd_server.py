"""An aiosmtpd server that accepts every message and stores nothing. Arguments: PORT CERTIFICATE [uvloop]."""

from __future__ import annotations

import asyncio
import resource
import ssl
import sys

from aiosmtpd.smtp import SMTP, Envelope, Session

port, certificate, *loops = sys.argv[1:]
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(certificate)


class Sink:
    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        return "250 Ok"


async def main() -> None:
    loop = asyncio.get_running_loop()

    def make() -> SMTP:
        return SMTP(Sink(), hostname="bench.example.org", tls_context=context, loop=loop)

    server = await loop.create_server(make, "127.0.0.1", int(port), backlog=1000)
    await server.serve_forever()


hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
if loops:
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())
