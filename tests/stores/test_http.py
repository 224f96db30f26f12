"""Messages that are pushed to an application: the request, what each response means for the client, and failures.

The application is a task of the test that parses requests with h11, or sends octets that are not HTTP. The programs in
examples/ and nginx are tested as applications elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import re
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import blocks
import h11
import pytest
import trio
import trustme
from attrs import Factory, define
from ports import free_port
from standardwebhooks import Webhook as Verifier, WebhookVerificationError
from trio.testing import wait_all_tasks_blocked

import smtp_trio
from smtp_trio import stores
from smtp_trio.stores import (
    MessageRejectedError,
    MessageTooBigError,
    NotSupportedError,
    StoreError,
    StoreFullError,
    http as module,
)
from smtp_trio.stores.http import Webhook

from .sessions import body, envelope, large, transaction
from .test_cancel import CancelAt
from .test_server import connected

if TYPE_CHECKING:
    from smtp_trio import Session

HOST = "127.0.0.1"
MESSAGE = b"Subject: caf\xe9\r\n\r\n.\r\n\x00\xff\r\n"
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(24)).decode()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@define
class Request:
    """A request that the application has received."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def parts(self) -> tuple[str, bytes]:
        """The envelope as it was sent, and the message."""
        boundary = self.headers["content-type"].removeprefix("multipart/form-data; boundary=")
        before, first, second, after = self.body.split(f"--{boundary}".encode())
        assert (before, after) == (b"", b"--\r\n")
        heads = [part.partition(b"\r\n\r\n")[0].decode().strip().split("\r\n") for part in (first, second)]
        assert heads == [
            ['Content-Disposition: form-data; name="envelope"', "Content-Type: application/json"],
            [
                f'Content-Disposition: form-data; name="message"; filename="{self.headers["webhook-id"]}.eml"',
                "Content-Type: message/rfc822",
            ],
        ]
        sent, message = (part.partition(b"\r\n\r\n")[2] for part in (first, second))
        return sent.removesuffix(b"\r\n").decode(), message.removesuffix(b"\r\n")


#: Sends the response to a request; the argument is the stream.
Respond = Callable[[trio.abc.Stream], Any]


