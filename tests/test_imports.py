"""The names that ``smtp_trio`` exports, and which modules are loaded when one of them is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import trustme

import smtp_trio
import smtp_trio.protocol.extensions
import smtp_trio.protocol.sasl

SCRIPT = """\
import sys, trio
before = set(sys.modules)
import smtp_trio
smtp_trio.{}
print(*set(sys.modules) - before)
"""
SESSION = """\
import ssl, sys, trio
from smtp_trio import Hooks, Reply, Server, TlsFiles, standard
from smtp_trio.protocol.extensions import Auth, BurlExtension

class Intake(Hooks):
    async def auth(self, session, credentials):
        return None
    async def secret(self, session, user, mechanism):
        return None
    async def burl(self, session, command):
        session.provide(b"Subject: x\\r\\n\\r\\n")
    async def data(self, session, body):
        await body.discard()

async def main():
    mechanisms = ("PLAIN", "SCRAM-SHA-256")
    networks = {"xclient_from": ["192.0.2.1"], "xforward_from": ["192.0.2.1"]}
    server = Server(
        Intake(), name="mx.test", tls=TlsFiles(sys.argv[1]), proxy_from=["127.0.0.1"], **networks,
        extensions=standard(Auth(mechanisms=mechanisms), BurlExtension()),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(server.serve, 0, "127.0.0.1")
        before = set(sys.modules)
        stream = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])

        async def command(line):
            if line:
                await stream.send_all(line + b"\\r\\n")
            octets = b""
            while not octets.endswith(b"\\r\\n") or octets.splitlines()[-1][3:4] != b" ":
                octets += await stream.receive_some()
            print(octets[:3].decode(), flush=True)

        await stream.send_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 25\\r\\n")
        for line in (b"", b"EHLO a", b"STARTTLS"):
            await command(line)
        stream = trio.SSLStream(stream, context)
        for line in (
            b"EHLO a",
            b"AUTH SCRAM-SHA-256 biwsbj1mcmVkLHI9YWJjZGVmZ2g=",
            b"Yz1iaXdzLHI9eCxwPWFiY2Q=",
            b"*",
            b"AUTH PLAIN AGZyZWQAc2VjcmV0",
            b"XFORWARD NAME=a.example",
            b"MAIL FROM:<a@a.example> SIZE=100",
            b"RCPT TO:<b@mx.test>",
            b"BURL imap://a/b",
            b"BDAT 0 LAST",
            b"MAIL FROM:<a@a.example>\\r\\nRCPT TO:<b@mx.test>",
            b"DATA",
            b"Subject: x\\r\\n.",
            b"XCLIENT ADDR=192.0.2.7",
            b"QUIT",
        ):
            await command(line)
        await server.stop()
    imported = {name for name in set(sys.modules) - before if name.startswith("smtp_trio")}
    assert not imported, imported

trio.run(main)
"""
COMPILED = """\
import re, sys
from smtp_trio import Server
for name, module in sys.modules.items():
    if name.startswith("smtp_trio."):
        print(*(key for key, value in vars(module).items() if isinstance(value, re.Pattern)), end=" ")
"""


PACKAGES = pytest.mark.parametrize(
    "package",
    [smtp_trio, smtp_trio.protocol, smtp_trio.protocol.extensions, smtp_trio.protocol.sasl],
    ids=lambda each: each.__name__,
)
PROTOCOL = Path(smtp_trio.__file__).parent / "protocol"
#: The modules of the extensions that a server has by default. The others are imported by those that use them.
STANDARD = {type(extension).__module__ for extension in smtp_trio.standard()}
OPTIONAL = {f"smtp_trio.protocol.extensions.{path.stem}" for path in (PROTOCOL / "extensions").glob("[a-z]*.py")} - {
    *STANDARD,
    "smtp_trio.protocol.extensions.defaults",
}
MECHANISMS = {f"smtp_trio.protocol.sasl.{path.stem}" for path in (PROTOCOL / "sasl").glob("[a-z]*.py")}


def loaded_by(name: str) -> set[str]:
    """Return the modules that the use of a public name loads, without those of Trio."""
    run = subprocess.run([sys.executable, "-c", SCRIPT.format(name)], check=True, capture_output=True, text=True)
    return set(run.stdout.split())


def test_server_loads_only_what_every_server_needs() -> None:
    """A program that serves mail starts quickly: what depends on settings or clients is loaded when it is needed."""
    loaded = loaded_by("Server")
    ours = {name for name in loaded if name.partition(".")[0] == "smtp_trio"}
    # Trio loads ipaddress as well, except with Python 3.13.
    assert loaded - ours <= {"datetime", "_datetime", "ipaddress"}
    assert loaded >= STANDARD
    assert not ours & OPTIONAL
    assert not ours & MECHANISMS
    assert not ours & {
        "smtp_trio._server.handshake",
        "smtp_trio._server.measurements",
        "smtp_trio._server.tls_files",
        "smtp_trio.protocol.client",
        "smtp_trio.protocol.proxy_header",
    }
    assert {".".join(name.split(".")[:2]) for name in ours} == {
        "smtp_trio",
        "smtp_trio._groups",
        "smtp_trio._instrument",
        "smtp_trio._server",
        "smtp_trio._timeouts",
        "smtp_trio._types",
        "smtp_trio._wire",
        "smtp_trio.protocol",
    }


def test_server_compiles_no_regular_expression_that_it_may_not_need() -> None:
    """`lazy_pattern` makes those that a message needs, and the expression for status codes is needed for every `Reply`."""
    run = subprocess.run([sys.executable, "-c", COMPILED], check=True, capture_output=True, text=True)
    assert run.stdout.split() == ["STATUS"]


@pytest.mark.slow
def test_session_imports_nothing(tmp_path: Path) -> None:
    """What the settings of a server need is imported when it is made: later there may be no file descriptor for it."""
    certificate = tmp_path / "certificate.pem"
    trustme.CA().issue_cert("mx.test").private_key_and_cert_chain_pem.write_to_path(certificate)
    command = [sys.executable, "-c", SESSION, str(certificate)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert run.stdout.split() == [
        *("220", "250", "220", "250", "334", "334", "501", "235", "250", "250", "250"),
        *("250", "250", "250", "354", "250", "220", "221"),
    ]


def test_client_does_not_load_the_server_nor_a_parser_of_messages() -> None:
    assert not loaded_by("connect") & {"email.policy", "email.generator", "json", "smtp_trio._server.server"}


@PACKAGES
def test_type_checkers_see_the_names_of_the_lazy_table(package: ModuleType) -> None:
    """The imports under ``if TYPE_CHECKING`` and ``_MODULES`` list the same names, from the same modules."""
    [block] = [
        node
        for node in ast.parse(Path(str(package.__file__)).read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        assert node.level == 1
        # A type checker takes a name as exported only if it is imported as itself.
        assert [alias.name for alias in node.names] == [alias.asname for alias in node.names]
        seen[node.module] = " ".join(alias.name for alias in node.names)
    assert seen == package._MODULES


@PACKAGES
def test_every_public_name_can_be_imported(package: ModuleType) -> None:
    assert [name for name in package.__all__ if not hasattr(package, name)] == []
    assert set(package.__all__) <= set(dir(package))


def test_misspelt_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'smtp_trio' has no attribute 'Sevrer'"):
        getattr(smtp_trio, "Sevrer")  # noqa: B009
