"""Sanitised HTML of messages, without active content and remote resources."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import unquote

import nh3

if TYPE_CHECKING:
    from ._message import MessagePart

# A message is displayed in a frame. Three measures isolate it from the page, each of which would stop scripts by itself:
#
# 1. nh3 keeps only the elements and attributes below. Scripts, forms, frames, SVG, ``<base>`` and ``<meta>`` are removed.
# 2. The attribute ``sandbox`` of the frame, and the directive of the same name in its response, give the document an origin of
#    its own, without scripts.
# 3. The Content-Security-Policy of the response allows inline styles and images in ``data:`` URLs, and nothing else. So the
#    document cannot fetch anything, not even from a style sheet, whose text nh3 does not check.
#
# Images of the message (``cid:`` URLs, RFC 2392) are embedded as ``data:`` URLs, so the frame needs no access to this server.
# Fetching images from other servers would reveal to the sender that the message was read, and when. So their URLs are
# removed until the user asks for them.
#
# The time that an HTML parser needs grows with the number of elements and the depth at which they are, because it looks for
# open elements. `MAX_TAGS` bounds both. Most documents of this size take milliseconds, and the worst that was found, an
# element of 100,000 attributes, takes three seconds, in a thread that has the GIL only while an attribute is looked at.

#: The maximum number of "<" in displayed HTML.
MAX_TAGS = 10_000
#: The number of characters that are searched for references to other servers.
MAX_SCAN = 1 << 17
#: The maximum number of octets of the images that are embedded in one document.
MAX_IMAGES = 8 << 20

TAGS = nh3.ALLOWED_TAGS | {"center", "font", "style", "big", "tfoot", "section", "main"}
CLEAN_CONTENT_TAGS = {
    "script",
    "title",
    "noscript",
    "template",
    "iframe",
    "object",
    "svg",
    "math",
    "noembed",
    "noframes",
}
ATTRIBUTES = {
    **nh3.ALLOWED_ATTRIBUTES,
    "*": {"align", "bgcolor", "border", "class", "dir", "height", "id", "lang", "style", "title", "valign", "width"},
    "font": {"color", "face", "size"},
    "img": {"alt", "src"},
    "table": {"cellpadding", "cellspacing", "summary"},
}
#: `AttributeFilter` decides which of them images and links may have.
URL_SCHEMES = {"http", "https", "mailto", "tel", "cid", "data"}
LINK = re.compile(r"(?:https?|mailto|tel):|#", re.IGNORECASE)
REMOTE = re.compile(r"(?:https?:)?//", re.IGNORECASE)
#: A reference to another server in a style sheet.
STYLE_URL = re.compile(r"url\(\s*(?:[\"']\s*)?(?:https?:)?//", re.IGNORECASE)
REMOTE_IMAGE = re.compile(r"(?:\b(?:src|background)\s*=|\burl\()\s*(?:[\"']\s*)?(?:https?:)?//", re.IGNORECASE)
#: Types of images that browsers show, and that cannot contain scripts or references.
IMAGE_TYPES = frozenset(
    {"image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp", "image/x-icon"}
)
DATA_IMAGE = re.compile(
    rf"data:({'|'.join(map(re.escape, sorted(IMAGE_TYPES)))});base64,[A-Za-z0-9+/=\s]*", re.IGNORECASE
)

DOCUMENT = """\
<!doctype html><html><head><meta charset="utf-8"><meta name="referrer" content="no-referrer"><title>Message</title>
<style>body{{margin:16px;font:15px/1.5 system-ui,sans-serif;color:#1b1f24;background:#fff;overflow-wrap:anywhere}}\
img{{max-width:100%}}</style></head><body>{}</body></html>
"""


def is_cut(html: str) -> bool:
    """Return whether the end of HTML is not displayed, because it has too many elements."""
    return html.count("<") > MAX_TAGS


def has_remote_images(html: str) -> bool:
    """Return whether the beginning of HTML seems to refer to images of other servers."""
    return REMOTE_IMAGE.search(html, 0, MAX_SCAN) is not None


def sanitised(html: str, parts: Iterable[MessagePart] = (), *, remote: bool = False) -> str:
    """Return an HTML document without scripts, forms, frames and remote resources. It may take a few seconds.

    ``parts`` are the parts of the message, which may be embedded images. ``remote`` keeps the URLs of images on other servers.
    """
    pieces = html.split("<", MAX_TAGS + 1)
    clean = nh3.clean(
        "<".join(pieces[: MAX_TAGS + 1]),
        tags=TAGS,
        clean_content_tags=CLEAN_CONTENT_TAGS,
        attributes=ATTRIBUTES,
        url_schemes=URL_SCHEMES,
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
        attribute_filter=AttributeFilter(parts, remote=remote),
    )
    return DOCUMENT.format(clean)


class AttributeFilter:
    """A filter of the URLs in the attributes of one document."""

    def __init__(self, parts: Iterable[MessagePart], *, remote: bool) -> None:
        self._parts = {part.content_id: part for part in parts if part.content_id and part.type in IMAGE_TYPES}
        self._urls: dict[str, str] = {}
        self._octets = 0
        self._remote = remote

    def __call__(self, tag: str, name: str, value: str) -> str | None:
        """Return the value that an attribute gets, or None to remove it."""
        match name:
            case "src":
                if value[:4].lower() == "cid:":
                    return self._data_url(value[4:])
                is_kept = self._remote if REMOTE.match(value) else DATA_IMAGE.fullmatch(value)
                return value if is_kept else None
            case "href" | "cite":
                return value if LINK.match(value) else None
            case "style" if not self._remote:
                return STYLE_URL.sub("url(about:invalid#", value)
        return value

    def _data_url(self, content_id: str) -> str | None:
        """Return the ``data:`` URL of an image in the message, or None. Each use counts towards MAX_IMAGES."""
        part = self._parts.get(unquote(content_id))
        if part is None or self._octets + part.size > MAX_IMAGES:
            return None
        self._octets += part.size
        if content_id not in self._urls:
            self._urls[content_id] = f"data:{part.type};base64,{base64.b64encode(part.octets()).decode()}"
        return self._urls[content_id]


def content_policy(*, remote: bool) -> str:
    """Return the Content-Security-Policy of a displayed message."""
    images = "data: http: https:" if remote else "data:"
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src {images}; form-action 'none'; base-uri 'none'; "
        "frame-ancestors 'self'; sandbox allow-popups allow-popups-to-escape-sandbox"
    )