@define
class Application:
    """A web server for one test. It sends ``response`` after each request, or calls it."""

    response: bytes | Respond = OK
    context: ssl.SSLContext | None = None
    requests: list[Request] = Factory(list)
    connections: int = 0
    active: int = 0
    most_active: int = 0
    port: int = 0
    at_once: bool = False
    """Respond to a POST before its body is read."""

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://{'localhost' if self.context else HOST}:{self.port}/mail"

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve a connection."""
        self.connections += 1
        if self.context is not None:
            stream = trio.SSLStream(stream, self.context, server_side=True, https_compatible=True)
        async with stream:
            try:
                while (request := await self.receive(stream)) is not None:
                    self.active += 1
                    self.most_active = max(self.most_active, self.active)
                    try:
                        if request.method == "POST":
                            self.requests.append(request)
                        if callable(self.response):
                            await self.response(stream)
                        else:
                            await stream.send_all(OK if request.method == "OPTIONS" else self.response)
                    finally:
                        self.active -= 1
                    if self.at_once:
                        return
            except (trio.BrokenResourceError, h11.RemoteProtocolError):
                pass  # the client has closed the connection

    async def receive(self, stream: trio.abc.Stream) -> Request | None:
        """Receive a request; None at the end of the connection."""
        connection = h11.Connection(h11.SERVER)
        head: h11.Request | None = None
        octets = bytearray()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some()))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                octets += event.data
            elif isinstance(event, h11.ConnectionClosed):
                return None
            if head is not None and (isinstance(event, h11.EndOfMessage) or (self.at_once and head.method == b"POST")):
                headers = {name.decode(): value.decode() for name, value in head.headers}
                return Request(head.method.decode(), head.target.decode(), headers, bytes(octets))


@asynccontextmanager
async def serving(**options: Any) -> AsyncGenerator[Application]:
    """Run an application."""
    application = Application(**options)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, application.serve, 0, host=HOST))
        application.port = listeners[0].socket.getsockname()[1]
        yield application
        nursery.cancel_scope.cancel()


async def push(store: Webhook, *octets: bytes, session: Session | None = None) -> str:
    """Push a message, and return its id."""
    return await store.put(session or transaction(), body(*octets or (MESSAGE,)))


def open_files(directory: Path) -> list[str]:
    """Return the open files of this process in a directory, also those that have no name."""
    paths = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the directory itself
            paths.append(os.readlink(f"/proc/self/fd/{number}"))
    return [path for path in paths if path.startswith(str(directory))]


# --- the request


@pytest.mark.parametrize("size", [0, 100, 1 << 18, 5 << 19], ids=["empty", "small", "in memory", "in a file"])
async def test_request_has_the_envelope_and_the_octets_of_the_message(size: int) -> None:
    message = b"".join(large(size)) or MESSAGE * (size // 100)
    session = transaction("jürgen@client.test", "you@mx.test", "用户@例子.test")
    async with serving() as application, Webhook(application.url + "?a=1") as store:
        name = await store.put(session, body(*(message[i : i + 65536] for i in range(0, len(message), 65536))))
    [request] = application.requests
    assert (request.method, request.target) == ("POST", "/mail?a=1")
    assert request.headers["host"] == f"{HOST}:{application.port}"
    assert request.headers["content-length"] == str(len(request.body))
    assert request.headers["webhook-id"] == name == envelope(session).id
    assert "webhook-signature" not in request.headers
    sent, stored = request.parts
    assert stored == message
    assert sent.isascii()
    assert json.loads(sent) == {
        "version": 1,
        "id": name,
        "received_at": "2026-11-22T09:23:26.004711+00:00",
        "sender": "jürgen@client.test",
        "mail_params": "",
        "recipients": [{"address": "you@mx.test", "params": ""}, {"address": "用户@例子.test", "params": ""}],
        "peer": "192.0.2.1",
        "helo": "client.test",
        "protocol": "ESMTP",
        "tls": None,
        "auth": None,
        "size": len(message),
        "sha256": hashlib.sha256(message).hexdigest(),
    }


async def test_a_thousand_recipients() -> None:
    names = [f"{'x' * 60}{n}@mx.test" for n in range(1000)]
    async with serving() as application, Webhook(application.url) as store:
        await push(store, session=transaction("", *names))
    sent = json.loads(application.requests[0].parts[0])
    assert [recipient["address"] for recipient in sent["recipients"]] == names
    assert sent["sender"] == ""


@pytest.mark.parametrize("message", [b"Subject: \xc3\xa9\r\n\r\nhi\r\n", b"x" * 100_000, b"y" * 1_500_000])
async def test_signatures_of_the_body_and_of_the_envelope_match(message: bytes) -> None:
    async with serving() as application, Webhook(application.url, secret=f"{SECRET} {OTHER_SECRET}") as store:
        await push(store, message)
    [request] = application.requests
    sent, _ = request.parts
    for secret in (SECRET, OTHER_SECRET):
        assert Verifier(secret).verify(request.body, request.headers, json_parse=False) is None
        assert Verifier(secret).verify(sent, request.headers)["sha256"] == hashlib.sha256(message).hexdigest()
        for changed in (request.body + b" ", sent.encode() + b" "):
            with pytest.raises(WebhookVerificationError, match="No matching signature"):
                Verifier(secret).verify(changed, request.headers)
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Verifier("whsec_" + base64.b64encode(b"z" * 32).decode()).verify(request.body, request.headers)


async def test_django_view_of_the_page_on_webhooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Django parses the request, and the view stores the octets of the message unless the signature is of another secret."""
    conf = pytest.importorskip("django.conf")
    factory = pytest.importorskip("django.test").RequestFactory()
    if not conf.settings.configured:
        conf.settings.configure()
    [block] = [block for block in blocks.PYTHON if block.page == "webhooks" and "django" in block.source]
    view = block.run()["mail"]
    messages = [MESSAGE, b"".join(large(3 << 20))]
    async with serving() as application, Webhook(application.url, secret=SECRET) as store:
        names = [await push(store, message) for message in messages]
    monkeypatch.chdir(tmp_path)
    for secret, status in ((OTHER_SECRET, 503), (SECRET, 200)):
        monkeypatch.setenv("SMTP_TRIO_WEBHOOK_SECRET", secret)
        assert os.listdir() == []
        for request in application.requests:
            fields = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request.headers.items()}
            arguments = {"data": request.body, "content_type": request.headers["content-type"], **fields}
            with closing(factory.post("/mail", **arguments)) as parsed:
                assert view(parsed).status_code == status
    assert view(factory.options("/mail")).status_code == 204
    assert [
        (tmp_path / f"{name}.eml").read_bytes() == message for name, message in zip(names, messages, strict=True)
    ] == [
        True,
        True,
    ]


