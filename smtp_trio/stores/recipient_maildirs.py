"""One Maildir for each recipient."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Self

from attrs import evolve

from .._server.spool import check_path
from ._disk import PART, Directory, check_no_link, check_writable, flush_octets, make_directory, write_all
from ._maildir_file import encode_envelope, unique_part
from ._maildir_store import FileSpool, MaildirStore, Newline, apply, remove_old_files, split_url
from ._maildir_template import Template
from .maildir import unique_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ._entry import Entry

# How a message is delivered to several Maildirs
# ----------------------------------------------
#
# A recipient must not see the others: they may be blind copies. So each Maildir gets a file of its own, which differs from
# the others in the fields of the envelope, and no links to one file.
#
# 1. Write the files of all recipients into one directory, ``.smtp-trio-tmp`` below the root, and fsync each.
# 2. rename each into the ``new/`` of its Maildir. A Maildir that does not exist is created now.
# 3. fsync the ``new/`` of each Maildir that got a message of the group, once; then the directory of step 1.
# 4. Send 250.
#
# The first step takes nearly all of the time, and is done for all recipients before the second one begins. After an error
# in any step the message is removed from all Maildirs, and the reply is 451 or 452. A process that is killed in the second
# step, or a power cut, can leave it in some Maildirs and not in others. The 250 was not sent then, so the client sends it
# again. Some recipients can get it twice, but every accepted recipient gets it.
#
# One directory for files that are written, and not the ``tmp/`` of each Maildir, saves a flush for each, and what killed
# processes have left can be found. All Maildirs must be on its file system, since a rename does not move a file to another.
#
# The file of the first recipient gets the octets of a large message while it is received. The others are copied from it
# when it is complete, one by one, so that a message never has more than two files open. Directories are kept open, up to
# `MAX_OPEN` of them. One that was closed and is opened again for its flush must be the same as before: otherwise the flush
# would not be that of the message.

#: The directory with files that are being written. Names of folders do not begin with a dot.
TMP = ".smtp-trio-tmp"
#: The number of directories that are kept open.
MAX_OPEN = 64


class RecipientMaildirs(MaildirStore["RecipientSpool"]):
    """A store that delivers a message into the Maildir of each of its recipients.

    ``template`` is the path of a Maildir with the placeholders ``{domain}`` and ``{local}``, such as
    ``mail/{domain}/{local}``. Maildirs are created with their first messages. ``newline`` is as in `Maildir`.

    It cannot be consumed. The id of a message is the same in all Maildirs, and its entry has the recipients of all.
    """

    def __init__(self, template: str | os.PathLike[str], *, newline: Newline = "crlf") -> None:
        self.template: Template = Template.parse(check_path(template, "template"))
        super().__init__(str(self.template), newline)
        self.path: str = self.template.root
        self.tmp: str = os.path.join(self.path, TMP)
        self._tmp: Directory | None = None
        self._open_maildirs: dict[str, Directory] = {}
        """The ``new/`` of Maildirs by their folders, the one that was used last at the end."""

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the store of ``maildir:PATH/{domain}/{local}``, with ``?newline=lf`` if it is wanted."""
        template, newline = split_url(url)
        return cls(template, newline=newline)

    def __repr__(self) -> str:
        return f"RecipientMaildirs({str(self.template)!r})"

    @staticmethod
    def id_of(name: str) -> str:
        """Return the id, without the size, which differs between recipients."""
        return unique_part(name).partition(",")[0]

    def _maildirs(self) -> Iterator[str]:
        return self.template.folders()

    def _spool(self, entry: Entry, trace: Callable[[], bytes]) -> RecipientSpool:
        received = trace().removesuffix(b"\r\n\r\n").removesuffix(b"\r\n")  # see `Spool.separate`
        return RecipientSpool(self, entry, received + b"\r\n", lf=self.newline == "lf")

    def _commit(self, messages: Sequence[RecipientSpool]) -> dict[RecipientSpool, Exception]:
        errors: dict[RecipientSpool, Exception] = {}
        self.no_commit.clear()
        try:
            tmp = self.tmp_directory()
            apply(RecipientSpool.finish, messages, errors)
            moved: dict[str, os.stat_result] = {}
            apply(partial(RecipientSpool.move, tmp=tmp, moved=moved), messages, errors)
            for folder, status in moved.items():
                try:
                    self.flush(folder, status)
                except Exception as error:
                    errors |= {
                        message: error for message in messages if message not in errors and folder in message.folders
                    }
            tmp.sync()
        except Exception as error:
            errors |= dict.fromkeys(messages, error)
        finally:
            self.no_commit.set()
        for message in messages:
            if message in errors:
                message.remove()
        if self.abandoned:
            self.remove_abandoned()
        return errors

    def _open(self) -> None:
        if self.create:
            self.tmp_directory()
        else:
            Directory(self.path, follow=True)

    def tmp_directory(self) -> Directory:
        """Return the directory in which files are written; create and open it first when it is not open."""
        found = self._tmp
        if found is None or not found.is_current():
            make_directory(self.path, follow=True)
            make_directory(self.tmp)
            check_writable(self.tmp)
            found = self._tmp = Directory(self.tmp)
            remove_old_files(found)
        return found

    def maildir(self, folder: str) -> Directory:
        """Return the ``new/`` of a Maildir, which is created if it does not exist."""
        found = self._open_maildirs.pop(folder, None)
        if found is None or not found.is_current():
            path = os.path.join(self.path, folder)
            new = os.path.join(path, "new")
            if not os.path.isdir(new):
                # The last one is new/, so a Maildir that has it is complete. Its name is flushed below, also if the process
                # that created it has ended too early.
                for each in (path, os.path.join(path, "tmp"), os.path.join(path, "cur"), new):
                    make_directory(each)
            check_no_link(path)
            found = Directory(new)
            Directory(path).sync()
        while len(self._open_maildirs) >= MAX_OPEN:
            del self._open_maildirs[next(iter(self._open_maildirs))]
        self._open_maildirs[folder] = found
        return found

    def flush(self, folder: str, status: os.stat_result) -> None:
        """Make the names in the ``new/`` of a Maildir durable. Raises OSError if it is not the one with this status."""
        directory = self.maildir(folder)
        if not os.path.samestat(os.fstat(directory.fd), status):
            raise FileNotFoundError(errno.ENOENT, "the directory was moved or removed while in use", directory.path)
        directory.sync()

    def _close(self) -> None:
        self.remove_abandoned()
        self._tmp = None
        self._open_maildirs.clear()


