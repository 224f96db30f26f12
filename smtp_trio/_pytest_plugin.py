"""The pytest plugin of smtp_trio: servers, clients and inboxes as fixtures; see docs/testing.

pytest loads this module whenever it starts, so Trio and the rest of smtp_trio are imported only when a fixture is used.
A mark with the name of a fixture has the fixture's arguments: ``@pytest.mark.smtp_server(timeout=120)``.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from smtp_trio import Client
    from smtp_trio.testing import Faults, Inbox, InboxThread, MemoryServer

MARKS = (
    "smtp_server(**settings): arguments of smtp_trio.testing.open_memory_server; a function given as hooks is called with the inbox",
    "smtp_client(**settings): arguments of smtp_trio.testing.MemoryServer.client",
    "smtp_faults(*rules, seed=0): the fault script of the fixtures smtp_server and smtp_client",
    "smtp_inbox(**settings): arguments of smtp_trio.testing.open_inbox_thread",
)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks."""
    for mark in MARKS:
        config.addinivalue_line("markers", mark)


def _settings(request: pytest.FixtureRequest, name: str) -> dict[str, Any]:
    """Return the keyword arguments of all marks of this name; those of a closer mark replace others."""
    settings: dict[str, Any] = {}
    for mark in request.node.iter_markers(name):
        if mark.args:
            raise pytest.UsageError(f"pytest.mark.{name} accepts keyword arguments only")
        settings = {**mark.kwargs, **settings}
    return settings


@pytest.fixture
def _smtp_in_trio(request: pytest.FixtureRequest) -> None:
    """Fail unless a plugin (pytest-trio or that of anyio) runs this test and its fixtures in Trio."""
    backend: Any = None
    if "anyio_backend" in request.fixturenames:
        backend = request.getfixturevalue("anyio_backend")
        backend = backend if isinstance(backend, str) else backend[0]
    elif request.config.pluginmanager.has_plugin("trio") and request.node.get_closest_marker("trio"):
        backend = "trio"
    if backend != "trio":
        reason = f"this test runs in {backend}" if backend else "no plugin runs this test in Trio"
        pytest.fail(
            f"The fixtures smtp_server and smtp_client require Trio, but {reason}. Write an async test, and mark it with "
            "pytest.mark.trio (pip install pytest-trio), or with pytest.mark.anyio and the backend trio. "
            "For other tests use the fixture smtp_inbox.",
            pytrace=False,
        )


@pytest.fixture
def inbox() -> Inbox:
    """The `smtp_trio.testing.Inbox` of `smtp_server`. Override this fixture to use other hooks."""
    from smtp_trio.testing import Inbox

    return Inbox()


@pytest.fixture
def smtp_faults(request: pytest.FixtureRequest) -> Faults:
    """The fault script of `smtp_server` and `smtp_client`, from ``@pytest.mark.smtp_faults(*rules)``.

    Use ``@pytest.mark.parametrize("smtp_faults", [Faults(...)])`` to run a test with several scripts. `smtp_server`
    uses a copy, since several tests may share the value.
    """
    from smtp_trio.testing import Faults

    mark = request.node.get_closest_marker("smtp_faults")
    return Faults(*mark.args, **mark.kwargs) if mark else Faults()


@pytest.fixture
async def smtp_server(
    request: pytest.FixtureRequest, _smtp_in_trio: None, inbox: Inbox, smtp_faults: Faults
) -> AsyncGenerator[MemoryServer]:
    """A `smtp_trio.testing.MemoryServer`: a server to which clients are connected in memory. For tests in Trio."""
    from smtp_trio import Hooks, Server
    from smtp_trio.testing import open_memory_server

    settings = _settings(request, "smtp_server")
    hooks = settings.pop("hooks", inbox)
    if not isinstance(hooks, Hooks | Server):
        if not callable(hooks):
            raise pytest.UsageError(
                "hooks of pytest.mark.smtp_server must be Hooks, a Server, or a function that is called with the inbox "
                f"and returns one of them, such as Greylist, got {hooks!r}"
            )
        hooks = hooks(inbox)
    # Several tests share the value of a parametrize mark on their class or module: each starts with counts at 0.
    faults = smtp_faults.again() if smtp_faults.rules else None
    async with open_memory_server(hooks, faults=faults, **settings) as server:
        yield server
    if faults is not None and faults.unused:
        text = f"these rules of smtp_faults have not acted: {', '.join(map(repr, faults.unused))}"
        warnings.warn(text, pytest.PytestWarning, stacklevel=1)


@pytest.fixture
async def smtp_client(request: pytest.FixtureRequest, smtp_server: MemoryServer) -> AsyncGenerator[Client]:
    """A `smtp_trio.Client` that is connected to `smtp_server`. For tests in Trio."""
    async with smtp_server.client(**_settings(request, "smtp_client")) as client:
        yield client


@pytest.fixture
def inline_threads() -> Generator[None]:
    """Let `trio.to_thread.run_sync` call its function in the task, as `smtp_trio.testing.inline_threads` does."""
    from smtp_trio.testing import inline_threads

    with inline_threads():
        yield


@pytest.fixture
def smtp_inbox(request: pytest.FixtureRequest) -> Generator[InboxThread]:
    """A `smtp_trio.testing.InboxThread`: a server on a free port, in a thread.

    For tests of programs that do not use Trio.
    """
    from smtp_trio.testing import open_inbox_thread

    with open_inbox_thread(**_settings(request, "smtp_inbox")) as thread:
        yield thread
