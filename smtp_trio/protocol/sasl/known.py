"""`MECHANISMS`: the mechanisms of this package."""

from __future__ import annotations

from .cram import CRAM_MD5
from .external_anonymous import ANONYMOUS, EXTERNAL
from .mechanism import Mechanism
from .oauth import OAUTHBEARER, XOAUTH2
from .plain_login import LOGIN, PLAIN
from .scram import SCRAM_SHA_1, SCRAM_SHA_1_PLUS, SCRAM_SHA_256, SCRAM_SHA_256_PLUS

# The order of preference under TLS, where an eavesdropper sees nothing:
#
# * SCRAM first: neither side has to trust the other with the password. The forms with channel binding come before the
#   others, since they also fail if someone is between client and server (RFC 5802 6).
# * PLAIN and LOGIN before CRAM-MD5, which would be the better one on an open line. Under TLS its challenge protects
#   nothing more, and a server can check a PLAIN password against a one-way hash, but has to store the password itself
#   for CRAM-MD5. A client that prefers PLAIN does not give the server a reason to.
# * The other mechanisms do not compete with these, since they take other credentials; of those for bearer tokens the
#   standard one comes first.
#
# Without TLS `usable_mechanisms` puts those that reveal the password last, and uses them only with ``allow_cleartext``.

_ALL: tuple[Mechanism, ...] = (
    SCRAM_SHA_256_PLUS, SCRAM_SHA_1_PLUS, SCRAM_SHA_256, SCRAM_SHA_1, PLAIN, LOGIN, CRAM_MD5, OAUTHBEARER, XOAUTH2, EXTERNAL,
    ANONYMOUS,
)  # fmt: skip

#: All mechanisms by name, in order of preference.
MECHANISMS: dict[str, Mechanism] = {mechanism.name: mechanism for mechanism in _ALL}
