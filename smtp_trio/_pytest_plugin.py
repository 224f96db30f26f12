"""The pytest plugin of smtp_trio: servers, clients and inboxes as fixtures. docs/testing has it all.

pytest loads this module at every start, so Trio and the rest of smtp_trio are imported only when a fixture is used.
A mark with the name of a fixture has its arguments: ``@pytest.mark.smtp_server(timeout=120)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from smtp_trio import Client
    from smtp_trio.testing import Faults, Inbox, InboxThread, MemoryServer

MARKS = (
    "smtp_server(**settings): keywords of smtp_trio.testing.open_memory_server for the fixture; hooks is called with the inbox",
    "smtp_client(**settings): keywords of smtp_trio.testing.MemoryServer.client for the fixture",
    "smtp_faults(*rules, seed=0): the fault script that the fixtures smtp_server and smtp_client have",
    "smtp_inbox(**settings): keywords of smtp_trio.testing.open_inbox_thread for the fixture",
)


def pytest_configure(config: pytest.Config) -> None:
    for mark in MARKS:
        config.addinivalue_line("markers", mark)


def _settings(request: pytest.FixtureRequest, name: str) -> dict[str, Any]:
    """The keywords of all marks of this name, those nearest to the test before others."""
    settings: dict[str, Any] = {}
    for mark in request.node.iter_markers(name):
        if mark.args:
            raise pytest.UsageError(f"pytest.mark.{name} takes keywords only")
        settings = {**mark.kwargs, **settings}
    return settings


@pytest.fixture
def _smtp_in_trio(request: pytest.FixtureRequest) -> None:
    """Somebody runs this test, and its fixtures, in Trio: pytest-trio does, or the plugin of anyio."""
    backend: Any = None
    if "anyio_backend" in request.fixturenames:
        backend = request.getfixturevalue("anyio_backend")
        backend = backend if isinstance(backend, str) else backend[0]
    elif request.config.pluginmanager.has_plugin("trio") and request.node.get_closest_marker("trio"):
        backend = "trio"
    if backend != "trio":
        where = f"in {backend}" if backend else "by no plugin that knows Trio"
        pytest.fail(
            f"smtp_server and smtp_client are for tests that run in Trio, and this one is run {where}. Write an async test, and "
            "mark it with pytest.mark.trio (pip install pytest-trio), or with pytest.mark.anyio and the backend trio. "
            "The fixture smtp_inbox is for all others.",
            pytrace=False,
        )


@pytest.fixture
def inbox() -> Inbox:
    """A new `smtp_trio.testing.Inbox`, which `smtp_server` puts its messages into. Override it to have hooks of your own."""
    from smtp_trio.testing import Inbox

    return Inbox()


@pytest.fixture
def smtp_faults(request: pytest.FixtureRequest) -> Faults:
    """What goes wrong: ``@pytest.mark.smtp_faults(*rules)``, or ``@pytest.mark.parametrize("smtp_faults", [Faults(...)])``."""
    from smtp_trio.testing import Faults

    mark = request.node.get_closest_marker("smtp_faults")
    return Faults(*mark.args, **mark.kwargs) if mark else Faults()


@pytest.fixture
async def smtp_server(
    request: pytest.FixtureRequest, _smtp_in_trio: None, inbox: Inbox, smtp_faults: Faults
) -> AsyncGenerator[MemoryServer]:
    """A `smtp_trio.testing.MemoryServer`: a real server, called over streams in memory. For tests in Trio."""
    from smtp_trio.testing import open_memory_server

    settings = _settings(request, "smtp_server")
    hooks = settings.pop("hooks", None)
    if hooks is not None and not callable(hooks):
        raise pytest.UsageError(
            "hooks of pytest.mark.smtp_server is called with the inbox and makes the server's hooks of it: "
            f"hooks=Greylist, not {hooks!r}. "
            "To have hooks without one, override the fixture inbox."
        )
    faults = smtp_faults if smtp_faults.rules else None
    async with open_memory_server(hooks(inbox) if hooks else inbox, faults=faults, **settings) as server:
        yield server


@pytest.fixture
async def smtp_client(request: pytest.FixtureRequest, smtp_server: MemoryServer) -> AsyncGenerator[Client]:
    """A `smtp_trio.Client` of `smtp_server`, greeted and ready to send. For tests in Trio."""
    async with smtp_server.client(**_settings(request, "smtp_client")) as client:
        yield client


@pytest.fixture
def smtp_inbox(request: pytest.FixtureRequest) -> Generator[InboxThread]:
    """A `smtp_trio.testing.InboxThread`: a server on a port of its own, in a thread. For tests of programs that know no Trio."""
    from smtp_trio.testing import open_inbox_thread

    with open_inbox_thread(**_settings(request, "smtp_inbox")) as thread:
        yield thread
