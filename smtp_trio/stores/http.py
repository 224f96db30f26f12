"""`Webhook`: a store that sends each message to an application by HTTP, and answers 250 when the application has it.

It is the only module that imports httpx2: ``python -m pip install 'smtp-trio[http]'``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
import ssl
import tempfile
import time
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Self
from urllib.parse import parse_qsl, unquote

import httpx2
import trio

from .._server.body import keeper_of
from .._server.log_events import NOT_STORED
from .._server.memory import UNCOUNTED
from .._server.spool import check_path
from .._server.threads import run_in_thread
from ..protocol.arguments import check_number, check_type
from ._errors import MessageRejectedError, MessageTooBigError, StoreError
from ._outage import Outage, StoreUnavailableError
from ._spool import Spool
from ._store import Store
from ._url_options import number, whole_number

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping, Sequence

    from .._server.body import Body
    from .._server.server import Server
    from .._server.session import Session
    from ..protocol.replies import Reply
    from ._entry import Entry

# How a message is pushed
# -----------------------
#
# The message is received to its end before the request begins. Up to 1 MiB of it is in memory, the rest in a temporary
# file. So the header of the request can have the length and the signature of the body, although no message is in memory as a
# whole. Applications need the length, since WSGI has no chunked bodies, and a slow client does not keep one of their workers.
#
# The body is multipart/form-data (RFC 7578), which every web framework parses, and writes to a file if it is large: a field with
# the envelope as JSON, and a file with the octets of the message. The envelope does not fit into the header: many servers
# limit that to 8 KiB, and a message may have a thousand recipients.
#
# Standard Webhooks signs the id, the time and the whole body: that is one signature. But its libraries decode what they
# verify as UTF-8 and JSON, and a message is neither. So a second signature is that of the envelope alone, which has the
# digest of the message. The specification allows several signatures, one of which has to match.
#
# The transport of httpx2 is used without its client. So it does not follow redirects, keep cookies, decode responses, use proxies
# from the environment or log URLs.
#
# A request is not repeated. After a lost connection it is unknown whether the application has processed it, and the client of
# SMTP tries again anyway. A connection that was idle for a second is not used again: most servers keep one for longer, so
# that they seldom close it at the moment when it is used.
#
# A request can be cancelled until the status of its response has been received. What follows is shielded, so that a message which
# the application has accepted gets its 250.

#: Octets of a response that are read. The rest, and what has not arrived after a second, is not received.
MAX_RESPONSE = 1 << 16
RESPONSE_TIMEOUT = 1.0
#: Seconds after which an idle connection is not used again.
KEEP_ALIVE = 1.0
#: Octets of a file that are sent at a time.
CHUNK = 1 << 16
#: Octets above which a message is hashed in a thread.
HASHED_AT_ONCE = 1 << 16
#: The longest text of an application that becomes the text of a reply.
MAX_REPLY_TEXT = 200
#: Statuses below 500 that do not refuse the message for good: a timeout, and too many requests.
TEMPORARY = (408, 429)
#: Statuses of an application that does not run, or of the server in front of it.
UNAVAILABLE = (502, 503, 504)
#: The environment variable with the secret of the signatures.
SECRET_VARIABLE = "SMTP_TRIO_WEBHOOK_SECRET"
SECRET_PREFIX = "whsec_"
USER_AGENT = "smtp-trio"


class Webhook(Store["WebhookSpool"]):
    """A store that sends every message to an application, in a POST request, before the 250 is sent.

    :param url: the URL of the application, ``https://HOST/PATH`` or ``http://HOST/PATH``. A user and a password in it are sent
        by the scheme Basic.
    :param secret: the secret of the signatures (Standard Webhooks), ``whsec_`` and the base64 of 24 to 64 octets. There can be
        several, with spaces between them, while they are replaced. Without a secret nothing is signed.
    :param timeout: the seconds after which a request without a response has failed.
    :param max_requests: the number of requests at a time. Further messages wait, within their ``timeout``.
    :param ssl_context: the context for https; by default one that trusts the certificate authorities of the system.
    :param spool_directory: the directory of the temporary files of large messages; by default that of ``tempfile``.

    Such a store cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | None = None,
        timeout: float = 60,
        max_requests: int = 20,
        ssl_context: ssl.SSLContext | None = None,
        spool_directory: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        check_type(url, "url", str)
        check_type(secret, "secret", str, optional=True)
        check_number(timeout, "timeout")
        check_number(max_requests, "max_requests", 1, integer=True)
        check_type(ssl_context, "ssl_context", ssl.SSLContext, optional=True)
        self._timeout = timeout
        self._max_requests = max_requests
        self._spool_directory = None if spool_directory is None else check_path(spool_directory, "spool_directory")
        self._target, self._authorization = parse_url(url)
        self.url: str = display_url(url)
        self._keys = parse_secrets(secret)
        self._ssl_context = ssl_context
        self._outage = Outage(lambda: self.url)
        self._transport: httpx2.AsyncHTTPTransport | None = None
        self._requests = trio.CapacityLimiter(max_requests)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the store of a URL. The fragment, which is not sent, has the options: ``#timeout=30&max-requests=50``.

        The options are ``timeout``, ``max-requests``, ``spool-directory`` and ``secret-file``. Without the last one, the
        secret is that in the environment variable ``SMTP_TRIO_WEBHOOK_SECRET``, if there is one.
        """
        address, _, fragment = url.partition("#")
        arguments: dict[str, Any] = {"secret": os.environ.get(SECRET_VARIABLE) or None}
        for name, value in parse_qsl(fragment, keep_blank_values=True, strict_parsing=bool(fragment)):
            if name not in OPTIONS:
                raise ValueError(f"an option in the URL must be one of {', '.join(OPTIONS)}, got {name!r}")
            keyword, convert = OPTIONS[name]
            try:
                arguments[keyword] = convert(value)
            except ValueError as error:
                raise ValueError(f"{name} in the URL: {error}") from None
        return cls(address, **arguments)

    def __repr__(self) -> str:
        return f"Webhook({self.url!r})"

    def _open(self) -> None:
        if self._transport is None:
            # Loading the certificate authorities takes 50 ms and more. Without https the context is not used.
            make = ssl.create_default_context if self._target.scheme == "https" else empty_context
            self._transport = httpx2.AsyncHTTPTransport(
                verify=self._ssl_context or make(),
                trust_env=False,
                limits=httpx2.Limits(
                    max_connections=self._max_requests,
                    max_keepalive_connections=self._max_requests,
                    keepalive_expiry=KEEP_ALIVE,
                ),
            )

    async def open(self) -> None:
        """Check that the application responds to an OPTIONS request, with any status. Raises `StoreError` otherwise."""
        try:
            await super().open()
            await self._request("OPTIONS", {})
        except StoreUnavailableError as error:
            await self.aclose()
            raise self._store_error(error) from error

    async def aclose(self) -> None:
        """Close the connections."""
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.aclose()

    def _spool(self, entry: Entry, trace: Callable[[], bytes]) -> WebhookSpool:
        return WebhookSpool(entry, self._spool_directory)

    async def _store(self, spool: WebhookSpool, body: AsyncIterable[bytes], session: Session | None = None) -> str:
        try:
            await spool.fill(body, UNCOUNTED if session is None else keeper_of(session))
        except (OSError, StoreError) as error:
            raise self._store_error(error) from error
        try:
            await self._push(spool)
        finally:
            await spool.discard_in_thread()
        return spool.name

    async def _push(self, spool: WebhookSpool) -> None:
        """Send a message, and return if the application has accepted it. Raises `StoreError` otherwise."""
        form = Form(spool)
        prepare = partial(form.prepare, self._keys, int(self.clock()))
        try:
            if spool.total > HASHED_AT_ONCE:
                await run_in_thread(prepare)
            else:
                prepare()
        except OSError as error:  # the temporary file cannot be read
            raise self._store_error(error) from error
        began = time.monotonic()
        try:
            status, text = await self._request("POST", form.headers, form)
        except StoreUnavailableError as error:
            raise self._store_error(self._outage.error(error)) from error
        self._outage.end(began)
        if 200 <= status < 300 and form.sent:
            return
        if status == 413:
            raise MessageTooBigError(f"{self!r}: HTTP status 413 for {spool.total} octets")
        if 400 <= status < 500 and status not in TEMPORARY:
            raise MessageRejectedError(f"{self!r}: HTTP status {status}", text)
        raise StoreError(
            f"{self!r}: HTTP status {status}" + (" before the whole message was sent" if status < 300 else "")
        )

    async def _request(self, method: str, headers: Mapping[str, str], form: Form | None = None) -> tuple[int, str]:
        """Send a request, and return the status and the `reply_text` of the response.

        Raises `StoreUnavailableError` if no response was received, or a proxy responded that the application is unavailable.
        """
        try:
            with trio.fail_after(self._timeout):
                if self._transport is None:
                    await super().open()
                transport = self._transport
                assert transport is not None
                async with self._requests:
                    response = await transport.handle_async_request(
                        httpx2.Request(
                            method,
                            self._target,
                            headers={"User-Agent": USER_AGENT, **self._authorization, **headers},
                            content=None if form is None else form.stream(),
                        )
                    )
                    with trio.CancelScope(shield=True):
                        text = await reply_text(response)
        except trio.TooSlowError as error:
            raise StoreUnavailableError(f"no response within {self._timeout:g} seconds") from error
        except (httpx2.TransportError, OSError) as error:
            raise StoreUnavailableError(describe_cause(error)) from error
        if response.status_code in UNAVAILABLE:
            raise StoreUnavailableError(f"HTTP status {response.status_code}")
        return response.status_code, text

    async def start(self, server: Server) -> None:
        """Check that the application responds."""
        await self.open()

    async def data(self, session: Session, body: Body) -> Reply | Sequence[Reply | None] | None:
        """Push the message. A refusal by the application is not an error of the store, and is logged as information."""
        try:
            await self.put(session, body)
        except StoreError as error:
            if not isinstance(error, StoreUnavailableError):
                refused = isinstance(error, MessageRejectedError | MessageTooBigError)
                NOT_STORED.log(
                    as_level=logging.INFO if refused else None,
                    id=body.envelope.id,
                    peer=str(session.peer),
                    error=str(error),
                    exc_info=error.__cause__,
                )
            return error.reply
        return None


class WebhookSpool(Spool):
    """A message before it is pushed: the beginning of a large one in a temporary file, the rest in memory."""

    def __init__(self, entry: Entry, directory: str | None) -> None:
        super().__init__(entry.id)
        self.entry: Entry = entry
        self._directory = directory
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()

    def write(self, data: bytearray) -> None:
        """Write to the file, which has no name and disappears when it is closed."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 -- `discard` closes it
        self._file.write(data)
        self._file.flush()
        self._digest.update(data)

    def discard(self) -> bool:
        """Close the file."""
        if self._file is not None:
            with self._file:  # closes it also if something could not be written
                self._file = None
        return False

    @property
    def written(self) -> bool:
        """True if there is a file."""
        return self._file is not None

    @property
    def total(self) -> int:
        """The number of octets of the message."""
        return self.size + self.buffered

    def digest(self) -> str:
        """Return the SHA-256 of the message in hexadecimal."""
        digest = self._digest.copy()
        digest.update(self._buffer)
        return digest.hexdigest()

    def read(self, offset: int) -> bytes | bytearray:
        """Return the next octets of the message from an offset, or none at its end. Called in a thread if they are in the file."""
        if offset >= self.size:
            return self._buffer[offset - self.size : offset - self.size + CHUNK]
        assert self._file is not None
        self._file.seek(offset)
        return self._file.read(CHUNK)


