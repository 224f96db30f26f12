"""Parameters of MAIL and RCPT as text, which is how stores keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..protocol.arguments import check_items, check_type
from ..protocol.extension import Extension
from ..protocol.extensions import KNOWN
from ..protocol.params import NO_PARAMS, Params, parse_params
from ..protocol.syntax import PARAMETER
from ._errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable


# Parameters are kept as text, and not by name: a store knows none of them, so that an extension which is added later, or
# by a third party, needs no change here. `Param.format` makes the text. It is checked, since a line break in it would
# add a field to a file, which a reader of the store could take for a part of the envelope.
def format_params(params: Params) -> str:
    """Return parameters as text, ``KEYWORD=value`` with single spaces between them.

    Raises `StoreError` for a `Param` whose ``format`` returns what is not the text of a parameter.
    """
    if not params:
        return ""
    words = params.words()
    for word in words:
        if not PARAMETER.fullmatch(word):
            raise StoreError(f"a parameter cannot be stored, since its text is not valid: {word!a}")
    return " ".join(words)


def parse_stored_params(text: str, extensions: Iterable[Extension] = KNOWN) -> Params:
    """Return the parameters in a text of `Stored` as typed values, by `Param`.

    Parameters that none of the ``extensions`` defines are left out.
    """
    check_type(text, "text", str)
    known = {
        param.keyword: param
        for extension in check_items(extensions, "extensions", Extension)
        for params in extension.params.values()
        for param in params
    }
    words = [word for word in text.split(" ") if word.partition("=")[0].upper() in known]
    return parse_params(" ".join(words), known) if words else NO_PARAMS
