"""Sphinx settings. The nox session `docs` builds the pages; a warning or a reference without a target fails it."""

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

extensions = ["sphinx.ext.autodoc", "sphinx.ext.intersphinx", "sphinxcontrib_trio"]
exclude_patterns = ["_build"]
default_role = "py:obj"
html_theme = "furo"
html_title = f"smtp_trio {version}"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True

# The pages link to the documentation of Python and Trio. The build needs no network: it reads where each name is documented from
# the files in _inventories, which list the names that these pages use ("name type page", Sphinx's first inventory format).
# A name that is missing there fails the build; add a line.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", "_inventories/python.txt"),
    "trio": ("https://trio.readthedocs.io/en/stable", "_inventories/trio.txt"),
}

nitpicky = True
nitpick_ignore_regex = [
    # `name` in a docstring becomes a link if there is a target, and is printed as a name otherwise.
    (r"py:obj", r".*"),
    # Unions, which the pages spell out.
    (r"py:class", r"Secret|Role"),
    (r"py:class", r"datetime"),  # in an annotation: the class and the module have one name
    # Names in the signature of `Server` that Sphinx does not resolve, since `TlsFiles` there is imported for type checkers only.
    (r"py:class", r"Newlines|NetworkLike"),
    (r"py:class", r"smtp_trio\.protocol\.framing\.ReceiveBuffer"),
    # Names of libraries that the pages do not link to.
    (r"py:.*", r"(attr|trustme|hypothesis|opentelemetry)\..*"),
    # The sums over workers, which only `smtp-trio serve` makes.
    (r"py:class", r"Snapshot"),
    # Hypothesis is an optional dependency.
    (r"py:class", r"SearchStrategy"),
    # Sphinx does not find what the names in overloads of a decorated function mean.
    (r"py:class", r"HooksOrServer|AbstractAsyncContextManager"),
    # Type variables.
    (r"py:class", r"(.*\.)?[A-Z][A-Za-z]*T|(.*\.)?T"),
]


def show_defaults(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Show the default values in the signature of an ``__init__`` that attrs wrote, which only has placeholders for them."""
    if signature is not None and isinstance(obj, type) and attrs.has(obj):
        fields = attrs.fields_dict(obj)
        signature = re.sub(r"attr_dict\['(\w+)'\]\.default", lambda match: repr(fields[match[1]].default), signature)
        # A default from a factory, or one whose repr is not Python.
        signature = re.sub(r"\bNOTHING\b|<[^>]*>", "...", signature)
    return signature, returns


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-signature", show_defaults)
