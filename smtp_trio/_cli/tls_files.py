"""TLS as the files that options name configure it."""

from __future__ import annotations

import ssl
import sys
from typing import TYPE_CHECKING

from .._server.server import Server
from .._server.tls_files import TlsFiles
from .options import UsageError, describe_error

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


def load_certificates(server: Server, files: TlsFiles) -> None:
    """Use the certificates in these files in handshakes that begin from now on."""
    try:
        server.reload_tls(files)
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}: {describe_error(error)}") from None
    except ValueError as error:
        raise UsageError(str(error)) from None


def ignore_undecodable_names() -> None:
    """Print no traceback when a client sends a server name (SNI) that is not ASCII.

    The ssl module ends the handshake, which is logged as a failed one. It reports the exception only to
    `sys.unraisablehook`, and any client could fill the log with these reports.
    """

    def hook(unraisable: UnraisableHookArgs) -> None:
        if not (isinstance(unraisable.exc_value, UnicodeDecodeError) and isinstance(unraisable.object, bytes)):
            sys.__unraisablehook__(unraisable)

    sys.unraisablehook = hook


def client_context(cafile: str | None) -> ssl.SSLContext:
    """Return a client's context that trusts the certificates in ``cafile`` only; by default those of the system."""
    try:
        return ssl.create_default_context(cafile=cafile)
    except ssl.SSLError:
        raise UsageError(f"no certificate in {cafile}") from None
    except OSError as error:
        raise UsageError(f"cannot read {cafile}: {describe_error(error)}") from None
