"""Fetching MTA-STS policies by HTTPS (RFC 8461 3.3), from servers on the loopback interface, with the system's clock."""

from __future__ import annotations

import datetime
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from smtp_trio.routing import (
    HttpsPolicyFetcher,
    PolicyFetchError,
    StsPolicies,
    TlsResultType,
    parse_sts_policy,
)
from smtp_trio.testing import MemoryResolver

pytest.importorskip("httpx2")
x509 = pytest.importorskip("cryptography.x509")

HOST = "mta-sts.example.com"
POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: mx.example.com\r\nmax_age: 604800\r\n"
AUTHORITY = trustme.CA()
FETCH_ERROR, NOT_AUTHENTICATED = TlsResultType.STS_POLICY_FETCH_ERROR, TlsResultType.STS_WEBPKI_INVALID

Handler = Callable[[trio.SSLStream[trio.SocketStream], bytes], Awaitable[None]]


def response(
    body: bytes = POLICY, *, status: str = "200 OK", media_type: str | None = "text/plain", **header: str | None
) -> bytes:
    fields = {"Content-Type": media_type, "Content-Length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in header.items()}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items() if value is not None)]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    data = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return response(data + end, Content_Length=None, Transfer_Encoding="chunked")


OK = response()


class Server:
    """An HTTPS server that sends the same octets to all clients, or calls a handler with each request."""

    def __init__(self, answer: bytes | Handler, certificate: trustme.LeafCert) -> None:
        self.answer = answer
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(self.context)
        self.context.sni_callback = lambda _, name, __: self.names.append(name)
        self.names: list[str | None] = []
        self.requests: list[bytes] = []
        self.connections = 0
        #: Set when a client has closed its connection.
        self.closed = trio.Event()
        self.port = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        tls = trio.SSLStream(stream, self.context, server_side=True, https_compatible=True)
        try:
            request = b""
            while b"\r\n\r\n" not in request:
                if not (data := await tls.receive_some()):
                    return
                request += data
            self.requests.append(request)
            if isinstance(self.answer, bytes):
                await tls.send_all(self.answer)
            else:
                await self.answer(tls, request)
        except trio.BrokenResourceError:
            self.closed.set()
        finally:
            await tls.aclose()


def certificate(name: str = HOST, *, valid: bool = True, authority: trustme.CA = AUTHORITY) -> trustme.LeafCert:
    now = datetime.datetime.now(datetime.UTC)
    return authority.issue_cert(name, not_after=None if valid else now - datetime.timedelta(days=1))


@asynccontextmanager
async def https_server(
    answer: bytes | Handler = OK, leaf: trustme.LeafCert | None = None
) -> AsyncGenerator[Server, None]:
    server = Server(answer, leaf or certificate())
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, server.serve, listeners))
        yield server
        nursery.cancel_scope.cancel()


@cache
def trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(context)
    return context


def fetcher(port: int, *, resolver: MemoryResolver | None = None, **settings: Any) -> HttpsPolicyFetcher:
    resolver = resolver or MemoryResolver({HOST: {"A": ["127.0.0.1"]}})
    return HttpsPolicyFetcher(resolver, **{"port": port, "ssl_context": trusting(), **settings})


async def fails(fetch: HttpsPolicyFetcher, domain: str = "example.com") -> tuple[TlsResultType, str]:
    """Return the type and the reason of the failure."""
    with pytest.raises(PolicyFetchError) as failed:
        await fetch(domain)
    assert failed.value.domain == domain
    return failed.value.result_type, failed.value.reason


# --- success ----------------------------------------------------------------------------------------------------------


async def test_policy_is_fetched() -> None:
    async with https_server() as server:
        assert await fetcher(server.port)("example.com") == POLICY
    [request] = server.requests
    line, *lines = request.decode().split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert line == "GET /.well-known/mta-sts.txt HTTP/1.1"
    assert fields["host"] == f"{HOST}:{server.port}"
    assert "cookie" not in fields
    assert server.names == [HOST]  # RFC 8461 7.1: the SNI MUST be the policy host


