"""nginx as a mail proxy in front of the server: it sends XCLIENT, and the PROXY header before it.

nginx checks the password of a client itself, by a request to a web server, and hands the session over after the first RCPT.
"""

from __future__ import annotations

import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from ports import free_port

import smtp_trio
from smtp_trio import Hooks, Server, Session

from .conftest import require
from .programs import PASSWORD, PATH, USER
from .servers import POLL
from .setups import ADDRESS

pytestmark = pytest.mark.interop

MODULE = Path("/usr/lib/nginx/modules/ngx_mail_module.so")
MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"
CLIENT, PROBE = "127.0.0.2", "127.0.0.3"
NGINX = """\
load_module {module};
daemon off;
master_process off;
user root;
pid {directory}/nginx.pid;
error_log stderr info;
events {{}}
mail {{
    server_name proxy.example.net;
    auth_http {address}:{logins}/;
    server {{
        listen {address}:{front};
        protocol smtp;
        smtp_auth {auth};
        xclient {xclient};
        proxy_protocol {proxy};
    }}
}}
"""


class Recorder(Hooks):
    """Accepts everything, and records sessions and messages."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.messages: list[bytes] = []

    async def data(self, session: Session, body: smtp_trio.Body) -> None:
        self.sessions.append(session)
        self.messages.append(await body.read())


async def answer(back: int, stream: trio.SocketStream) -> None:
    """Answer a request of nginx: the login is accepted, and the server is at the port ``back``."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += await stream.receive_some()
    fields = f"Auth-Status: OK\r\nAuth-Server: {ADDRESS}\r\nAuth-Port: {back}\r\n"
    await stream.send_all(f"HTTP/1.0 200 OK\r\n{fields}\r\n".encode())
    await stream.aclose()


@asynccontextmanager
async def nginx(directory: Path, back: int, **options: str) -> AsyncGenerator[int]:
    """Run nginx in front of the port ``back``; yield its port."""
    require("nginx")
    require("test", "-e", str(MODULE))
    front, log = free_port(), directory / "nginx.log"
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, partial(answer, back), 0, host=ADDRESS))
        logins = listeners[0].socket.getsockname()[1]
        config = directory / "nginx.conf"
        text = {"auth": "none", "xclient": "off", "proxy": "off"} | options
        config.write_text(
            NGINX.format(module=MODULE, directory=directory, address=ADDRESS, logins=logins, front=front, **text)
        )
        command = ["nginx", "-e", "stderr", "-p", str(directory), "-c", str(config)]
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, env={"PATH": PATH})
        try:
            while not await listens(front):
                assert process.poll() is None, log.read_text()
                await trio.sleep(POLL)
            yield front
        finally:
            process.kill()
            process.wait()
            print(log.read_text())
        nursery.cancel_scope.cancel()


async def listens(port: int) -> bool:
    try:
        stream = await trio.open_tcp_stream(ADDRESS, port, local_address=PROBE)
    except OSError:
        return False
    await stream.aclose()
    return True


async def session_behind(directory: Path, *, login: bool, options: dict[str, str], **settings: Any) -> Session:
    """Send a message through nginx from the address CLIENT; return the session in which it arrives."""
    hooks = Recorder()
    server = Server(hooks, name="mx.example.org", **settings)
    auth: dict[str, Any] = {"auth": (USER, PASSWORD), "allow_cleartext": True} if login else {}
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(server.serve, 0, ADDRESS))
            back = listeners[0].socket.getsockname()[1]
            async with nginx(directory, back, **options, auth="plain" if login else "none") as front:
                connect = partial(smtp_trio.connect, ADDRESS, front, tls="never", local_address=CLIENT, timeout=60)
                async with connect(name="client.example.net", **auth) as client:
                    await client.send("ada@example.net", ["bo@example.org", "cy@example.org"], MESSAGE)
            await server.stop()
    assert hooks.messages == [MESSAGE]
    return hooks.sessions[0]


@pytest.mark.parametrize("login", [False, True], ids=["no login", "login"])
async def test_nginx_sends_xclient(login: bool, tmp_path: Path) -> None:
    session = await session_behind(tmp_path, login=login, options={"xclient": "on"}, xclient_from=[ADDRESS])
    assert (session.peer.host, session.connection_peer.host) == (CLIENT, ADDRESS)
    assert session.user == (USER if login else None)
    assert session.hello is not None
    assert session.hello.domain == "client.example.net"
    assert f"from client.example.net (unknown [{CLIENT}])".encode() in session.received()


async def test_nginx_sends_a_proxy_header(tmp_path: Path) -> None:
    session = await session_behind(tmp_path, login=False, options={"proxy": "on"}, proxy_from=[ADDRESS])
    assert (session.peer.host, session.connection_peer.host) == (CLIENT, ADDRESS)
    assert session.proxy_header is not None
    assert session.proxy_header.version == 1
    assert session.local.host == ADDRESS


async def test_nginx_sends_both(tmp_path: Path) -> None:
    """Both name the client, so the login comes from the one and the address from either."""
    options = {"proxy": "on", "xclient": "on"}
    session = await session_behind(
        tmp_path, login=True, options=options, proxy_from=[ADDRESS], xclient_from=[ADDRESS, CLIENT]
    )
    assert (session.peer.host, session.connection_peer.host, session.user) == (CLIENT, ADDRESS, USER)


async def test_nginx_without_xclient(tmp_path: Path) -> None:
    session = await session_behind(tmp_path, login=False, options={}, xclient_from=[ADDRESS])
    assert (session.peer.host, session.connection_peer.host) == (ADDRESS, ADDRESS)
