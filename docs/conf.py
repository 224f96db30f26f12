"""Sphinx settings. The nox session `docs` builds the pages; a warning fails it, and so does a reference that leads nowhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

import smtp_trio

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "smtp_trio"
author = "The smtp_trio authors"
project_copyright = f"2026, {author}"
version = release = smtp_trio.__version__

extensions = ["sphinx.ext.autodoc", "sphinxcontrib_trio"]
exclude_patterns = ["_build"]
default_role = "py:obj"
html_theme = "furo"
html_title = f"smtp_trio {version}"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True

nitpicky = True
nitpick_ignore_regex = [
    # `A name` in a docstring is a link where it can be one, and else only a name.
    (r"py:obj", r".*"),
    # The pages are built without a network, so names of other libraries are printed, not linked.
    (
        r"py:.*",
        r"(attr|collections|contextlib|datetime|email|enum|hmac|logging|os|pathlib|re|socket|sqlite3|ssl|trio|trustme|typing)\..*|datetime",
    ),
    # Names of unions, which the pages spell out in words.
    (r"py:class", r"Secret|Side"),
    # Of Hypothesis, which is not there when it is not asked for.
    (r"py:class", r"SearchStrategy"),
    # Type variables.
    (r"py:class", r"(.*\.)?[A-Z][A-Za-z]*T|(.*\.)?T"),
]


def show_defaults(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """The ``__init__`` that attrs writes names its defaults in a way that says nothing; put the values in their place."""
    if signature is not None and isinstance(obj, type) and attrs.has(obj):
        fields = attrs.fields_dict(obj)
        signature = re.sub(r"attr_dict\['(\w+)'\]\.default", lambda match: repr(fields[match[1]].default), signature)
        signature = re.sub(
            r"\bNOTHING\b|<[^>]*>", "...", signature
        )  # made anew each time, or nothing that one could type
    return signature, returns


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-signature", show_defaults)
