"""Spans of sessions and messages, recorded with the SDK of OpenTelemetry."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import trio
from helpers import MESSAGE, NAME, connect_tcp, connected, listening, server_tls
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from trio.testing import MockClock

from smtp_trio import Body, Hooks, Reply, Server, Session
from smtp_trio.protocol import Mail, Rcpt
from smtp_trio.stores import Memory, parse_stored_params
from smtp_trio.tracing import Tracing


class Recorded:
    """A tracer, and the spans that have ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = provider.get_tracer("test")

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def server(self, hooks: Hooks) -> Server:
        return Server(Tracing(hooks, tracer=self.tracer), name=NAME)


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def span_id(span: ReadableSpan) -> int:
    found: int = span.context.span_id
    return found


async def test_a_session_and_its_messages_have_spans(recorded: Recorded) -> None:
    async with Memory() as store:
        async with connected(recorded.server(store)) as client:
            await client.hello()
            await client.deliver()
            await client.deliver()
            await client.quit()
        stored = [entry.id async for entry in store.entries()]

    session = recorded.one("SMTP session")
    messages = recorded.named("SMTP message")
    assert session.kind is trace.SpanKind.SERVER
    assert session.parent is None
    assert attributes(session) == {
        "network.protocol.name": "smtp",
        "network.transport": "tcp",
        "client.address": "memory",
        "server.address": NAME,
        "smtp.hello": "client.test",
    }
    assert [parent(message) for message in messages] == [span_id(session)] * 2
    assert [attributes(message) for message in messages] == [
        {
            "messaging.system": "smtp",
            "messaging.operation.name": "receive",
            "messaging.message.id": name,
            "messaging.message.envelope.size": len(MESSAGE),
            "smtp.recipients": 1,
            "smtp.reply.code": 250,
        }
        for name in stored
    ]


async def test_the_entry_of_a_message_has_its_trace_context(recorded: Recorded) -> None:
    async with Memory() as store:
        async with connected(recorded.server(store)) as client:
            await client.hello()
            await client.command("MAIL FROM:<me@example.net> SIZE=10", "250")
            await client.command("RCPT TO:<you@example.org>", "250")
            await client.command("DATA", "354")
            await client.send(MESSAGE + b".\r\n")
            await client.expect("250")
            await client.quit()
        (entry,) = [entry async for entry in store.entries()]
    context = recorded.one("SMTP message").context
    assert entry.traceparent == f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    assert parse_stored_params(entry.mail_params).words() == ["SIZE=10"]


async def test_an_entry_without_tracing_has_none() -> None:
    async with Memory() as store:
        async with connected(Server(store, name=NAME)) as client:
            await client.hello()
            await client.deliver()
        (entry,) = [entry async for entry in store.entries()]
    assert entry.traceparent is None
    assert entry.mail_params == ""


async def test_a_client_cannot_choose_the_trace_context_of_an_entry(recorded: Recorded) -> None:
    async with connected(recorded.server(Memory())) as client:
        await client.hello()
        await client.command("MAIL FROM:<me@example.net> TRACEPARENT=00-1-1-01", "555")


async def test_log_records_of_a_session_have_its_trace(recorded: Recorded, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "smtp_trio")
    async with connected(recorded.server(Memory())) as client:
        await client.hello()
        await client.deliver()
        await client.command("NONSENSE", "500")
        await client.quit()
    trace_id = f"{recorded.one('SMTP session').context.trace_id:032x}"
    traces = {record.__dict__["event"]: record.__dict__["fields"].get("trace") for record in caplog.records}
    assert traces["accepted"] == traces["command"] == trace_id
    assert traces["connected"] is traces["disconnected"] is None  # before and after the hooks
    (accepted,) = [record for record in caplog.records if record.__dict__["event"] == "accepted"]
    assert accepted.getMessage().endswith(f" trace={trace_id}")


