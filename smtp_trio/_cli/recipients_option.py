"""The option ``--recipients`` of ``smtp-trio serve``."""

from __future__ import annotations

import argparse
import os
from functools import partial

from .._server.threads import run_in_thread
from ..recipients import RecipientDatabase, RecipientFile, RecipientService, Source, SourceError
from ..recipients._addresses import check_delimiter
from .options import UsageError


def recipients_option(text: str) -> Source:
    """Return the source that a value of ``--recipients`` names."""
    if text.lower().startswith(("http://", "https://")):
        try:
            return RecipientService(text)
        except (ValueError, ModuleNotFoundError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    kind, colon, path = text.partition(":")
    if colon and kind == "sqlite" and path:
        return RecipientDatabase(os.path.expanduser(path))
    if not text or (colon and kind == "sqlite"):
        raise argparse.ArgumentTypeError(f"must be FILE, sqlite:PATH or an http or https URL, got {text!r}")
    return RecipientFile(os.path.abspath(os.path.expanduser(text)))


def delimiter_option(text: str) -> str:
    """Check a value of ``--recipient-delimiter``."""
    try:
        return check_delimiter(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def load_source(source: Source) -> None:
    """Read a source of ``--recipients``. Raises UsageError when it cannot be used; what was read before stays in use."""
    try:
        source.load()
    except SourceError as error:
        raise UsageError(f"cannot use {error}") from None


async def reload_source(source: Source) -> None:
    """Call `load_source` in a thread: sessions go on while a large file is read."""
    await run_in_thread(partial(load_source, source))
