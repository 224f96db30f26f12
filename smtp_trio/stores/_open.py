"""`open`: the store of a URL."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..protocol.arguments import check_type
from ._errors import StoreError

if TYPE_CHECKING:
    from ._store import Store

#: The module and class of each scheme, and the extra with the libraries that it imports.
SCHEMES: dict[str, tuple[str, str, str | None]] = {
    "maildir": ("._maildir_url", "MaildirURL", None),
    "sqlite": (".sqlite", "SQLite", None),
    "memory": (".memory", "Memory", None),
    "redis": (".redis", "Redis", "redis"),
    "rediss": (".redis", "Redis", "redis"),
    "postgresql": (".postgresql", "PostgreSQL", "postgresql"),
    "postgres": (".postgresql", "PostgreSQL", "postgresql"),
    "http": (".http", "Webhook", "http"),
    "https": (".http", "Webhook", "http"),
}
#: The forms of a URL, for messages.
SYNTAX = (
    "maildir:PATH",
    "sqlite:PATH",
    "redis://HOST",
    "postgresql://HOST/DATABASE",
    "https://HOST/PATH",
    "http://HOST/PATH",
    "memory:",
)


def open(url: str, *, create: bool = True) -> Store[Any]:  # noqa: A001 -- see `__init__.py`
    """Return the store of a URL; ``async with smtp_trio.stores.open(url) as store`` opens and closes it.

    ``url`` is ``maildir:PATH``, ``sqlite:PATH``, ``redis://HOST``, ``postgresql://HOST/DATABASE``, ``memory:``, or the URL of an
    application, ``https://HOST/PATH`` or ``http://HOST/PATH``. With ``create=False`` opening a store that does not exist is an
    error, and opening one that exists changes nothing. This is for programs that read what another one stores.

    Raises ValueError if the URL is invalid, and `StoreError` if a library for its store is not installed.
    """
    check_type(url, "url", str)
    check_type(create, "create", bool)
    scheme, colon, rest = url.partition(":")
    if not colon or not (rest or scheme == "memory") or scheme not in SCHEMES:
        shown = f"{scheme}:" if "@" in rest else url  # it may contain a password
        raise ValueError(f"must be {' or '.join(SYNTAX)}, got {shown!r}")
    module, name, extra = SCHEMES[scheme]
    try:
        kind = getattr(import_module(module, __package__), name)
    except ModuleNotFoundError as error:
        raise StoreError(
            f"a store {scheme}: needs {error.name}, which is not installed: python -m pip install 'smtp-trio[{extra}]'"
        ) from error
    store: Store[Any] = kind.from_url(url)
    store.create = create
    return store
