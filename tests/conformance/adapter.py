"""Adapter with which an external conformance runner tests the client.

The runner calls `run` with the host and port of its scripted server and with a dictionary that describes one message:

- ``mail_from``, ``rcpts``: the envelope
- ``data``: the content, with the escapes of a Python literal, as are the octets of ``data_repeat``
- ``data_repeat``: octets to append to the content, and how many times
- ``headers``: header fields to set; the message is then sent as an `email.message.EmailMessage`
- ``mail_options``: parameters of MAIL, such as ``BODY=8BITMIME``
- ``cafile``: the certificates to trust
- ``require_tls``, ``username``, ``password``, ``allow_cleartext``, ``local_hostname``, ``timeout``: settings of the
  client
"""

from __future__ import annotations

import email
import email.policy
import ssl
from typing import Any

import trio

import smtp_trio


def unescape(text: str) -> bytes:
    r"""Return octets that are written with the escapes of a Python literal, such as ``\r\n``."""
    return text.encode("ascii").decode("unicode_escape").encode("latin-1")


def run(host: str, port: int, call: dict[str, Any]) -> dict[str, Any]:
    """Send the message that ``call`` describes. Return ``ok``, and as ``exc`` the exception's repr or None."""
    try:
        trio.run(send, host, port, call)
    except Exception as exc:
        return {"ok": False, "exc": repr(exc)}
    return {"ok": True, "exc": None}


async def send(host: str, port: int, call: dict[str, Any]) -> smtp_trio.Result:
    """Connect, send the message and end the session."""
    message: Any = unescape(call["data"])
    if "data_repeat" in call:
        text, count = call["data_repeat"]
        message += unescape(text) * count
    if "headers" in call:
        message = email.message_from_bytes(message, policy=email.policy.SMTP)
        for name, value in call["headers"].items():
            del message[name]
            message[name] = value
    params: dict[str, Any] = {}
    for option in call.get("mail_options", ()):
        keyword, equals, value = option.partition("=")
        params[keyword.lower()] = value if equals else True
    async with smtp_trio.connect(
        host,
        port,
        name=call.get("local_hostname", "client.test"),
        tls="required" if call.get("require_tls") else "opportunistic",
        ssl_context=ssl.create_default_context(cafile=call["cafile"]),
        auth=(call["username"], call["password"]) if "username" in call else None,
        allow_cleartext=call.get("allow_cleartext", False),
        timeout=call.get("timeout", 5),
    ) as client:
        return await client.send(call["mail_from"], call["rcpts"], message, **params)
