"""Reading and removing the messages of Maildirs, which mail readers may use at the same time. Everything here blocks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

from attrs import evolve

from .._server.log_events import FILE_SKIPPED
from ._disk import Directory
from ._errors import MessageNotFoundError
from ._maildir_file import age, list_files, read_entry, read_message, unique_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ._entry import Entry, Stored
    from ._maildir_file import MaildirFile

EntryT = TypeVar("EntryT", bound="Entry")
T = TypeVar("T")

# Other programs deliver into a Maildir, move files from ``new/`` to ``cur/``, change the flags in their names, and remove
# them, without locks. So a file can have another name than the one that was just listed; it is looked up again then.
# Whatever is in a file, it is a message, and shown as far as it can be read. A file that cannot be read, because it belongs
# to another user for example, is skipped with a line in the log: it must not hide the others.

#: Entries that are read by one call in a thread.
BATCH = 64


def list_messages(
    maildirs: Iterable[str], id_of: Callable[[str], str], *, reverse: bool = False
) -> list[list[MaildirFile]]:
    """Return the files of each message in some Maildirs, from the oldest message to the newest, or in reverse."""
    found: dict[str, dict[str, MaildirFile]] = {}
    for maildir in maildirs:
        for file in list_files(maildir, id_of):
            found.setdefault(file.id, {})[maildir] = file
    messages = [list(files.values()) for files in found.values()]
    return sorted(messages, key=lambda files: age(files[0].name), reverse=reverse)


def read_entries(messages: Sequence[Sequence[MaildirFile]]) -> list[Entry]:
    """Return the entries of messages, without those that were removed meanwhile or cannot be read."""
    entries = []
    for files in messages:
        parts = []
        for file in files:
            try:
                part = again(read_entry, file)
            except OSError as error:
                FILE_SKIPPED.log(path=file.path, error=error.strerror)
            else:
                if part is not None:
                    parts.append(part)
        if parts:
            entries.append(merge(parts))
    return entries


def read_stored(files: Sequence[MaildirFile], id: str) -> Stored:
    """Return a message. Raises `MessageNotFoundError` if it was removed meanwhile, and OSError."""
    parts = [part for part in (again(read_message, file) for file in files) if part is not None]
    if not parts:
        raise MessageNotFoundError(f"no message {id!r}")
    return merge(parts)


def again(work: Callable[[MaildirFile], T], file: MaildirFile) -> T | None:
    """Return what ``work`` returns for a file, also if a mail reader renames it meanwhile; None if it is gone."""
    for _ in range(3):
        try:
            return work(file)
        except FileNotFoundError:
            maildir = os.path.dirname(file.directory)
            found = next(
                (each for each in list_files(maildir) if unique_part(each.name) == unique_part(file.name)), None
            )
            if found is None:
                return None
            file = evolve(found, id=file.id)
    return None


def merge(parts: Sequence[EntryT]) -> EntryT:
    """Return the entry of a message that is in several Maildirs: each has only its own recipients in its file."""
    if len(parts) == 1:
        return parts[0]
    return evolve(
        parts[0],
        recipients=tuple(recipient for part in parts for recipient in part.recipients),
        rcpt_params=tuple(params for part in parts for params in part.rcpt_params),
    )


def remove_files(files: Iterable[MaildirFile]) -> set[str]:
    """Remove files durably, and return the ids of those that were there. Raises OSError."""
    removed = set()
    directories = set()
    for file in files:
        if again(unlink, file) is not None:
            removed.add(file.id)
            maildir = os.path.dirname(file.directory)
            directories |= {os.path.join(maildir, "new"), os.path.join(maildir, "cur")}
    for directory in directories:
        Directory(directory).sync()
    return removed


def unlink(file: MaildirFile) -> MaildirFile:
    """Remove a file."""
    os.unlink(file.path)
    return file
