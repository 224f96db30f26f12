"""For black-box conformance runners: one whole send by the client, as a case asks for it, and what came of it.

A runner calls `run` with the host and port of its scripted server. ``data`` and ``data_repeat`` are octets, written as Python has
them between quotes.
"""

from __future__ import annotations

import email
import email.policy
import ssl
from typing import Any

import trio

import smtp_trio


def octets(text: str) -> bytes:
    """``a\\\\r\\\\n`` as a, CR, LF."""
    return text.encode("ascii").decode("unicode_escape").encode("latin-1")


def run(host: str, port: int, call: dict[str, Any]) -> dict[str, Any]:
    """Send what ``call`` describes: whether that went well, and if not, what was raised."""
    try:
        trio.run(send, host, port, call)
    except Exception as exc:
        return {"ok": False, "exc": repr(exc)}
    return {"ok": True, "exc": None}


async def send(host: str, port: int, call: dict[str, Any]) -> smtp_trio.Result:
    """Connect, send, say goodbye."""
    message: Any = octets(call["data"])
    if "data_repeat" in call:
        text, times = call["data_repeat"]
        message += octets(text) * times
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
