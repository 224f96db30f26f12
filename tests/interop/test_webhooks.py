"""nginx in front of an application that messages are pushed to: its limit, its redirects, and its own errors."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from ports import free_port
from processes import running

from smtp_trio import ReplyError
from smtp_trio.stores import StoreError
from smtp_trio.stores.http import Webhook
from smtp_trio.testing import open_memory_server

from .conftest import require
from .programs import PATH
from .servers import POLL

pytestmark = pytest.mark.interop

HOST = "127.0.0.1"
EXAMPLE = Path(__file__).parents[2] / "examples" / "webhook.py"
NGINX = """\
daemon off;
master_process off;
user root;
pid {directory}/nginx.pid;
error_log stderr info;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen {host}:{front};
        client_max_body_size 3m;
        location /mail {{ proxy_pass http://{host}:{back}; }}
        location /moved {{ return 301 http://{host}:{front}/mail; }}
        location /down {{ proxy_pass http://{host}:1; }}
        location /limited {{ if ($request_method = POST) {{ return 429; }} }}
        location /denied {{ if ($request_method = POST) {{ return 403; }} }}
        location /dropped {{ if ($request_method = POST) {{ return 444; }} }}
    }}
}}
"""


@asynccontextmanager
async def application(directory: Path) -> AsyncGenerator[str]:
    """Run the application of examples/webhook.py and nginx in front of it; yield the URL of nginx."""
    require("nginx")
    front = free_port()
    async with running(str(EXAMPLE), str(directory / "received"), "0", cwd=directory) as program:
        back = (await program.out.wait_for(r"listening on port (\d+)"))[1]
        config = directory / "nginx.conf"
        config.write_text(NGINX.format(directory=directory, host=HOST, front=front, back=back))
        with (directory / "nginx.log").open("wb") as log:
            command = ["nginx", "-e", "stderr", "-p", str(directory), "-c", str(config)]
            process = subprocess.Popen(command, stdout=log, stderr=log, env={"PATH": PATH})
        try:
            while True:
                assert process.poll() is None, (directory / "nginx.log").read_text()
                try:
                    stream = await trio.open_tcp_stream(HOST, front)
                except OSError:
                    await trio.sleep(POLL)
                else:
                    await stream.aclose()
                    break
            yield f"http://{HOST}:{front}"
        finally:
            process.kill()
            process.wait()


async def send(url: str, size: int, recipient: str = "you@example.org") -> str:
    """Send a message of about this size to a server that pushes it to the URL, and return the reply."""
    message = b"Subject: hi\r\n\r\n" + (b"x" * 70 + b"\r\n") * (size // 72)
    async with open_memory_server(Webhook(url), token=os.urandom) as server, server.client() as client:
        try:
            result = await client.send("me@example.net", [recipient], message)
        except ReplyError as error:
            return str(error)
        return str(result.accepted[0].reply)


async def test_nginx_in_front_of_an_application(tmp_path: Path) -> None:
    async with application(tmp_path) as url:
        for path, size, reply in (
            ("/mail", 100, "250"),
            ("/mail", 2_900_000, "250"),
            ("/mail", 3_200_000, "552 5.3.4"),
            ("/mail", 20_000_000, "552 5.3.4"),
            ("/moved", 100, "451 4.3.0"),
            ("/limited", 100, "451 4.3.0"),
            ("/denied", 2_000_000, "550 5.7.1"),
            ("/dropped", 2_000_000, "451 4.3.0"),
        ):
            assert reply in await send(url + path, size), (path, size)
        assert "550 5.7.1 No such user" in await send(f"{url}/mail", 100, "nobody@example.org")
        with pytest.raises(StoreError, match="HTTP status 502"):
            await Webhook(f"{url}/down").open()
    assert len(list((tmp_path / "received").glob("*.eml"))) == 2
