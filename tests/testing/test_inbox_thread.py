"""Tests of the inbox in a thread, with smtplib, Django and aiosmtplib."""

from __future__ import annotations

import asyncio
import email.message
import smtplib
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import trio

from smtp_trio import Reply, Session
from smtp_trio.protocol import Rcpt
from smtp_trio.testing import Answer, Faults, Greylist, InboxThread, Layer, open_inbox_thread

ENDS = "me@client.test", ["you@mx.test"]
TEXT = "Subject: hi\r\n\r\nhello\r\n"


def send(inbox: InboxThread, *recipients: str) -> None:
    with smtplib.SMTP(inbox.host, inbox.port, timeout=100) as client:
        client.sendmail("me@client.test", recipients or ["you@mx.test"], TEXT)


def test_smtplib() -> None:
    with open_inbox_thread() as inbox:
        inbox.assert_empty()
        send(inbox)
        send(inbox, "you@mx.test", "her@mx.test")
        [mail] = inbox.wait_for(to="her@mx.test")
        assert mail.recipients == ("you@mx.test", "her@mx.test")
        assert [each.subject for each in inbox.wait_for(2)] == ["hi", "hi"]
        assert inbox.assert_delivered(2) == inbox.messages
        assert mail.message.get_content() == "hello\n"
        assert repr(inbox) == f"<InboxThread at 127.0.0.1:{inbox.port}>"
        inbox.clear()
        assert inbox.messages == []
        with pytest.raises(AssertionError, match="expected 1 message, got 0; received nothing"):
            inbox.assert_delivered()


def test_wait_for_returns_when_the_message_is_received() -> None:
    with open_inbox_thread() as inbox, ThreadPoolExecutor() as threads:
        waiting = threads.submit(inbox.wait_for, 3)
        for _ in range(3):
            assert not waiting.done()
            send(inbox)
        assert len(waiting.result()) == 3


def test_timeout_lists_received_messages() -> None:
    with open_inbox_thread() as inbox:
        send(inbox)
        assert len(inbox.wait_for(timeout=0)) == 1
        with pytest.raises(TimeoutError) as info:
            inbox.wait_for(to="her@mx.test", timeout=0)
    assert "waited for 1 message with to='her@mx.test'; received 1 message\n  1. 'hi' from <me@cl" in str(info.value)
    assert "C: Subject: hi\n" in str(info.value)


@pytest.mark.parametrize("implicit", [False, True])
def test_tls(*, implicit: bool) -> None:
    with open_inbox_thread(tls=True, implicit_tls=implicit) as inbox:
        assert inbox.ca is not None
        context = inbox.client_context
        assert isinstance(context, ssl.SSLContext)
        if implicit:
            client: smtplib.SMTP = smtplib.SMTP_SSL(inbox.host, inbox.port, timeout=100, context=context)
        else:
            client = smtplib.SMTP(inbox.host, inbox.port, timeout=100)
            client.starttls(context=context)
        with client:
            client.sendmail(*ENDS, TEXT)
        assert inbox.wait_for()[0].tls is not None


def test_layers_and_faults() -> None:
    faults = Faults(Answer("RCPT", 450, times=2))
    with open_inbox_thread(lambda inbox: faults.hooks(inbox)) as inbox:
        for _ in range(2):
            with pytest.raises(smtplib.SMTPRecipientsRefused, match="Refused by a fault script"):
                send(inbox)
        send(inbox)
        inbox.assert_delivered(1)
    with open_inbox_thread(Greylist, timeout=7, name="gray.test") as inbox:
        with pytest.raises(smtplib.SMTPRecipientsRefused, match="Greylisted"):
            send(inbox)
        inbox.assert_empty()


def test_refusing_hook() -> None:
    class RejectingLayer(Layer):
        async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
            return Reply(550, "Nobody", "5.1.1")

    with open_inbox_thread(RejectingLayer) as inbox:
        with pytest.raises(smtplib.SMTPRecipientsRefused, match="Nobody"):
            send(inbox)


def test_end_of_the_block() -> None:
    """The thread has ended and the port is closed, although a client is still connected."""
    before = set(threading.enumerate())  # those of earlier tests may end at any moment
    with open_inbox_thread() as inbox:
        assert len(set(threading.enumerate()) - before) == 1
        client = smtplib.SMTP(inbox.host, inbox.port, timeout=100)
    assert set(threading.enumerate()) <= before
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((inbox.host, inbox.port), timeout=100)
    with pytest.raises(trio.RunFinishedError):
        inbox.clear()
    client.close()


def test_exception_in_the_block() -> None:
    before = set(threading.enumerate())
    with pytest.raises(KeyError), open_inbox_thread():
        raise KeyError
    assert set(threading.enumerate()) <= before


def test_exception_at_the_start() -> None:
    before = set(threading.enumerate())
    with pytest.raises(TypeError, match="nonsense"), open_inbox_thread(nonsense=1):  # type: ignore[call-arg]
        pytest.fail("it cannot begin")
    assert set(threading.enumerate()) <= before


async def test_use_within_trio_blocks() -> None:
    with open_inbox_thread() as inbox:
        with pytest.raises(RuntimeError, match="blocking"):
            inbox.wait_for()


def test_aiosmtplib() -> None:
    aiosmtplib = pytest.importorskip("aiosmtplib", reason="a client for asyncio")

    async def program(inbox: InboxThread) -> None:
        message = email.message.EmailMessage()
        message["From"], message["To"], message["Subject"] = "me@client.test", "you@mx.test", "hi"
        message.set_content("hello")
        await aiosmtplib.send(message, hostname=inbox.host, port=inbox.port)
        [mail] = await asyncio.to_thread(inbox.wait_for, subject="hi")
        assert mail.recipients == ("you@mx.test",)

    with open_inbox_thread() as inbox:
        asyncio.run(program(inbox))


def test_django() -> None:
    """Django's backend with settings; docs/testing shows the same with the fixture."""
    django = pytest.importorskip("django", reason="Django sends by smtplib")
    conf = pytest.importorskip("django.conf")
    mail = pytest.importorskip("django.core.mail")
    override_settings = pytest.importorskip("django.test").override_settings
    if not conf.settings.configured:
        conf.settings.configure()
    backend = "django.core.mail.backends.smtp.EmailBackend"
    with open_inbox_thread() as inbox:
        old = {"EMAIL_BACKEND": backend, "EMAIL_HOST": inbox.host, "EMAIL_PORT": inbox.port}
        new = {"MAILERS": {"default": {"BACKEND": backend, "OPTIONS": {"host": inbox.host, "port": inbox.port}}}}
        with override_settings(**(new if django.VERSION >= (6, 1) else old)):
            assert mail.send_mail("hi", "hello", "me@client.test", ["you@mx.test", "her@mx.test"]) == 1
        [got] = inbox.assert_delivered(to="her@mx.test", subject="hi")
    assert got.message.get_content() == "hello\n"