async def test_message_that_no_session_receives() -> None:
    async with serving() as application, Webhook(application.url) as store:
        name = await store.add(MESSAGE, "", ["you@mx.test"], rcpt_params=["NOTIFY=NEVER"])
    sent, message = application.requests[0].parts
    assert message == MESSAGE
    assert json.loads(sent)["recipients"] == [{"address": "you@mx.test", "params": "NOTIFY=NEVER"}]
    assert application.requests[0].headers["webhook-id"] == name


async def test_credentials_are_sent_and_not_shown() -> None:
    async with serving() as application:
        url = application.url.replace("//", "//us%40er:p%3A%C3%A9w@")
        async with Webhook(url + "?token=hush") as store:
            await push(store)
    [request] = application.requests
    assert request.headers["authorization"] == "Basic " + base64.b64encode("us@er:p:éw".encode()).decode()
    assert request.target == "/mail?token=hush"
    assert store.url == f"http://us@er@{HOST}:{application.port}/mail?..."
    assert repr(store) == f"Webhook({store.url!r})"


# --- the response


@pytest.mark.parametrize(
    ("statuses", "reply"),
    [
        ((200, 201, 202, 204, 299), None),
        ((300, 301, 302, 303, 304, 307, 308), (451, "4.3.0")),
        ((400, 401, 403, 404, 405, 410, 411, 422, 499), (550, "5.7.1")),
        ((408, 429, 500, 502, 503, 504, 507, 599, 600, 999), (451, "4.3.0")),
        ((413,), (552, "5.3.4")),
    ],
)
async def test_status_decides_about_the_reply(statuses: Sequence[int], reply: tuple[int, str] | None) -> None:
    async with serving() as application, Webhook(application.url) as store:
        for status in statuses:
            fields = b"Location: /elsewhere\r\nContent-Length: 0\r\n"
            application.response = b"HTTP/1.1 %d X\r\n%s\r\n" % (status, b"" if status == 204 else fields)
            if reply is None:
                await push(store)
                continue
            with pytest.raises(StoreError, match=f"HTTP status {status}") as caught:
                await push(store)
            assert (caught.value.reply.code, caught.value.reply.status) == reply
            assert caught.value.reply.text.isascii()
    assert len(application.requests) == len(statuses)  # no redirect was followed


@pytest.mark.parametrize(
    ("fields", "text", "expected"),
    [
        ("Content-Type: text/plain", b"No such user", "No such user"),
        ("Content-Type: text/Plain; charset=utf-8", b" No such user\r\n", "No such user"),
        ("Content-Type: text/html", b"<p>no</p>", None),
        ("X-None: x", b"No such user", None),
        ("Content-Type: text/plain", b"", None),
        ("Content-Type: text/plain", b"one\r\n250 two", None),
        ("Content-Type: text/plain", "größe".encode(), None),
        ("Content-Type: text/plain", b"\x1b[31m", None),
        ("Content-Type: text/plain", b"x" * 201, None),
        ("Content-Type: text/plain\r\nContent-Encoding: gzip", b"\x1f\x8b\x08", None),
    ],
)
async def test_text_of_a_refusal(fields: str, text: bytes, expected: str | None) -> None:
    response = f"HTTP/1.1 403 Forbidden\r\n{fields}\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text
    async with serving(response=response) as application, Webhook(application.url) as store:
        with pytest.raises(MessageRejectedError) as caught:
            await push(store)
    assert caught.value.reply.text == (expected or "The application refused the message")
    assert MessageRejectedError.reply.text == "The application refused the message"


