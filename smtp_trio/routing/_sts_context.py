"""The TLS context for MTA-STS: certificates of the system's authorities, with DNS names only (RFC 8461 3.3 and 4.2)."""

from __future__ import annotations

import ssl

from .._client.default_context import default_context
from .._client.threads import run_in_thread
from .._wire import check_context

#: The default context of SMTP connections, which is another one when the system's authorities have changed, and the
#: context that was made with it.
_made: tuple[ssl.SSLContext, ssl.SSLContext] | None = None


async def sts_context() -> ssl.SSLContext:
    """Return a context that verifies certificates for their DNS names. It must not be modified."""
    global _made
    shared = await default_context(verify=True)
    made = _made
    if made is None or made[0] is not shared:
        _made = made = shared, await run_in_thread(_make, abandon_on_cancel=True)
    return made[1]


def check_sts_context(context: ssl.SSLContext | None, what: str) -> None:
    """Make a context of the caller use DNS names only. Raises TypeError or ValueError if it cannot be used."""
    check_context(context, what, server_side=False)
    if context is None:
        return
    if not context.check_hostname or context.verify_mode != ssl.CERT_REQUIRED:
        raise ValueError(f"{what} must verify certificates and host names (RFC 8461 3.3)")
    context.hostname_checks_common_name = False


def _make() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.hostname_checks_common_name = False  # RFC 8461 3.3: only the DNS names count
    return context
