"""The output of ``smtp-trio send``: the outcome for each recipient, errors, and the progress."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence

import trio

from .._client.results import Accepted, ConnectionLostError, Outcome, TimedOutError, TlsHandshakeError, Unknown
from .._server.log_events import clean
from ..protocol import Connect, NotOfferedError, RemoteProtocolError, ReplyError, SMTPError
from ..protocol.extensions.auth import AuthCommand
from .message_files import MessageFile
from .options import describe_error, strip_openssl_details

#: The least time in seconds between two updates of the progress.
PROGRESS_INTERVAL = 0.1
#: The reason of the outcome of recipients whose message was not sent because of an error that was printed already.
NOT_SENT = "not sent"


#: Names in the messages of the library, and what a user of the command line has in place of them.
TERMS = {
    "CONNECT: ": "",  # the greeting, which is not the reply to a command
    "allow_cleartext=True": "--allow-cleartext",
    "which may be sent only with body='BINARYMIME'": "which may not be sent",
    'tls="required"': "--tls required",
    'tls="implicit"': "--tls implicit",
}


def error_text(error: SMTPError) -> str:
    """Return the message of an error in the terms of the command line."""
    text = strip_openssl_details(str(error))
    for name, term in TERMS.items():
        text = text.replace(name, term)
    return text


def hint(error: SMTPError) -> str:
    """Return what the user can do when the server cannot be used, or "" if the message of the error names the option."""
    if "--tls" in error_text(error):
        return ""
    match error:
        case TlsHandshakeError(unverified=str()):
            return "; use --cafile FILE to trust other certificates"
        case TlsHandshakeError():
            return "; check that --tls fits this port"
        case ReplyError(command=AuthCommand()):
            return "; check --user and the password"
        case NotOfferedError() if "STARTTLS" in str(error):
            return "; use --tls implicit for a port that starts with TLS, or --tls never and --allow-cleartext to go without"
        case NotOfferedError():
            return "; check --server, or omit --user"
        case ConnectionLostError() | TimedOutError(command=Connect()) | RemoteProtocolError():
            return "; check --server"
        case _:
            return ""


class SendReport:
    """The output: a line for each recipient on standard output, errors and progress on standard error.

    With ``verbose``, the dialogue with the server is printed in place of the progress.
    """

    def __init__(self, *, verbose: bool = False) -> None:
        self.verbose: bool = verbose
        #: The statuses that were printed: "accepted", "refused", "deferred", "unknown".
        self.statuses: set[str] = set()
        #: Whether a file in a directory was skipped, because it is not a message that can be sent.
        self.skipped: bool = False
        #: Whether an option was found to be invalid after the start.
        self.usage_error: bool = False
        self._shows_progress = sys.stderr.isatty() and not verbose
        self._next_progress = 0.0
        self._progress_shown = False

    @property
    def exit_code(self) -> int:
        """The exit code.

        What only the user can resolve, a permanent refusal or a skipped file, takes precedence over a temporary
        refusal.
        """
        if self.usage_error:
            return 2
        if self.skipped or "refused" in self.statuses:
            return 1
        return os.EX_TEMPFAIL if self.statuses - {"accepted"} else 0

    def outcomes(self, message: MessageFile, known: Iterable[Outcome]) -> None:
        """Print the known outcomes of a message."""
        for outcome in known:
            self._outcome(message, outcome)

    def _outcome(self, message: MessageFile, outcome: Outcome) -> None:
        match outcome:
            case Accepted(recipient, reply):
                self._line("accepted", recipient, str(reply), message)
            case Unknown(recipient, reason):
                self._line("unknown", recipient, f"{reason}; it may have been delivered", message)
            case _:
                status = refusal_status(temporary=outcome.temporary)
                self._line(status, outcome.recipient, str(outcome.reply), message)

    def connect_error(self, error: SMTPError) -> None:
        """Print why the server cannot be used, and what the user can do."""
        self.error(error_text(error) + hint(error))

    def not_sent(self, message: MessageFile, error: SMTPError) -> None:
        """Print the outcome of a message that was not sent because of an error that was printed already."""
        status = refusal_status(temporary=is_temporary(error))
        for recipient in message.recipients:
            self._line(status, recipient, NOT_SENT, message)

    def failure(self, message: MessageFile, recipients: Sequence[str], error: SMTPError) -> None:
        """Print the error as the outcome of these recipients."""
        status = refusal_status(temporary=is_temporary(error))
        text = str(error.reply) if isinstance(error, ReplyError) else error_text(error)
        for recipient in recipients:
            self._line(status, recipient, text, message)

    def _line(self, status: str, recipient: str, text: str, message: MessageFile) -> None:
        self.statuses.add(status)
        self.clear_progress()
        try:
            print(f"{status}  <{clean(recipient)}>  {clean(text)}  {clean(message.name)}", flush=True)
        except OSError as error:  # the messages are sent all the same
            if not isinstance(error, BrokenPipeError):  # the reader of the output may end
                self.error(f"standard output: {describe_error(error)}")
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def skip(self, reason: str) -> None:
        """Print why a file in a directory is skipped."""
        self.skipped = True
        self.error(f"{reason}; skipped")

    def error(self, text: str) -> None:
        """Print an error."""
        self.clear_progress()
        print(f"smtp-trio: error: {clean(text)}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Print a note, which has no effect on the exit code."""
        self.clear_progress()
        print(f"smtp-trio: note: {clean(text)}", file=sys.stderr, flush=True)

    def progress(self, label: str, sent: int, size: int | None) -> None:
        """Show how much of a message was sent, at a terminal and at most once in each ``PROGRESS_INTERVAL``."""
        now = trio.current_time()
        if not self._shows_progress or not size or now < self._next_progress:
            return
        self._next_progress, self._progress_shown = now + PROGRESS_INTERVAL, True
        text = f"{clean(label)}  {100 * sent // size} %"
        sys.stderr.write("\r" + text[: shutil.get_terminal_size().columns - 1] + "\x1b[K")
        sys.stderr.flush()

    def clear_progress(self) -> None:
        """Erase the line of `progress`."""
        if self._progress_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._progress_shown = False


def is_temporary(error: SMTPError) -> bool:
    """Return whether the same attempt may succeed later."""
    return error.reply.temporary if isinstance(error, ReplyError) else error.temporary


def refusal_status(*, temporary: bool) -> str:
    """Return the status of a recipient that was refused."""
    return "deferred" if temporary else "refused"