class Form:
    """The body of a request: the envelope and the message as multipart/form-data."""

    def __init__(self, spool: WebhookSpool) -> None:
        self.headers: dict[str, str] = {}
        """The fields of the header of the request, after `prepare`."""
        self.sent: bool = False
        """True when the iterator of `stream` has been read to its end."""
        self._spool = spool
        self._head = b""
        self._tail = b""
        # What `stream` has not yet returned: the tail, and the head before it; and the position in the message.
        self._left: list[bytes] = []
        self._offset = 0

    def prepare(self, keys: Sequence[bytes], timestamp: int) -> None:
        """Format the envelope, and compute the signatures. Raises OSError if the file cannot be read."""
        spool = self._spool
        envelope = format_envelope(spool.entry, size=spool.total, sha256=spool.digest())
        boundary = os.urandom(16).hex()  # cannot be in the message, since its sender does not know it
        self._head = (
            f"--{boundary}\r\n"
            'Content-Disposition: form-data; name="envelope"\r\n'
            "Content-Type: application/json\r\n\r\n"
            f"{envelope}\r\n"
            f"--{boundary}\r\n"
            f'Content-Disposition: form-data; name="message"; filename="{spool.name}.eml"\r\n'
            "Content-Type: message/rfc822\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self.headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(self._head) + spool.total + len(self._tail)),
            "webhook-id": spool.name,
            "webhook-timestamp": str(timestamp),
        }
        if keys:
            signed = f"{spool.name}.{timestamp}.".encode()
            hashes = [hmac.new(key, signed, hashlib.sha256) for key in keys]
            for piece in self._pieces():
                for each in hashes:
                    each.update(piece)
            hashes += [hmac.new(key, signed + envelope.encode(), hashlib.sha256) for key in keys]
            self.headers["webhook-signature"] = " ".join(
                f"v1,{base64.b64encode(each.digest()).decode()}" for each in hashes
            )

    def _pieces(self) -> Iterator[bytes | bytearray]:
        yield self._head
        offset = 0
        while piece := self._spool.read(offset):
            yield piece
            offset += len(piece)
        yield self._tail

    def stream(self) -> AsyncIterator[bytes]:
        """Iterate over the octets of the body, from its beginning."""
        self._left = [self._tail, self._head]
        self._offset = 0
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        # Not a generator: those of an early response would have to be closed, which not every version of httpx2 does.
        spool = self._spool
        if len(self._left) == 1 and self._offset < spool.total:
            read = partial(spool.read, self._offset)
            piece = bytes(await run_in_thread(read) if self._offset < spool.size else read())
            self._offset += len(piece)
            return piece
        if self._left:
            return self._left.pop()
        self.sent = True
        raise StopAsyncIteration


