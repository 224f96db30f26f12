"""Exit codes of several commands. Importing this module is quick."""

import signal

#: The code that shells report for a process that SIGINT has ended.
INTERRUPTED = 128 + signal.SIGINT
