"""The folders of recipients: a template of paths, and safe names for addresses that clients choose."""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING

from attrs import frozen

from ..protocol.syntax import Path

if TYPE_CHECKING:
    from collections.abc import Iterator

# How the names are made
# ----------------------
#
# A client chooses the address, so the name of its folder must be safe whatever the address is, and two addresses must not
# share a folder unless they are the same mailbox.
#
# * Domains: in lower case with A-labels (RFC 5890), so that both forms of an internationalized domain are the same folder. An
#   address without a domain, which only Postmaster may be, has the folder ``_``.
# * Local parts: with their ASCII letters in lower case, as `Path.lower` has it, and with the fewest quotes (RFC 5321
#   4.1.2). Details ("user+detail") stay.
# * Octets other than a-z, 0-9 and a few marks are written as ``%`` and two hexadecimal digits, and so are the octets that
#   cannot begin a name: a dot would make it hidden, or be ``.`` or ``..``, and a hyphen would look like an option. ``/``, NUL,
#   ``%`` and ``@`` are always encoded. All names are ASCII, because file systems differ in which forms of a letter they take for
#   the same name.
# * A name that is too long for a file system ends in ``%-`` and a hash of all of it. No other name contains ``%-``.
#
# A placeholder is a whole part of the path, or the two are separated by "@", which no name contains. With another
# separator, such as "-", two addresses could have the same folder.

#: The octets of a name that are not encoded, in a domain and in a local part.
DOMAIN_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789.-")
LOCAL_SAFE = DOMAIN_SAFE | frozenset(b"_+=")
NO_DOMAIN = "_"
#: The longest name of a directory on all usual file systems, in octets, and how much of a longer one is kept.
MAX_NAME, KEPT = 255, 150

DOMAIN, LOCAL, BOTH = "{domain}", "{local}", "{local}@{domain}"
PLACEHOLDER = re.compile(r"\{[^{}/]*\}")


@frozen
class Template:
    """A path with the placeholders ``{domain}`` and ``{local}``."""

    root: str
    """The directory above the first placeholder."""
    parts: tuple[str, ...]
    """The parts of the path below it."""

    @classmethod
    def parse(cls, text: str) -> Template:
        """Return a template. Raises ValueError if it is invalid."""
        parts = os.path.join(os.getcwd(), text).split("/")
        first = next((n for n, part in enumerate(parts) if "{" in part or "}" in part), len(parts))
        found = tuple(part for part in parts[first:] if part)
        placeholders = [part for part in found if part in (DOMAIN, LOCAL, BOTH)]
        if sorted("".join(placeholders).replace("@", "").replace("}{", "} {").split()) != [DOMAIN, LOCAL]:
            raise ValueError(
                "a template must have {domain} and {local}, once each, as whole parts of the path or as {local}@{domain}, "
                f"such as PATH/{{domain}}/{{local}}, got {text!r}"
            )
        for part in found:
            if part not in placeholders and ("{" in part or "}" in part or part in (".", "..") or "\0" in part):
                raise ValueError(f"a template must not have the part {part!r}, got {text!r}")
        return cls(os.path.abspath("/".join(parts[:first]) or "/"), found)

    def __str__(self) -> str:
        return os.path.join(self.root, *self.parts)

    def folder(self, mailbox: str) -> str:
        """Return the path of a mailbox's folder, relative to the root."""
        path = Path.parse(f"<{mailbox}>")
        if path is not None:
            local, domain = path.local, path.domain
        else:  # a store can be given recipients that no server would accept
            local, _, domain = mailbox.rpartition("@") if "@" in mailbox else (mailbox, "", None)
        names = {LOCAL: encode_local(local), DOMAIN: encode_domain(domain)}
        names[BOTH] = limit(f"{names[LOCAL]}@{names[DOMAIN]}")
        return os.path.join(*(limit(names[part]) if part in names else part for part in self.parts))

    def folders(self) -> Iterator[str]:
        """Iterate over the paths of the Maildirs that exist, sorted. Other files are ignored."""
        return self._below(self.root, self.parts)

    def _below(self, path: str, parts: tuple[str, ...]) -> Iterator[str]:
        if not parts:
            if os.path.isdir(os.path.join(path, "new")):  # it is created last
                yield path
        elif parts[0] in (DOMAIN, LOCAL, BOTH):
            try:
                names = sorted(name for name in os.listdir(path) if not name.startswith("."))
            except (FileNotFoundError, NotADirectoryError):
                return
            for name in names:
                yield from self._below(os.path.join(path, name), parts[1:])
        else:
            yield from self._below(os.path.join(path, parts[0]), parts[1:])


def encode_domain(domain: str | None) -> str:
    """Return the name of a domain's directory."""
    return NO_DOMAIN if domain is None else encode(domain, DOMAIN_SAFE)


def encode_local(local: str) -> str:
    """Return the name of a local part's directory."""
    return encode(local, LOCAL_SAFE)


def encode(text: str, safe: frozenset[int]) -> str:
    """Return a text as a name: in lower case, and with all octets encoded that are not safe."""
    octets = text.encode("utf-8", "surrogateescape").lower()
    name = "".join(chr(octet) if octet in safe else f"%{octet:02X}" for octet in octets)
    return f"%{octets[0]:02X}{name[1:]}" if name[:1] in (".", "-") else name or "%"


def limit(name: str) -> str:
    """Return a name, or the beginning of one that is too long with a hash of all of it."""
    return name if len(name) <= MAX_NAME else f"{name[:KEPT]}%-{hashlib.sha256(name.encode()).hexdigest()}"
