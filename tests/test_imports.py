"""What an import takes along: who starts a program with a server or a client in it waits for that."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """\
import sys, trio
before = set(sys.modules)
import smtp_trio
smtp_trio.{}
print(*set(sys.modules) - before)
"""


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("Server", {"email", "json", "smtp_trio._client.client"}),
        ("connect", {"email.policy", "email.generator", "json", "smtp_trio._server.server"}),
    ],
)
def test_only_what_all_of_its_users_need_is_loaded(name: str, without: set[str]) -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT.format(name)], check=True, capture_output=True, text=True)
    loaded = set(run.stdout.split())
    assert "smtp_trio.protocol" in loaded
    assert not loaded & without