@pytest.mark.parametrize(
    "answer",
    [
        response(media_type="text/plain; charset=utf-8"),
        response(media_type="Text/Plain;charset=us-ascii; x=y"),
        response(Content_Encoding="identity"),
        response(Cache_Control="max-age=60", Set_Cookie="a=b"),
        chunked(POLICY[:20], POLICY[20:]),
        b"HTTP/1.1 100 Continue\r\n\r\n" + response(),
        response().replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
async def test_responses_that_are_accepted(answer: bytes) -> None:
    async with https_server(answer) as server:
        assert await fetcher(server.port)("example.com") == POLICY


async def test_policy_of_the_largest_size() -> None:
    body = POLICY.ljust(65536, b"\n")
    async with https_server(response(body)) as server:
        found = await fetcher(server.port)("example.com")
    assert found == body
    assert parse_sts_policy(found).mode == "enforce"


async def test_certificate_with_a_wildcard() -> None:
    async with https_server(leaf=certificate("*.example.com")) as server:
        assert await fetcher(server.port)("example.com") == POLICY


async def test_nothing_is_cached() -> None:
    """RFC 8461 3.3: HTTP caching MUST NOT be used."""
    async with https_server(response(Cache_Control="max-age=3600", Set_Cookie="a=b")) as server:
        fetch = fetcher(server.port)
        for _ in range(2):
            await fetch("example.com")
    assert len(server.requests) == server.connections == 2
    assert b"cookie" not in server.requests[1].lower()


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with https_server() as server:
        assert await fetcher(server.port)("example.com") == POLICY


async def test_system_trusts_the_authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a context, the authorities are those of the system, also after they have changed."""
    async with https_server() as server:
        fetch = fetcher(server.port, ssl_context=None)
        for number, authority in enumerate([trustme.CA(), AUTHORITY]):
            path = tmp_path / f"{number}.pem"
            authority.cert_pem.write_to_path(str(path))
            monkeypatch.setenv("SSL_CERT_FILE", str(path))
            monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
            if authority is AUTHORITY:
                assert await fetch("example.com") == await fetch("example.com") == POLICY
            else:
                assert (await fails(fetch))[0] is NOT_AUTHENTICATED


async def test_policies_with_the_fetcher() -> None:
    resolver = MemoryResolver({HOST: {"A": ["127.0.0.1"]}, "_mta-sts.example.com": {"TXT": ["v=STSv1; id=1;"]}})
    async with https_server() as server:
        policies = StsPolicies(resolver, fetcher(server.port, resolver=resolver))
        result = await policies.find("example.com")
    assert result.error is None
    assert result.policy is not None
    assert result.policy.allows("mx.example.com")


# --- authentication ---------------------------------------------------------------------------------------------------


def common_name_only() -> trustme.LeafCert:
    """Return a certificate that has the policy host as its common name, and no DNS name."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    authority = x509.load_pem_x509_certificate(AUTHORITY.cert_pem.bytes())
    signer: Any = serialization.load_pem_private_key(AUTHORITY.private_key_pem.bytes(), None)
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return trustme.LeafCert(private, made.public_bytes(serialization.Encoding.PEM), [])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (partial(certificate, "example.com"), "mismatch"),
        (partial(certificate, "mta-sts.other.example"), "mismatch"),
        (partial(certificate, "*.mta-sts.example.com"), "mismatch"),
        (partial(certificate, "127.0.0.1"), "mismatch"),
        (partial(certificate, valid=False), "expired"),
        (lambda: certificate(authority=trustme.CA()), "unable to get local issuer certificate"),
        (common_name_only, "mismatch"),
    ],
    ids=["parent", "other", "below", "address", "expired", "unknown-authority", "common-name"],
)
async def test_host_that_is_not_authenticated(make: Callable[[], trustme.LeafCert], reason: str) -> None:
    """RFC 8461 3.3. No request is sent."""
    async with https_server(leaf=make()) as server:
        found = await fails(fetcher(server.port))
    assert found[0] is NOT_AUTHENTICATED
    assert reason in found[1]
    assert server.requests == []


@pytest.mark.parametrize("attribute", ["check_hostname", "verify_mode"])
def test_context_must_verify(attribute: str) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    if attribute == "verify_mode":
        context.verify_mode = ssl.CERT_NONE
    with pytest.raises(ValueError, match="ssl_context must verify"):
        fetcher(443, ssl_context=context)


