"""The login of a client, and how a password stays out of tracebacks."""

from __future__ import annotations

from typing import cast

from ..protocol.arguments import check_type
from ..protocol.sasl import (
    AnonymousCredentials,
    BearerToken,
    ClientCredentials,
    ExternalCredentials,
    PasswordCredentials,
)

#: What a client logs in with; the tuple is user and password.
Login = ClientCredentials | tuple[str, str]
#: The types of it.
KINDS = (PasswordCredentials, BearerToken, ExternalCredentials, AnonymousCredentials, tuple)

# Programs that report their exceptions often add the local variables of all frames in the traceback (`cgitb`, the
# ``capture_locals`` of `traceback.TracebackException`, services that collect errors). A password in a tuple, a str or
# bytes would be in such a report. Therefore:
#
# * Every function of the public interface that takes ``auth`` first replaces it by an object whose `repr` does not show
#   the password. Nothing may raise an exception before: what is wrong is returned, and raised after the replacement.
# * Below, no variable holds a password or a line with one while something is awaited, only objects that hide it
#   (`AuthCommand`, `AuthResponse`, a memoryview).


def read_login(auth: object, what: str) -> tuple[ClientCredentials | None, Exception | None]:
    """Return ``auth`` as credentials, and the exception to raise, named ``what``, if it is nothing to log in with.

    It raises nothing itself.
    """
    try:
        check_type(auth, what, KINDS, optional=True, shown=False)
        if isinstance(auth, tuple):
            if [type(each) for each in auth] != [str, str]:
                raise TypeError(f"{what} must be a tuple of two str, the user and the password")
            return PasswordCredentials(*auth), None
    except (TypeError, ValueError) as error:
        return None, type(error)(str(error))  # without the frames of this one
    return cast("ClientCredentials | None", auth), None


def hide_login(settings: object) -> Exception | None:
    """Replace ``auth`` in keyword arguments as `read_login` does; return the exception to raise if it is invalid."""
    keywords = cast("dict[str, object]", settings)
    problem = None
    if "auth" in keywords:
        keywords["auth"], problem = read_login(keywords["auth"], "auth")
    return problem
