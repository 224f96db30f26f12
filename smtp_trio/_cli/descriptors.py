"""The file descriptors of ``smtp-trio serve``: as many as the process may have, and no more sessions than fit into them."""

from __future__ import annotations

import resource

#: The limit of sessions when there are descriptors enough.
MAX_SESSIONS = 512
#: What a session may need at a time: its socket, a file that a hook has spooled its message into, and the store's file.
PER_SESSION = 3
#: What is not a session's: connections that are accepted to be refused with 421, and the listeners, the log, the
#: directories and the database of the store, the password file, the event loop and the name service.
RESERVE = 128
#: With HTTP in the same process, one in so many descriptors is for its connections (`web._http.max_connections`).
HTTP_SHARE = 4


def raise_descriptor_limit() -> int:
    """Raise the soft limit of file descriptors to the hard limit, and return it.

    The soft limit is often 1,024, for programs that use select(2), and the hard limit much higher.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def sessions_within(descriptors: int, *, http: bool = False) -> int:
    """Return how many sessions fit into this number of descriptors: `MAX_SESSIONS` at most, and at least 1.

    ``http``: the process serves HTTP as well.

    With more sessions, messages would be refused that clients have sent, since their files could not be opened. A client
    that is refused with 421 before its session loses nothing.
    """
    if descriptors == resource.RLIM_INFINITY:
        return MAX_SESSIONS
    descriptors -= descriptors // HTTP_SHARE if http else 0
    return max(1, min(MAX_SESSIONS, (descriptors - RESERVE) // PER_SESSION))
