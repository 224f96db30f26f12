"""The exceptions of routing."""

from __future__ import annotations

from ..protocol import Reply, SMTPError


class RoutingError(SMTPError):
    """Base class of the exceptions for a domain to which a message cannot be sent, at least not now.

    ``reply`` is the reply that the failure amounts to, as in a bounce or from a relay. ``temporary`` is that of the
    reply.
    """

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply: Reply = reply

    @property
    def temporary(self) -> bool:
        """True if another attempt later may succeed (RFC 5321 4.2.1, 4yz)."""
        return self.reply.temporary


class LookupFailedError(RoutingError):
    """A lookup in the DNS got no answer: a timeout, SERVFAIL, an invalid message, or a failed validation.

    ``name`` and ``type`` are those of the lookup, ``reason`` is for people. The failure is ``temporary`` unless the
    same lookup will certainly fail again (RFC 5321 5.1). A name without records is an answer, and not a failure.
    """

    def __init__(self, name: str, type: str, reason: str, *, temporary: bool = True) -> None:
        # RFC 3463 3.5: X.4.3 is a failure of the directory server.
        code, status = (451, "4.4.3") if temporary else (550, "5.4.3")
        super().__init__(Reply(code, f"DNS lookup failed: {name} {type}: {reason}", status))
        self.name: str = name
        self.type: str = type
        self.reason: str = reason


class NullMxError(RoutingError):
    """The domain accepts no mail (RFC 7505). ``reply`` is 556 5.1.10, and nothing was connected to."""

    def __init__(self, domain: str) -> None:
        super().__init__(Reply(556, f"{domain} does not accept mail (null MX)", "5.1.10"))
        self.domain: str = domain
