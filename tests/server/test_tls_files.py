"""`TlsFiles` and `Server.reload_tls`: certificates by name, from clients, and new ones while the server runs."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from helpers import NAME, authority, client_tls
from trio.testing import memory_stream_pair

from smtp_trio import Hooks, Reply, Server, Session, TlsFiles, TlsInfo


class Tls(Hooks):
    """Records the result of each handshake."""

    def __init__(self) -> None:
        self.seen: list[TlsInfo | None] = []

    async def connect(self, session: Session) -> Reply | None:
        self.seen.append(session.tls)
        return None


def write(folder: Path, *names: str, ca: trustme.CA | None = None, key_type: Any = trustme.KeyType.ECDSA) -> Path:
    """Issue a certificate for these names, and write it and its key into one file."""
    path = folder / f"{names[0].replace('*', 'any')}.pem"
    issued = (ca or authority()).issue_cert(*names, key_type=key_type)
    issued.private_key_and_cert_chain_pem.write_to_path(path)
    return path


async def handshake(server: Server, host: str | None, context: ssl.SSLContext | None = None) -> dict[str, Any]:
    """Connect with implicit TLS, and return the certificate of the server."""
    client_end, server_end = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: server.serve_stream(server_end, implicit_tls=True))
        stream = trio.SSLStream(client_end, context or client_tls(), server_hostname=host, https_compatible=True)
        await stream.do_handshake()
        if not await stream.receive_some():  # with TLS 1.3 a client learns only now that its certificate was refused
            raise trio.BrokenResourceError
        await stream.send_all(b"QUIT\r\n")
        assert (await stream.receive_some())[:3] == b"221"
        certificate: dict[str, Any] = stream.getpeercert()
        await trio.aclose_forcefully(stream)
    return certificate


def names_of(certificate: dict[str, Any]) -> list[str]:
    return [value for _, value in certificate["subjectAltName"]]


def context(**settings: Any) -> ssl.SSLContext:
    """Return a client's context that verifies the certificate of the server, but not its name."""
    made = ssl.create_default_context()
    authority().configure_trust(made)
    made.check_hostname = False
    for name, value in settings.items():
        setattr(made, name, value)
    return made


# --- several certificates ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "received"),
    [
        ("mx.test", "mx.test"),
        ("MX.Test", "mx.test"),
        ("other.test", "other.test"),
        ("third.test", "other.test"),
        ("a.wild.test", "*.wild.test"),
        ("A.WILD.TEST", "*.wild.test"),
        ("mx.wild.test", "mx.wild.test"),
        ("wild.test", "mx.test"),
        ("a.b.wild.test", "mx.test"),
        ("unknown.test", "mx.test"),
        (None, "mx.test"),
    ],
)
async def test_certificate_for_the_name_that_the_client_sends(
    tmp_path: Path, wanted: str | None, received: str
) -> None:
    """A name that is in no certificate gets the first one, and so does a client that sends none (RFC 6066 3)."""
    files = [write(tmp_path, "mx.test"), write(tmp_path, "other.test", "third.test")]
    files += [write(tmp_path, "mx.wild.test"), write(tmp_path, "*.wild.test")]
    server = Server(tls=TlsFiles(files))
    assert names_of(await handshake(server, wanted, context()))[0] == received


async def test_keys_of_several_types(tmp_path: Path) -> None:
    files = [write(tmp_path, "mx.test", key_type=trustme.KeyType.RSA), write(tmp_path, "other.test")]
    server = Server(tls=TlsFiles(files))
    for name in ("mx.test", "other.test"):
        await handshake(server, name)


async def test_certificate_and_key_in_two_files(tmp_path: Path) -> None:
    issued = authority().issue_cert(NAME)
    cert, key = tmp_path / "cert", str(tmp_path / "key")
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    await handshake(Server(tls=TlsFiles([(cert, key)])), NAME)


# --- versions and client certificates ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("minimum", "accepted"), [("1.2", True), ("1.3", False)])
async def test_lowest_version(tmp_path: Path, minimum: Any, accepted: bool) -> None:
    server = Server(tls=TlsFiles(write(tmp_path, NAME), minimum=minimum))
    old = context(maximum_version=ssl.TLSVersion.TLSv1_2)
    if accepted:
        await handshake(server, NAME, old)
    else:
        with pytest.raises(ExceptionGroup) as caught:
            await handshake(server, NAME, old)
        assert caught.group_contains(trio.BrokenResourceError)
    await handshake(server, NAME, context(minimum_version=ssl.TLSVersion.TLSv1_3))