class Working(Hooks):
    """Hooks that make spans of their own, also in other tasks."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self.tracer = tracer

    def work(self, name: str) -> None:
        self.tracer.start_span(name).end()

    async def helo(self, session: Session, command: object) -> None:
        self.work("helo")

    async def mail(self, session: Session, mail: Mail) -> None:
        self.work("mail")

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._in_task)
        return Reply(550, "No") if rcpt.recipient.raw.startswith("no") else None

    async def _in_task(self) -> None:
        await trio.lowlevel.checkpoint()
        self.work("rcpt in a task")

    async def data(self, session: Session, body: Body) -> None:
        await body.discard()
        await trio.to_thread.run_sync(self.work, "data in a thread")

    async def disconnect(self, session: Session) -> None:
        self.work("disconnect")


async def test_spans_of_hooks_are_children_of_the_session_or_the_message(recorded: Recorded) -> None:
    server = recorded.server(Working(recorded.tracer))
    with recorded.tracer.start_as_current_span("program"):  # around the server, and not the parent of its sessions
        async with connected(server) as first, connected(server) as second:
            for client in (first, second):  # two sessions whose hooks take turns
                await client.hello()
            for line in ("MAIL FROM:<me@example.net>", "RCPT TO:<you@example.org>"):
                for client in (first, second):
                    await client.command(line, "250")
            for client in (first, second):
                await client.command("DATA", "354")
                await client.send(MESSAGE + b".\r\n")
                await client.expect("250")
            for client in (first, second):
                await client.quit()

    sessions = {span_id(span) for span in recorded.named("SMTP session")}
    messages = {span_id(span): span for span in recorded.named("SMTP message")}
    assert len(sessions) == len(messages) == 2
    for name, parents in {
        "helo": sessions,
        "disconnect": sessions,
        "mail": set(messages),
        "rcpt in a task": set(messages),
        "data in a thread": set(messages),
    }.items():
        assert {parent(span) for span in recorded.named(name)} == parents, name
    assert recorded.one("program").parent is None
    traces = [span.context.trace_id for span in recorded.named("SMTP session")]
    assert len(set(traces)) == 2
    assert {parent(message) for message in messages.values()} == sessions


async def test_the_context_of_the_caller_is_restored_after_a_session(recorded: Recorded) -> None:
    server = recorded.server(Hooks())
    left, right = trio.testing.memory_stream_pair()
    with recorded.tracer.start_as_current_span("caller") as span:
        await left.aclose()
        await server.serve_stream(right)
        assert trace.get_current_span() is span


async def test_refusals_are_in_the_span_of_the_message(recorded: Recorded) -> None:
    async with connected(recorded.server(Working(recorded.tracer))) as client:
        await client.hello()
        await client.command("MAIL FROM:<me@example.net>", "250")
        await client.command("RCPT TO:<nobody@example.org>", "550")
        await client.command("RSET", "250")
        await client.quit()
    message = recorded.one("SMTP message")
    assert [(event.name, dict(event.attributes or {})) for event in message.events] == [
        ("recipient refused", {"smtp.reply.code": 550})
    ]
    assert message.status.status_code is trace.StatusCode.UNSET


async def test_a_refused_mail_ends_the_span(recorded: Recorded) -> None:
    class Refusing(Hooks):
        async def mail(self, session: Session, mail: Mail) -> Reply | None:
            if mail.sender.raw.startswith("fail"):
                raise RuntimeError("bug")
            return Reply(550, "No")

    async with connected(recorded.server(Refusing())) as client:
        await client.hello()
        await client.command("MAIL FROM:<me@example.net>", "550")
        await client.command("MAIL FROM:<fail@example.net>", "451")
        await client.quit()
    refused, failed = recorded.named("SMTP message")
    assert attributes(refused)["smtp.reply.code"] == 550
    assert failed.status.status_code is trace.StatusCode.ERROR


class Failing(Hooks):
    """Hooks with a fault."""

    async def data(self, session: Session, body: Body) -> None:
        await body.discard()
        raise RuntimeError("bug")


async def test_an_exception_is_recorded(recorded: Recorded) -> None:
    async with connected(recorded.server(Failing())) as client:
        await client.hello()
        await client.deliver(MESSAGE, "451")
        await client.quit()
    message = recorded.one("SMTP message")
    assert message.status.status_code is trace.StatusCode.ERROR
    assert [event.name for event in message.events] == ["exception"]
    assert recorded.one("SMTP session").status.status_code is trace.StatusCode.UNSET


async def test_a_message_that_is_cut_off_is_no_error(recorded: Recorded) -> None:
    async with connected(recorded.server(Memory())) as client:
        await client.hello()
        await client.command("MAIL FROM:<me@example.net>", "250")
        await client.command("RCPT TO:<you@example.org>", "250")
        await client.command("DATA", "354")
        await client.send(b"Subject: x\r\n")
    message = recorded.one("SMTP message")
    assert [event.name for event in message.events] == ["message not complete"]
    assert message.status.status_code is trace.StatusCode.UNSET
    assert attributes(message)["messaging.message.envelope.size"] == len(b"Subject: x\r\n")


async def test_a_timeout_is_an_event_of_the_session(recorded: Recorded, autojump_clock: MockClock) -> None:
    server = Server(Tracing(tracer=recorded.tracer), name=NAME, timeout=5)
    async with connected(server) as client:
        await client.hello()
        await client.command("MAIL FROM:<me@example.net>", "250")
        await client.expect("421")
    assert [event.name for event in recorded.one("SMTP session").events] == ["timeout"]
    assert len(recorded.named("SMTP message")) == 1


async def test_tls_is_among_the_attributes(recorded: Recorded) -> None:
    server = Server(Tracing(Memory(), tracer=recorded.tracer), name=NAME, tls=server_tls())
    async with listening(server) as port, connect_tcp(port) as client:
        await client.hello()
        await client.starttls()
        await client.command("EHLO client.test", "250")
        await client.deliver()
        await client.quit()
    found = attributes(recorded.one("SMTP session"))
    assert found["tls.established"] is True
    assert found["tls.protocol.version"] == "1.3"
    assert {"client.port", "server.port"} <= set(found)
    assert attributes(recorded.one("SMTP message"))["smtp.reply.code"] == 250


async def test_without_the_sdk_nothing_is_recorded() -> None:
    async with Memory() as store:
        async with connected(Server(Tracing(store), name=NAME)) as client:
            await client.hello()
            await client.deliver()
        (entry,) = [entry async for entry in store.entries()]
    assert entry.traceparent is None


def test_a_missing_package_is_named() -> None:
    program = "import sys; sys.modules['opentelemetry'] = None; import smtp_trio.tracing"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "python -m pip install 'smtp-trio[otel]'" in result.stderr
