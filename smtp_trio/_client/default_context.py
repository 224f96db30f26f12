"""The TLS contexts of clients to which no context was given."""

from __future__ import annotations

import functools
import os
import ssl
import threading
from typing import Final

from .threads import run_in_thread

_lock: Final = threading.Lock()
#: The context with verification, and what was on the disk when it was made.
_made: tuple[object, ssl.SSLContext] | None = None


# `ssl.create_default_context` reads the certificates of all authorities that the system trusts, which takes from 30 to
# 900 ms. So a context is made once and shared by all connections of the process; a context that is not modified may be
# used for any number of them. A program that runs for months must notice when the system's authorities change, and one
# must not need a restart. So the file and the directory that OpenSSL reads (also those of SSL_CERT_FILE and
# SSL_CERT_DIR) are compared with their state when the context was made, which takes a few microseconds. On Windows the
# certificates come from the system's store, which has no such state: there they are read once.
async def default_context(*, verify: bool) -> ssl.SSLContext:
    """Return the result of `ssl.create_default_context`, or the same without verification. It must not be modified."""
    if not verify:
        return _unverified()
    context = _cached(_authorities())
    return await run_in_thread(_load, abandon_on_cancel=True) if context is None else context


@functools.cache
def _unverified() -> ssl.SSLContext:
    # `ssl.create_default_context` would load the certificates, which this context does not need.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if path := os.environ.get("SSLKEYLOGFILE"):  # for Wireshark, as in `ssl.create_default_context`
        context.keylog_filename = path
    return context


def _cached(authorities: object) -> ssl.SSLContext | None:
    return _made[1] if _made is not None and _made[0] == authorities else None


def _load() -> ssl.SSLContext:
    """Make the context, unless another thread has done so in the meantime."""
    global _made
    with _lock:
        authorities = _authorities()
        context = _cached(authorities)
        if context is None:
            context = ssl.create_default_context()
            _made = authorities, context
    return context


def _authorities() -> tuple[object, ...]:
    """Return a value that changes when other authorities are trusted, or other code makes contexts."""
    paths = ssl.get_default_verify_paths()
    # The functions are compared too, because there are packages that replace them.
    return ssl.create_default_context, ssl.SSLContext, _state(paths.cafile), _state(paths.capath)


def _state(path: str | None) -> tuple[object, ...]:
    if path is None:
        return ()
    try:
        status = os.stat(path)
    except OSError:
        return (path,)
    return path, status.st_ino, status.st_size, status.st_mtime_ns