CLIENTS: dict[str, Callable[[], trustme.LeafCert | None]] = {
    "none": lambda: None,
    "valid": lambda: authority().issue_cert("fred@client.test"),
    "unknown authority": lambda: trustme.CA().issue_cert("fred@client.test"),
}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("mode", "client", "accepted"),
    [
        ("never", "none", True),
        ("never", "valid", True),
        ("never", "unknown authority", True),
        ("optional", "none", True),
        ("optional", "valid", True),
        ("optional", "unknown authority", False),
        ("required", "none", False),
        ("required", "valid", True),
        ("required", "unknown authority", False),
    ],
)
@pytest.mark.parametrize("several", [False, True])
async def test_client_certificates(
    tmp_path: Path, mode: Any, client: str, accepted: bool, version: ssl.TLSVersion, several: bool
) -> None:
    """Also if the certificate of the server is chosen by name."""
    ca = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(ca)
    hooks = Tls()
    certificates = [write(tmp_path, "other.test"), write(tmp_path, NAME)][1 - several :]
    files = TlsFiles(certificates, client_certificate=mode, client_ca=None if mode == "never" else ca)
    server = Server(hooks, tls=files)
    own = context(minimum_version=version, maximum_version=version)
    if (issued := CLIENTS[client]()) is not None:
        issued.configure_cert(own)
    if not accepted:
        with pytest.raises(ExceptionGroup) as caught:
            await handshake(server, NAME, own)
        assert caught.group_contains(trio.BrokenResourceError)
        assert hooks.seen == []
        return
    await handshake(server, NAME, own)
    (info,) = hooks.seen
    assert info is not None
    if mode == "never" or client == "none":
        assert info.client_certificate is None
    else:
        assert info.client_certificate is not None
        assert ("email", "fred@client.test") in info.client_certificate["subjectAltName"]
    assert hash(info) == hash(info)


# --- other files while the server runs ---------------------------------------------------------------------------------


async def test_files_are_read_again(tmp_path: Path) -> None:
    path = write(tmp_path, NAME)
    server = Server(tls=TlsFiles(path))
    before = await handshake(server, NAME)
    write(tmp_path, NAME)
    assert await handshake(server, NAME) == before
    server.reload_tls()
    assert (await handshake(server, NAME))["serialNumber"] != before["serialNumber"]


async def test_open_sessions_stay_open(tmp_path: Path) -> None:
    path = write(tmp_path, NAME)
    server = Server(tls=TlsFiles(path))
    client_end, server_end = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: server.serve_stream(server_end, implicit_tls=True))
        stream = trio.SSLStream(client_end, client_tls(), server_hostname=NAME)
        assert (await stream.receive_some())[:3] == b"220"
        server.reload_tls()
        await stream.send_all(b"NOOP\r\n")
        assert (await stream.receive_some())[:3] == b"250"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "another key", "no key"])
async def test_certificate_stays_when_the_new_one_is_invalid(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path, NAME)
    server = Server(tls=TlsFiles(path))
    before = await handshake(server, NAME)
    certificate = path.read_text()
    match damage:
        case "missing":
            path.unlink()
        case "empty":
            path.write_text("")
        case "garbage":
            path.write_text(certificate.replace("M", "?"))
        case "another key":
            other = authority().issue_cert(NAME)
            path.write_bytes(other.private_key_pem.bytes() + authority().issue_cert(NAME).cert_chain_pems[0].bytes())
        case "no key":
            path.write_text(certificate[certificate.index("-----BEGIN CERT") :])
    with pytest.raises((OSError, ValueError), match=NAME) as caught:
        server.reload_tls()
    assert isinstance(caught.value, OSError) is (damage == "missing")
    assert await handshake(server, NAME) == before


async def test_other_files_and_contexts(tmp_path: Path) -> None:
    """`reload_tls` also takes new files, or a context."""
    server = Server(tls=TlsFiles(write(tmp_path, NAME)))
    server.reload_tls(TlsFiles(write(tmp_path, "other.test")))
    assert names_of(await handshake(server, "other.test")) == ["other.test"]
    server.reload_tls()
    assert names_of(await handshake(server, "other.test")) == ["other.test"]
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert("third.test").configure_cert(made)
    server.reload_tls(made)
    assert server.tls is made
    assert names_of(await handshake(server, "third.test")) == ["third.test"]
    with pytest.raises(ValueError, match="no files"):
        server.reload_tls()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: TlsFiles([]), TypeError, "certificates must be a list"),
        (lambda: TlsFiles(7), TypeError, "certificates must be a list"),
        (lambda: TlsFiles("x", minimum="1.1"), ValueError, 'minimum must be "1.2" or "1.3"'),  # type: ignore[arg-type]
        (lambda: TlsFiles("x", client_certificate="required"), ValueError, "client_ca must be given"),
        (lambda: TlsFiles("x", client_ca="y"), ValueError, "client_ca must be given"),
        (lambda: TlsFiles("x", client_certificate="optional", client_ca=b"y"), TypeError, "client_ca"),  # type: ignore[arg-type]
        (lambda: Server(tls=TlsFiles("/nowhere/x")), OSError, "/nowhere/x"),
        (lambda: Server().reload_tls(), ValueError, "no files"),
        (lambda: Server().reload_tls(ssl.create_default_context()), ValueError, "for a server"),
        (lambda: Server().reload_tls("cert.pem"), TypeError, "tls must be SSLContext or TlsFiles"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_invalid_arguments(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("content", ["", "garbage", None])
def test_invalid_authorities(tmp_path: Path, content: str | None) -> None:
    path = write(tmp_path, NAME)
    ca = tmp_path / "ca"
    if content is not None:
        ca.write_text(content)
    with pytest.raises((OSError, ValueError), match="ca"):
        TlsFiles(path, client_certificate="required", client_ca=ca).load()
