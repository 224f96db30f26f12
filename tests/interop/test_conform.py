"""``smtp-trio conform`` against servers that we did not write, and against ours: it ends, and has tried all cases."""

from __future__ import annotations

import pytest

from smtp_trio.conform._server_cases import server_rules

from .servers import Server
from .tables import conform

pytestmark = pytest.mark.interop


def test_it_ends_and_tells_of_every_case(server: Server) -> None:
    ours = server.name == "smtp-trio"

    # A second is not fair to the others: one that thinks for longer fails. Here it must only end.
    code, told = conform(server, "--timeout", "10" if ours else "1", "--jobs", "10")

    assert [result["id"] for result in told["results"]] == [rule.id for rule in server_rules()]
    assert told["count"]["passed"] > len(server_rules()) / 3
    assert not ours or (code, told["count"]["failed"], told["count"]["error"]) == (0, 0, 0)