async def test_informational_responses_are_skipped() -> None:
    response = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK
    async with serving(response=response) as application, Webhook(application.url) as store:
        await push(store)


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: mail\r\n\r\n",
        b"220 mx.test ESMTP\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000,
    ],
    ids=["nothing", "half", "101", "SMTP", "TLS", "long header"],
)
async def test_response_that_is_not_http(response: bytes) -> None:
    async def respond(stream: trio.abc.Stream) -> None:
        await stream.send_all(response)
        await stream.aclose()
        raise trio.BrokenResourceError

    async with serving(response=respond) as application:
        store = Webhook(application.url)
        with pytest.raises(StoreError) as caught:
            await push(store)
        assert caught.value.reply.code == 451
        with pytest.raises(StoreError):
            await store.open()  # closes its connections
        application.response = OK
        await push(store)
        await store.aclose()


@pytest.mark.parametrize("status", [200, 403])
@pytest.mark.parametrize("kind", ["endless", "incomplete", "slow"])
async def test_status_counts_whatever_follows(status: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESPONSE_TIMEOUT", 0.05 if kind == "slow" else 1000)

    async def respond(stream: trio.abc.Stream) -> None:
        fields = b"Content-Type: text/plain\r\nContent-Length: 1000000000"
        await stream.send_all(b"HTTP/1.1 %d X\r\n%s\r\n\r\nab" % (status, fields))
        while kind == "endless":
            await stream.send_all(b"x" * 65536)
        if kind == "slow":
            await stream.receive_some()  # until the connection is closed
        await stream.aclose()
        raise trio.BrokenResourceError

    async with serving(response=respond) as application:
        store = Webhook(application.url)
        for _ in range(2):
            if status == 200:
                await push(store)
            else:
                with pytest.raises(MessageRejectedError) as caught:
                    await push(store)
                assert caught.value.reply == MessageRejectedError.reply
        assert application.connections == 2  # neither could be used again
        await store.aclose()


@pytest.mark.parametrize(("status", "error"), [(413, MessageTooBigError), (200, StoreError)])
async def test_response_before_the_message_was_sent(status: int, error: type[StoreError]) -> None:
    """A 413 counts. A 200 does not, since the application cannot have read the message."""
    response = b"HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % status
    async with serving(response=response, at_once=True) as application, Webhook(application.url) as store:
        with pytest.raises(StoreError) as caught:
            await store.put(transaction(), body(chunks=large(8 << 20)))
    # The reset of the connection may have overtaken the response.
    assert type(caught.value) in (error, StoreError)


@pytest.mark.parametrize("endless", [False, True])
async def test_timeout(endless: bool) -> None:
    async def respond(stream: trio.abc.Stream) -> None:
        while endless:
            await stream.send_all(b"HTTP/1.1 102 Processing\r\n\r\n")
            await trio.lowlevel.checkpoint()
        await stream.receive_some()

    async with serving(response=respond) as application:
        store = Webhook(application.url, timeout=0.2)
        with pytest.raises(StoreError, match=r"no response within 0\.2 seconds") as caught:
            await push(store)
        assert caught.value.reply.code == 451
        await store.aclose()


# --- connections


async def test_connection_is_used_again() -> None:
    async with serving() as application, Webhook(application.url) as store:
        for _ in range(3):
            await push(store)
    assert (len(application.requests), application.connections) == (3, 1)


async def test_number_of_requests_at_a_time() -> None:
    async def respond(stream: trio.abc.Stream) -> None:
        while application.active < 2 and len(application.requests) < 7:
            await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked(0.01)
        await stream.send_all(OK)

    async with serving(response=respond) as application:
        store = Webhook(application.url, max_requests=2)
        async with trio.open_nursery() as nursery:
            for _ in range(7):
                nursery.start_soon(push, store)
        await store.aclose()
    assert len(application.requests) == 7
    assert application.most_active == 2


async def test_unreachable_application() -> None:
    store = Webhook(f"http://{HOST}:{free_port()}/mail")
    for use in (store.open, partial(push, store)):
        with pytest.raises(StoreError, match="Webhook"):
            await use()
    with pytest.RaisesGroup(StoreError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(smtp_trio.Server(store).serve, 0, HOST))
    await store.aclose()


async def test_certificate_is_verified() -> None:
    authority, other = trustme.CA(), trustme.CA()
    contexts = [ssl.create_default_context(purpose) for purpose in (ssl.Purpose.CLIENT_AUTH, ssl.Purpose.SERVER_AUTH)]
    server, client = contexts
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    async with serving(context=server) as application:
        async with Webhook(application.url, ssl_context=client) as store:
            await push(store)
        assert len(application.requests) == 1
        stranger = ssl.create_default_context()
        other.configure_trust(stranger)
        for url, context in (
            (application.url, None),
            (application.url, stranger),
            (application.url.replace("localhost", HOST), client),
        ):
            with pytest.raises(StoreError, match="certificate verify failed"):
                await push(Webhook(url, ssl_context=context))
    assert len(application.requests) == 1


# --- cancellation and files


async def test_cancelled_message_is_not_acknowledged() -> None:
    arrived = trio.Event()

    async def respond(stream: trio.abc.Stream) -> None:
        arrived.set()
        assert await stream.receive_some() == b""
        raise trio.BrokenResourceError

    async with serving(response=respond) as application:
        store = Webhook(application.url, max_requests=1)
        acknowledged = False
        async with trio.open_nursery() as nursery:

            async def put() -> None:
                nonlocal acknowledged
                await store.put(transaction(), body(chunks=large()))
                acknowledged = True

            nursery.start_soon(put)
            await arrived.wait()
            nursery.cancel_scope.cancel()
        assert not acknowledged
        application.response = OK
        await push(store)
        await store.aclose()


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param((MESSAGE,), id="in memory"),
        pytest.param(tuple(large(3 << 19)), id="in a file", marks=pytest.mark.exhaustive),
    ],
)
async def test_cancel_at_every_step(chunks: tuple[bytes, ...], tmp_path: Path) -> None:
    """A message that was acknowledged has been received, and the next one can be pushed."""
    async with serving() as application, Webhook(application.url, max_requests=1, spool_directory=tmp_path) as store:
        await push(store)
        for k in range(1, 1000):
            application.requests.clear()
            instrument = CancelAt(k, trio.CancelScope())
            trio.lowlevel.add_instrument(instrument)
            name = None
            with instrument.scope:
                instrument.observe_current_task()
                name = await push(store, *chunks)
            trio.lowlevel.remove_instrument(instrument)
            if name is not None:
                # The application may only now have read what was sent before the last cancellation.
                [request] = [each for each in application.requests if each.headers["webhook-id"] == name]
                assert request.parts[1] == b"".join(chunks)
            if instrument.k > 0:
                break
        assert name is not None
        assert k > 10
        await push(store)
        assert open_files(tmp_path) == []


