"""The recipients of a message after its aliases were expanded."""

from __future__ import annotations

from typing import Final

from .._types import Envelope
from ..protocol import Params, Path, Rcpt
from ..protocol.extensions.dsn import NEVER, NOTIFY, ORCPT

#: The key in ``Envelope.context`` of the targets of aliases, by the recipient as it was sent.
TARGETS: Final = "smtp_trio.recipients"

# What an alias changes, and what it does not
#
# The envelope keeps each recipient as the client has sent it. The log, the replies (in LMTP there is one for each of
# them) and the Received field are about these. A store keeps what the message is to be delivered to, because a consumer
# or a relay that reads it has no aliases of its own. So the targets are put into the place of an alias where the
# envelope is passed on, and `expanded` is that place.
#
# The targets have the parameters of the recipient that was sent. RFC 3461 5.2.7.2 asks for that if there is one target. For
# several, 5.2.7.3 has three ways. In two of them the server that expands the alias sends a report itself if NOTIFY has
# SUCCESS, which nothing here can do. The third one, (b), is to pass NOTIFY on to exactly one target. So one target has
# SUCCESS, and the sender gets one report of success, as for any recipient. FAILURE and DELAY are passed on to all, as in
# (c): a message that does not reach one of the targets must not be lost without a report.
#
# If the client has sent no ORCPT, one is added that has the recipient of its RCPT (RFC 3461 5.2.1). Reports about the
# message then name the address that the sender has used, and the store has it too.


def expanded(envelope: Envelope) -> tuple[Rcpt, ...]:
    """Return the recipients of a message, with the targets of each alias in its place.

    A target has the parameters of the recipient that was sent, and as ``ORCPT`` that recipient, unless the client sent
    this parameter itself. Of several targets only the first one has ``NOTIFY=SUCCESS``, if the client sent that. An address
    that several aliases have is in the result once. Without aliases the result is ``envelope.rcpts``.
    """
    targets: dict[str, tuple[Path, ...]] | None = envelope.context.get(TARGETS)
    if not targets:
        return envelope.rcpts
    found: dict[str, Rcpt] = {}
    for rcpt in envelope.rcpts:
        sent = rcpt.recipient
        if sent.raw not in targets:
            found.setdefault(sent.lower(), rcpt)
            continue
        params = _with_original(rcpt.params, sent)
        for path in targets[sent.raw]:
            if (key := path.lower()) not in found:
                found[key] = Rcpt(path, params)
                params = _without_success(params)
    return tuple(found.values())


def _with_original(params: Params, sent: Path) -> Params:
    """Return the parameters with an ORCPT."""
    if ORCPT in params:
        return params
    original = f"{'rfc822' if sent.is_ascii else 'utf-8'};{sent.raw}"
    try:
        ORCPT.format(original)
    except ValueError:  # too long
        return params
    return params.replace(ORCPT, original)


def _without_success(params: Params) -> Params:
    """Return the parameters without SUCCESS in NOTIFY. NEVER takes its place if there is nothing else: without NOTIFY,
    failures would be reported, for which the sender has not asked."""
    notify = params.get(NOTIFY)
    return params if notify is None else params.replace(NOTIFY, notify - {"SUCCESS"} or NEVER)