def empty_context() -> ssl.SSLContext:
    """Return a context that trusts no certificate."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def format_envelope(entry: Entry, **more: object) -> str:
    """Return an envelope as a JSON object in one line of ASCII."""
    return json.dumps(
        {
            "version": 1,
            "id": entry.id,
            "received_at": entry.received_at,
            "sender": entry.sender,
            "mail_params": entry.mail_params,
            "recipients": [
                {"address": address, "params": params}
                for address, params in zip(entry.recipients, entry.rcpt_params, strict=True)
            ],
            "peer": entry.peer,
            "helo": entry.helo,
            "protocol": entry.protocol,
            "tls": entry.tls,
            "auth": entry.auth,
            **more,
        }
    )


async def reply_text(response: httpx2.Response) -> str:
    """Return the text of a response if it can be the text of a reply, otherwise "", and close the response.

    It can if it is plain text, one line of printable ASCII. A page of HTML is not for the client of SMTP. The text is not that of the
    application alone, but of everything between it and the server, so nothing else is passed on.
    """
    octets = bytearray()
    complete = False
    try:
        with trio.move_on_after(RESPONSE_TIMEOUT) as scope:
            async for chunk in response.aiter_raw():
                octets += chunk
                if len(octets) > MAX_RESPONSE:
                    scope.cancel()  # unlike `break`, this ends the generators below at once
            complete = True
    except httpx2.TransportError:  # the status is known, and is what counts
        pass
    finally:
        await response.aclose()
    text = octets.strip().decode("latin-1")
    plain = response.headers.get("content-type", "").partition(";")[0].strip().lower() == "text/plain"
    valid = plain and complete and len(text) <= MAX_REPLY_TEXT and text.isascii() and text.isprintable()
    return text if valid else ""


def describe_cause(error: BaseException) -> str:
    """Return the text of an error, or, if it has none, that of its cause, or the name of its type."""
    cause: BaseException | None = error
    while cause is not None:
        if str(cause):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def parse_url(url: str) -> tuple[httpx2.URL, dict[str, str]]:
    """Return a URL without its user and password, and the field of the header with them. Raises ValueError if it is invalid."""
    # The error of the library is not shown: of a password with "/" or "?" it shows what it took for the port.
    try:
        parsed = httpx2.URL(url)
        valid = bool(parsed.scheme in ("http", "https") and parsed.host and not parsed.fragment)
    except httpx2.InvalidURL:
        valid = False
    if not valid:
        raise ValueError(
            "the URL of a webhook is invalid: must be http://HOST/PATH or https://HOST/PATH; "
            'write "/" and "?" in a password as %2F and %3F'
        )
    authorization = {}
    if parsed.userinfo:
        userinfo = unquote(parsed.userinfo.decode("ascii")).encode()
        authorization["Authorization"] = f"Basic {base64.b64encode(userinfo).decode()}"
    return parsed.copy_with(username=None, password=None), authorization


def display_url(url: str) -> str:
    """Return a URL without its password and without the values of its query, which can be secrets too."""
    parsed = httpx2.URL(url)
    user = f"{parsed.username}@" if parsed.username else ""
    query = "?..." if parsed.query else ""
    return f"{parsed.scheme}://{user}{parsed.netloc.decode('ascii')}{parsed.path}{query}"


def parse_secrets(secret: str | None) -> tuple[bytes, ...]:
    """Return the keys of secrets with spaces between them. Raises ValueError, without the secret in it."""
    keys = []
    for word in (secret or "").split():
        try:
            keys.append(base64.b64decode(word.removeprefix(SECRET_PREFIX), validate=True))
        except ValueError:
            keys.append(b"")
    del secret
    if any(not 24 <= len(key) <= 64 for key in keys):
        raise ValueError(f"a secret must be {SECRET_PREFIX} and the base64 of 24 to 64 octets")
    return tuple(keys)


def read_secret(path: str) -> str:
    """Return the secret in a file. Raises ValueError if it cannot be read."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except (OSError, UnicodeError) as error:
        raise ValueError(f"cannot read {path!r}: {getattr(error, 'strerror', error)}") from None


#: The options in a URL: the argument of `Webhook`, and how its value is made from the text.
OPTIONS: dict[str, tuple[str, Callable[[str], object]]] = {
    "timeout": ("timeout", number),
    "max-requests": ("max_requests", whole_number),
    "spool-directory": ("spool_directory", str),
    "secret-file": ("secret", read_secret),
}
