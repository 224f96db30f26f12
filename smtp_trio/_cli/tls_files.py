"""TLS contexts made from the files that options name."""

from __future__ import annotations

import ssl

from .options import UsageError, describe_error


def server_context(cert: str, key: str | None) -> ssl.SSLContext:
    """Return a server's context with the certificate chain in ``cert``; its key is in ``key``, or also in ``cert``.

    Each call makes a new context. A context can hold certificates of several key types, so an old RSA one would stay in
    use beside a new ECDSA one; and a context whose certificate failed to load cannot be used any more.
    """
    for path in (cert, key or cert):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise UsageError(f"cannot read {path}: {describe_error(error)}") from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key, password="")  # without a password OpenSSL would ask for it at the terminal
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
            raise UsageError(f"the key in {key or cert} does not match the certificate in {cert}") from None
        raise UsageError(f"cannot load a certificate from {cert} and an unencrypted key from {key or cert}") from None
    return context


def client_context(cafile: str | None) -> ssl.SSLContext:
    """Return a client's context that trusts the certificates in ``cafile`` only; by default those of the system."""
    try:
        return ssl.create_default_context(cafile=cafile)
    except ssl.SSLError:
        raise UsageError(f"no certificate in {cafile}") from None
    except OSError as error:
        raise UsageError(f"cannot read {cafile}: {describe_error(error)}") from None