class RecipientSpool(FileSpool):
    """A message before it is in the Maildirs: in memory, or in a file that has the fields of the first recipient."""

    def __init__(self, store: RecipientMaildirs, entry: Entry, fields: bytes, *, lf: bool) -> None:
        super().__init__(unique_name(entry.received), fields, lf=lf)
        self.maildirs: RecipientMaildirs = store  # type: ignore[assignment]
        indexes: dict[str, list[int]] = {}
        for n, recipient in enumerate(entry.recipients):
            indexes.setdefault(store.template.folder(recipient), []).append(n)
        self.folders: dict[str, bytes] = {
            folder: self._envelope(entry, numbers, lf=lf) for folder, numbers in indexes.items()
        }
        """The fields of the envelope for the file in each folder."""
        self._sizes: list[int] = []  # of the files that are durable, in the order of the folders
        self._places: list[str] = []  # the paths of all files, which are removed when the message cannot be stored
        self._fd: int | None = None

    @staticmethod
    def _envelope(entry: Entry, numbers: list[int], *, lf: bool) -> bytes:
        recipients = tuple(entry.recipients[n] for n in numbers)
        own = evolve(entry, recipients=recipients, rcpt_params=tuple(entry.rcpt_params[n] for n in numbers))
        fields = encode_envelope(own)
        return fields.replace(b"\r\n", b"\n") if lf else fields

    @property
    def written(self) -> bool:
        """True if a file was created."""
        return self._places != []

    def _file(self, n: int) -> str:
        """Return the name of the file for a folder in the directory for files that are written."""
        return f"{self.name}.{n}"

    def _create(self, n: int, directory: Directory, envelope: bytes) -> int:
        """Create the file for a folder, write the envelope, and return its descriptor."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = fd = os.open(self._file(n), flags, 0o600, dir_fd=directory.fd)
        self._places.append(os.path.join(directory.path, self._file(n)))
        write_all(fd, envelope)
        return fd

    def write(self, data: bytearray) -> None:
        """Write octets to the file of the first folder, and flush each part of them."""
        if self._fd is None:
            self.maildirs.remove_abandoned()
            self._create(0, self.maildirs.tmp_directory(), next(iter(self.folders.values())))
        assert self._fd is not None
        with memoryview(data) as octets:
            for begin in range(0, len(octets), PART):
                self._write_part(self._fd, octets[begin : begin + PART])

    def _write_part(self, fd: int, octets: bytes | memoryview) -> None:
        self.maildirs.no_commit.wait()
        write_all(fd, octets)
        flush_octets(fd)

    def finish(self) -> None:
        """Make the files of all folders durable."""
        if self._sizes:
            return
        tmp = self.maildirs.tmp_directory()
        if self._fd is None:
            data = self.take()
            for n, envelope in enumerate(self.folders.values()):
                write_all(self._create(n, tmp, envelope), data)
                self._finish_file()
            return
        self.flush(last=True)
        self._finish_file()
        first, *others = self.folders.values()
        for n, envelope in enumerate(others, 1):
            source = os.open(self._file(0), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=tmp.fd)
            try:
                fd = self._create(n, tmp, envelope)
                os.lseek(source, len(first), os.SEEK_SET)
                while part := os.read(source, PART):
                    self._write_part(fd, part)
            finally:
                os.close(source)
            self._finish_file()

    def _finish_file(self) -> None:
        """Flush and close the file that is open. Some file systems report a failed write only when it is closed."""
        assert self._fd is not None
        os.fsync(self._fd)
        self._sizes.append(os.fstat(self._fd).st_size)
        self._close()

    def _close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def move(self, *, tmp: Directory, moved: dict[str, os.stat_result]) -> None:
        """Move the files into ``new/`` of their Maildirs, and note which directories these are."""
        for n, (folder, size) in enumerate(zip(self.folders, self._sizes, strict=True)):
            new = self.maildirs.maildir(folder)
            status = os.fstat(new.fd)
            if not os.path.samestat(moved.setdefault(folder, status), status):
                raise FileNotFoundError(errno.ENOENT, "the directory was replaced while in use", new.path)
            name = f"{self.name},S={size}"
            os.rename(self._file(n), name, src_dir_fd=tmp.fd, dst_dir_fd=new.fd)
            self._places.append(os.path.join(new.path, name))

    def remove(self) -> None:
        """Close and remove all files of this message."""
        with suppress(OSError):
            self._close()
        for path in self._places:
            with suppress(OSError):
                os.unlink(path)
        self._places = []