# --- responses that are no policies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (response(status="301 Moved", Location="https://mta-sts.example.com/other.txt"), "status 301"),
        (response(status="302 Found", Location="/.well-known/mta-sts.txt"), "status 302"),
        (response(status="307 Temporary Redirect", Location="/"), "status 307"),
        (response(status="404 Not Found"), "status 404"),
        (response(status="500 Error"), "status 500"),
        (response(status="201 Created"), "status 201"),
        (response(b"", status="204 No Content", Content_Length=None), "status 204"),
        (response(status="206 Partial Content"), "status 206"),
        (response(b"", status="304 Not Modified", Content_Length=None), "status 304"),
        (response(media_type="text/html"), "media type 'text/html' instead of text/plain"),
        (response(media_type="text/plainer"), "media type"),
        (response(media_type=None), "media type ''"),
        (response(Content_Encoding="gzip"), "content encoding 'gzip'"),
        (response(Content_Length=None), "neither Content-Length nor Transfer-Encoding"),
        (response(b"x" * 65537), "longer than 65536 octets"),
        (chunked(*[b"x" * 1000] * 100), "longer than 65536 octets"),
        (response()[:-1], "without sending complete message body"),
        (chunked(POLICY, end=b""), "without sending complete message body"),
        (response(Content_Length="9999999999999999"), "without sending complete message body"),
        (response(Content_Length="-1"), "Content-Length"),
        (b"220 mail.example.com ESMTP\r\n", ""),
        (b"\r\n\r\n", ""),
        (b"", "disconnected"),
        (b"HTTP/1.1 200 OK\r\nContent-Ty", "disconnected"),
    ],
)
async def test_response_that_is_no_policy(answer: bytes, reason: str) -> None:
    async with https_server(answer) as server:
        found = await fails(fetcher(server.port))
    assert found[0] is FETCH_ERROR
    assert reason in found[1]
    assert server.connections == 1  # a redirect is not followed, and nothing is tried again


async def test_smaller_limit() -> None:
    async with https_server() as server:
        assert await fails(fetcher(server.port, max_size=len(POLICY) - 1)) == (
            FETCH_ERROR,
            f"longer than {len(POLICY) - 1} octets",
        )
        assert await fetcher(server.port, max_size=len(POLICY))("example.com") == POLICY


def endless(data: bytes, start: bytes = b"") -> Handler:
    """Return a handler that sends ``data`` again and again, as fast as the client reads."""

    async def handler(tls: trio.SSLStream[trio.SocketStream], request: bytes) -> None:
        await tls.send_all(start)
        while True:
            await tls.send_all(data)

    return handler


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (endless(b"1000\r\n" + b"x" * 4096 + b"\r\n", chunked(end=b"")), "longer than 65536 octets"),
        (endless(b"x" * 4096, response(b"", Content_Length="99999999999")), "longer than 65536 octets"),
        (endless(b"X-Header: " + b"x" * 4096 + b"\r\n", b"HTTP/1.1 200 OK\r\n"), ""),
        (endless(b"x" * 4096, b"HTTP/1.1 200 "), ""),
        (endless(b"0" * 4096, chunked(end=b"")), ""),
    ],
    ids=["chunks", "length", "header", "status-line", "chunk-size"],
)
async def test_response_without_an_end(handler: Handler, reason: str) -> None:
    async with https_server(handler) as server:
        found = await fails(fetcher(server.port))
        await server.closed.wait()
    assert found[0] is FETCH_ERROR
    assert reason in found[1]


async def test_server_without_tls() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"220 mail.example.com ESMTP\r\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, serve, listeners))
        assert (await fails(fetcher(listeners[0].socket.getsockname()[1])))[0] is FETCH_ERROR
        nursery.cancel_scope.cancel()


# --- time -------------------------------------------------------------------------------------------------------------


def drip(data: bytes, start: bytes = b"") -> Handler:
    """Return a handler that sends ``data`` in pieces of one octet, with pauses."""

    async def handler(tls: trio.SSLStream[trio.SocketStream], request: bytes) -> None:
        await tls.send_all(start)
        for octet in data:
            await tls.send_all(bytes([octet]))
            await trio.sleep(0.05)

    return handler


@pytest.mark.parametrize(
    "handler",
    [
        drip(b"x" * 1000, response(b"", Content_Length="1000")),
        drip(response()),
        drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    ],
    ids=["body", "header", "100"],
)
async def test_slow_response_is_given_up(handler: Handler) -> None:
    """The time limit is for the whole, and not for each octet."""
    async with https_server(handler) as server:
        found = await fails(fetcher(server.port, timeout=0.5))
        if server.requests:  # as on any machine that is not overloaded
            await server.closed.wait()
    assert found == (FETCH_ERROR, "no complete response within 0.5 seconds")


async def test_lookup_that_takes_too_long() -> None:
    resolver = MemoryResolver({}, delays={HOST: 3600})
    assert (await fails(fetcher(443, resolver=resolver, timeout=0.1)))[0] is FETCH_ERROR


class SilentServer:
    """A server that reads and never sends."""

    def __init__(self) -> None:
        self.port = 0
        #: Set when a client has sent something, and when a client has closed its connection.
        self.called, self.closed = trio.Event(), trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            async for _ in stream:
                self.called.set()
            self.closed.set()


@asynccontextmanager
async def silent_server() -> AsyncGenerator[SilentServer, None]:
    server = SilentServer()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, server.serve, listeners))
        yield server
        nursery.cancel_scope.cancel()