async def test_body_that_ends_early_is_not_pushed() -> None:
    async with serving() as application, Webhook(application.url) as store:
        with pytest.raises(ValueError, match="interrupted"):
            await store.put(transaction(), body(chunks=large(), error=ValueError("interrupted")))
    assert application.requests == []


async def test_temporary_directory_that_is_missing(tmp_path: Path) -> None:
    async with serving() as application, Webhook(application.url, spool_directory=tmp_path / "missing") as store:
        await push(store)
        with pytest.raises(StoreError, match="No such file"):
            await store.put(transaction(), body(chunks=large()))
    assert len(application.requests) == 1


async def test_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*, dir: str | None) -> Any:
        return open("/dev/full", "w+b", buffering=0)

    monkeypatch.setattr("smtp_trio.stores.http.tempfile.TemporaryFile", full)
    async with serving() as application, Webhook(application.url) as store:
        with pytest.raises(StoreFullError):
            await store.put(transaction(), body(chunks=large()))
    assert application.requests == []


# --- as hooks


async def test_replies_and_log_of_a_server(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "smtp_trio.stores")
    async with serving() as application:
        store = Webhook(application.url)
        async with connected(smtp_trio.Server(store, name="mx.test")) as client:
            reply = await client.send("<me@client.test>", ["you@mx.test"], b"Subject: hi\r\n\r\nhello\r\n")
            assert application.requests[0].headers["webhook-id"] in reply
            for status, code in (
                (403, "550 5.7.1"),
                (413, "552 5.3.4"),
                (500, "451 4.3.0"),
                (503, "451"),
                (504, "451"),
                (200, "250"),
            ):
                application.response = b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status
                await client.send("<me@client.test>", ["you@mx.test"], b"Subject: hi\r\n\r\nhello\r\n", expect=code)
    records = [(vars(record)["event"], record.levelname, record.getMessage()) for record in caplog.records]
    assert [(*record[:2], *re.findall(r"status (\d+)", record[2])) for record in records] == [
        ("not_stored", "INFO", "403"),
        ("not_stored", "INFO", "413"),
        ("not_stored", "ERROR", "500"),
        ("store_interrupted", "ERROR", "503"),
        ("store_resumed", "INFO"),
    ]


