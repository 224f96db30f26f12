"""The stores that URLs of the scheme ``maildir:`` name."""

from __future__ import annotations

from ._maildir_store import split_url
from ._maildir_template import PLACEHOLDER
from .maildir import Maildir
from .recipient_maildirs import RecipientMaildirs


class MaildirURL:
    """The scheme ``maildir:``."""

    @staticmethod
    def from_url(url: str) -> Maildir | RecipientMaildirs:
        """Return the store of ``maildir:PATH``, or of ``maildir:TEMPLATE`` if a part of the path is in braces."""
        if PLACEHOLDER.search(split_url(url)[0]):
            return RecipientMaildirs.from_url(url)
        return Maildir.from_url(url)
