"""Schemathesis reads the OpenAPI description of a server, and finds no answer that differs from it."""

from __future__ import annotations

import subprocess
import sys
from email.message import EmailMessage
from pathlib import Path

import pytest
import trio

from smtp_trio import web
from smtp_trio.stores import Memory

pytestmark = pytest.mark.interop

# Mailpit's API ignores wrong parameters, and some of its operations are answered with 501. The event stream has no end.
# A URL with several wrong parameters may be too long for the server, which is 414.
CONFIG = """
suppress-health-check = ["too_slow"]
headers = { "X-Requested-With" = "schemathesis" }
checks.negative_data_rejection.expected-statuses = [400, 404, 405, 413, 414, 415]
%s
[[operations]]
include-path-regex = "^/(api/v1|view)/"
checks.positive_data_acceptance.enabled = false
checks.negative_data_rejection.enabled = false
checks.not_a_server_error.enabled = false

[[operations]]
include-name = "GET /api/events"
enabled = false

[[operations]]
include-name = "GET /api/wait"
parameters = { timeout = 0 }

# That exactly one of two parameters is required cannot be described.
[[operations]]
include-name = "DELETE /api/messages"
checks.positive_data_acceptance.enabled = false
"""

# The id of a message takes the place of wrong ones, too, so these are not seen.
KNOWN_ID = """
parameters = { id = "%s" }
checks.negative_data_rejection.enabled = false
"""


def typical() -> bytes:
    message = EmailMessage()
    message["Subject"] = "Grüße"
    message["To"] = '"B, C" <bob@example.org>'
    message["Date"] = "Sun, 29 Nov 2026 18:30:00 +0100"
    message.set_content("text")
    message.add_alternative("<p>html</p>", subtype="html")
    message.add_attachment(b"\0\1\2", maintype="application", subtype="zip", filename="ä.zip")
    return message.as_bytes()


HOSTILE = (
    b"Content-Type: multipart/mixed; boundary=B\r\nSubject: \xff\r\n\r\n--B\r\nContent-Type: a/\0\r\n\r\n\xff\r\n--B"
)


async def add(store: Memory) -> str:
    await store.add(HOSTILE, "", ["bob@example.org"])
    return await store.add(typical(), "alice@example.net", ["bob@example.org", "carol@example.org"])


@pytest.mark.parametrize("options", [(), ("--include-method", "GET")], ids=["any ids", "the id of a message"])
async def test_answers_conform_to_the_description(options: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    async with Memory() as store, trio.open_nursery() as nursery:
        url = await nursery.start(lambda *, task_status: web.serve(None, store, 0, task_status=task_status))

        async def keep_messages() -> None:
            """Store others, since the operations that delete messages are tried, too."""
            while True:
                if await store.count() < 4:
                    await add(store)
                await trio.sleep(0.02)

        known = await add(store)
        nursery.start_soon(keep_messages)
        config = tmp_path / "schemathesis.toml"
        config.write_text(CONFIG % (KNOWN_ID % known if options else ""))
        result = await trio.run_process(
            [
                sys.executable, "-m", "schemathesis.cli", "--config-file", config, "run", f"{url}/api/openapi.json",
                "--max-examples", "5", "--seed", "1", "--generation-database", "none", "--request-timeout", "100", *options,
            ],
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
            cwd=tmp_path,
        )  # fmt: skip
        nursery.cancel_scope.cancel()
    output = "\n".join(line[:300] for line in result.stdout.decode().splitlines())
    assert result.returncode == 0, output
