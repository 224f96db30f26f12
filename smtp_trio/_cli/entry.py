"""The start of the processes of ``smtp-trio`` and ``python -m smtp_trio``. SIGINT ends them quietly from here on."""

import os
import signal
from types import FrameType

from .exit_codes import INTERRUPTED


# Ctrl-C while the program starts
#
# The modules of a command take up to half a second to import. A KeyboardInterrupt in that time would print a traceback
# of one of them; and in a callback of the import system or a destructor it would be printed and ignored. So while the
# modules are imported, SIGINT ends the process at once. There is nothing to clean up yet. After that, Python's own
# handler is in place, because reading a password must restore the terminal, and `main` turns KeyboardInterrupt into the
# exit code. The commands that use a network handle SIGINT themselves. When the command has ended, SIGINT is ignored: its
# exit code is known, and Python would print a traceback while it shuts down.
#
# A program that was started in the background, where shells let SIGINT be ignored, must go on ignoring it.
def main() -> int:
    """Run the command of this process, and return its exit code."""
    ignored = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    if not ignored:
        signal.signal(signal.SIGINT, leave)
    from .main import main as run

    if ignored:
        return run()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = run()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:  # just outside of `run`, which handles it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return INTERRUPTED
    return code


def leave(number: int, frame: FrameType | None) -> None:
    """End the process at once."""
    os._exit(INTERRUPTED)