async def test_store_cannot_be_read() -> None:
    store = Webhook("http://localhost/")
    with pytest.raises(NotSupportedError, match="cannot be read"):
        await store.get("x")
    with pytest.raises(NotSupportedError, match="cannot remove"):
        await store.remove(["x"])
    with pytest.raises(NotSupportedError, match="cannot be read"):
        async with aclosing(store.entries()):
            pass
    with pytest.raises(NotSupportedError, match="cannot be consumed"):
        await anext(aiter(store.consume()))


# --- URLs


async def test_options_of_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret file"
    file.write_text(f"{SECRET}\n")
    monkeypatch.setenv("SMTP_TRIO_WEBHOOK_SECRET", OTHER_SECRET)
    async with serving() as application:
        for options, secret in (
            ("", OTHER_SECRET),
            ("#timeout=20&max-requests=3", OTHER_SECRET),
            (f"#secret-file={file}&spool-directory={tmp_path}", SECRET),
        ):
            store = stores.open(application.url + options)
            assert isinstance(store, Webhook)
            async with store:
                await push(store)
            assert store.url == application.url
            request = application.requests.pop()
            assert request.target == "/mail"
            Verifier(secret).verify(request.parts[0], request.headers)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http:", "got 'http:'"),
        ("http:///mail", "must be http://HOST/PATH"),
        ("https://host:port/", "the URL of a webhook is invalid"),
        ("https://host/#timeout=soon", "timeout in the URL: must be a number, got 'soon'"),
        ("https://host/#timeout=-1", "timeout must be >= 0"),
        ("https://host/#max-requests=0", "max_requests must be >= 1"),
        (
            "https://host/#retries=1",
            "must be one of timeout, max-requests, spool-directory, secret-file, got 'retries'",
        ),
        ("https://host/#x", "bad query field"),
        (
            "https://host/#secret-file=/does/not/exist",
            "secret-file in the URL: cannot read '/does/not/exist': No such file",
        ),
    ],
)
def test_invalid_url(url: str, error: str) -> None:
    with pytest.raises(ValueError, match=re.escape(error)):
        stores.open(url)


@pytest.mark.parametrize(
    "url", ["https://user:hush/2@host/", "https://user:hush?2@host/", "postgresql:user:hush@host/mail"]
)
def test_invalid_url_does_not_show_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        stores.open(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "secret", ["hush", "whsec_", "whsec_aHVzaA==", "whsec_" + "aHVzaA" * 100, f"{SECRET},{SECRET}"]
)
def test_invalid_secret_is_not_shown(secret: str) -> None:
    with pytest.raises(ValueError, match=r"^a secret must be whsec_ and the base64 of 24 to 64 octets$"):
        Webhook("https://host/", secret=secret)