async def test_connection_is_closed_after_a_timeout_in_the_handshake() -> None:
    async with silent_server() as server:
        assert (await fails(fetcher(server.port, timeout=0.2)))[0] is FETCH_ERROR
        if server.called.is_set():  # as on any machine that is not overloaded
            await server.closed.wait()


async def test_connection_is_closed_after_a_cancellation_in_the_handshake() -> None:
    async with silent_server() as server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetcher(server.port), "example.com")
            await server.called.wait()
            nursery.cancel_scope.cancel()
        await server.closed.wait()


async def test_connection_is_closed_after_a_cancellation_in_the_response() -> None:
    started = trio.Event()

    async def handler(tls: trio.SSLStream[trio.SocketStream], request: bytes) -> None:
        await tls.send_all(response()[:-10])
        started.set()
        while await tls.receive_some():
            pass
        server.closed.set()

    async with https_server(handler) as server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetcher(server.port), "example.com")
            await started.wait()
            nursery.cancel_scope.cancel()
        await server.closed.wait()


# --- addresses --------------------------------------------------------------------------------------------------------


async def test_next_address_is_tried() -> None:
    """127.0.0.2 is a loopback address, too, at which nothing listens."""
    async with https_server() as server:
        resolver = MemoryResolver({HOST: {"A": ["127.0.0.2", "127.0.0.1"]}})
        assert await fetcher(server.port, resolver=resolver)("example.com") == POLICY


@pytest.mark.slow
async def test_address_after_one_that_does_not_respond() -> None:
    """The time is divided among the addresses."""
    async with silent_server() as silent, https_server() as server:
        listeners = await trio.open_tcp_listeners(silent.port, host="127.0.0.2")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.serve_listeners, server.serve, listeners))
            resolver = MemoryResolver({HOST: {"A": ["127.0.0.1", "127.0.0.2"]}})
            assert await fetcher(silent.port, resolver=resolver, timeout=10)("example.com") == POLICY
            await silent.closed.wait()
            nursery.cancel_scope.cancel()


async def test_one_kind_of_address_is_enough() -> None:
    async with https_server() as server:
        resolver = MemoryResolver({HOST: {"A": ["127.0.0.1"]}}, failures={(HOST, "AAAA"): "SERVFAIL"})
        assert await fetcher(server.port, resolver=resolver)("example.com") == POLICY


@pytest.mark.parametrize(
    ("resolver", "reason"),
    [
        (MemoryResolver({}), "mta-sts.example.com has no address"),
        (MemoryResolver({HOST: {"A": ["not an address"]}}), "has no address"),
        (MemoryResolver({HOST: {}}, failures={HOST: "SERVFAIL"}), "SERVFAIL"),
    ],
)
async def test_host_without_an_address(resolver: MemoryResolver, reason: str) -> None:
    found = await fails(fetcher(443, resolver=resolver))
    assert found[0] is FETCH_ERROR
    assert reason in found[1]


async def test_nothing_listens() -> None:
    async with https_server() as server:
        resolver = MemoryResolver({HOST: {"A": ["127.0.0.2", "127.0.0.3"]}})
        assert (await fails(fetcher(server.port, resolver=resolver)))[0] is FETCH_ERROR
    assert server.connections == 0


async def test_many_addresses_are_not_all_tried() -> None:
    addresses = [f"127.0.0.{number}" for number in range(2, 200)]
    async with https_server() as server:
        resolver = MemoryResolver({HOST: {"A": [*addresses, "127.0.0.1"]}})
        await fails(fetcher(server.port, resolver=resolver))
    assert server.connections == 0


async def test_name_of_the_policy_host_is_too_long() -> None:
    found = await fails(fetcher(443), ".".join(["a" * 49] * 5))
    assert "longer than 253 characters" in found[1]


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{"timeout": -1}, {"max_size": 0}, {"max_size": 65537}, {"port": 0}, {"port": 65536}]
)
def test_invalid_number(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        fetcher(**{"port": 443, **settings})


@pytest.mark.parametrize("settings", [{"timeout": "1"}, {"max_size": 1.5}, {"ssl_context": 1}, {"port": "443"}])
def test_argument_of_a_wrong_type(settings: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        fetcher(**{"port": 443, **settings})


WITHOUT = """
import sys
sys.modules["httpx2"] = None
import smtp_trio.routing
try:
    smtp_trio.routing.HttpsPolicyFetcher(None)
except ImportError as error:
    print(error)
"""


def test_without_the_extra() -> None:
    """The error tells what to install, and routing can be imported."""
    run = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    assert run.stdout == "smtp_trio.routing needs httpx2: install smtp-trio[dns]\n"


def test_httpx_is_imported_when_it_is_used() -> None:
    code = "import sys, smtp_trio.routing; print('httpx2' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
