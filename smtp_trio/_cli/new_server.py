"""The `Server` of ``smtp-trio serve``, as the options describe it.

Its hooks are a store, with `Server.on` adding one that checks logins and one that checks recipients.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from attrs import evolve

from .._server.hooks import Hooks
from .._server.server import Server
from .._server.session import Session
from .._server.tls_files import ClientCertificate, TlsFiles
from .._timeouts import server_timeouts
from ..credentials import UsersFile
from ..protocol import Rcpt, Reply
from ..protocol.extensions import Auth, standard
from ..protocol.sasl import MECHANISMS, Credentials
from ..recipients import Recipients
from .descriptors import raise_descriptor_limit, sessions_within
from .limit_option import make_limits
from .options import UsageError, describe_error
from .serve_options import ALL_DOMAINS

if TYPE_CHECKING:
    from ..testing import FaultRules
    from ..web import Recorder

#: The extension of ``--auth-accept-any``, with all mechanisms that send the password or token itself.
ANY_LOGIN = Auth(cleartext=True, mechanisms=tuple(name for name, each in MECHANISMS.items() if each.cleartext))
NOT_LOCAL = Reply(550, "Mail for this domain is not accepted here, and nothing is relayed", "5.7.1")


def make_server(
    options: argparse.Namespace,
    accounts: UsersFile | None,
    recorder: Recorder | None = None,
    faults: FaultRules | None = None,
) -> Server:
    """Return a server as the options describe it. ``recorder`` records its sessions, and it fails by ``faults``."""
    hooks: Hooks = options.store if faults is None else faults.hooks(options.store)
    auth = ANY_LOGIN if options.auth_accept_any else Auth()
    if accounts is not None:
        auth = Auth(required=not options.auth_optional, mechanisms=accounts.mechanisms)
    sessions = sessions_within(raise_descriptor_limit(), http=options.http is not None)
    limits = make_limits([("sessions", sessions), *options.limit])
    try:
        server = Server(
            hooks if recorder is None else recorder.hooks(hooks),
            name=options.name,
            size=options.size,
            timeout=evolve(server_timeouts(options.timeout), tls=options.tls_timeout),
            extensions=standard(auth),
            limits=limits,
            newlines=options.newlines,
            lenient=options.lenient,
            strict=options.strict,
            lmtp=options.lmtp,
            proxy_from=options.proxy_protocol,
            xclient_from=options.xclient,
            xforward_from=options.xforward,
        )
    except ValueError as error:
        raise UsageError(f"--{error}") from None  # the names of options and of parameters are the same
    if accounts is not None:
        server.on(auth=accounts.auth, secret=accounts.secret)
    if options.auth_accept_any:
        server.on(auth=accept_any_login)
    domains = None if ALL_DOMAINS in options.accept else options.accept or None
    if options.recipients:
        recipients = Recipients(None, *options.recipients, domains=domains, delimiter=options.recipient_delimiter)
        server.on(rcpt=recipients.rcpt)
    elif domains:
        server.on(rcpt=accept_domains(domains))
    return server


def tls_files(options: argparse.Namespace) -> TlsFiles:
    """Return the files of the options about TLS."""
    verified: ClientCertificate = "optional" if options.tls_client_optional else "required"
    return TlsFiles(
        list(zip_longest(options.tls_cert, options.tls_key)),
        minimum=options.tls_min,
        client_certificate="never" if options.tls_client_ca is None else verified,
        client_ca=options.tls_client_ca,
    )


async def accept_any_login(session: Session, credentials: Credentials) -> None:
    """Accept all credentials, as the `auth` hook of ``--auth-accept-any``."""


def accept_domains(domains: Sequence[str]) -> Callable[[Session, Rcpt], Awaitable[Reply | None]]:
    """Return a `rcpt` hook that accepts recipients at these domains only.

    A domain that begins with a dot means its subdomains. ``<Postmaster>`` without a domain is accepted as well
    (RFC 5321 4.5.1).
    """
    exact, suffixes = frozenset(domains), tuple(domain for domain in domains if domain.startswith("."))

    async def rcpt(session: Session, rcpt: Rcpt) -> Reply | None:
        domain = rcpt.recipient.domain
        if domain is None or domain.lower() in exact or domain.endswith(suffixes):
            return None
        return NOT_LOCAL

    return rcpt


def read_users(users: UsersFile) -> None:
    """Read the file of ``--auth-file``. Raises UsageError when it cannot be used; the users then stay as they are."""
    try:
        users.load()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot use {users.path}: {describe_error(error)}") from None
