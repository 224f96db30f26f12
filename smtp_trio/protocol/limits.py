"""What one peer may use up."""

from __future__ import annotations

from attrs import field, frozen


@frozen(kw_only=True)
class Limits:
    """What one peer may use up.

    ``sessions`` and ``per_peer`` count open connections; None: no limit. ``errors`` is how many commands a session may get wrong,
    and ``junk`` how many it may send that do no work, both since its last accepted message, before it is told 421.
    ``auth_failures`` is for the whole session. ``received`` is how many hops a message may have made (RFC 5321 6.3), ``line`` how
    long a command line may be, in octets. ``strict_lengths`` refuses paths longer than what everybody must take (RFC 5321
    4.5.3.1.1 to .3).
    """

    sessions: int | None = None
    per_peer: int | None = None
    # RFC 5321 4.5.3.1.8: a server MUST take a hundred recipients.
    recipients: int = field(default=1000)
    errors: int = field(default=20)
    junk: int = 100
    auth_failures: int = 3
    received: int = 100
    line: int = 2048
    strict_lengths: bool = False

    @errors.validator
    def _patient(self, _: object, value: int) -> None:
        if value < 2:
            raise ValueError(
                f"limits.errors must be 2 or more: one bad command is no reason to close (RFC 5321 3.8), not {value}"
            )

    @recipients.validator
    def _enough(self, _: object, value: int) -> None:
        if value < 100:
            raise ValueError(f"limits.recipients must be 100 or more (RFC 5321 4.5.3.1.8), not {value}")
