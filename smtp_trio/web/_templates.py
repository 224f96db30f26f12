"""The templates of the page, and their filters."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any
from urllib.parse import quote

import jinja2

# The texts on the page are untrusted. Jinja escapes markup, but not invisible characters and bidirectional formatting
# characters, with which "cod.exe" can look like "exe.doc" (Unicode TR 36 3.5).
#: Control and format characters that are replaced by their code point. Tabs and line endings are kept.
HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)

#: The replacements by code point. `str.translate` takes a tenth of the time of a function that is called for each match, during
#: which no SMTP session is served.
NUMBERS = {code: f"[U+{code:04X}]" for code in range(0x10000) if HIDDEN.match(chr(code))}


def visible(text: object) -> str:
    """Return a text with control and bidirectional formatting characters replaced by their code points."""
    shown = str(text).replace("\r\n", "\n")
    return shown.translate(NUMBERS) if HIDDEN.search(shown) else shown


def size(octets: int) -> str:
    """Format a number of octets in a suitable unit."""
    if octets < 1000:
        return f"{octets} B"
    number, units = octets / 1000, iter(("kB", "MB", "GB"))
    unit = next(units)
    while number >= 999.5 and unit != "GB":
        number, unit = number / 1000, next(units)
    return f"{number:.1f} {unit}" if number < 9.95 else f"{number:.0f} {unit}"


def moment(when: datetime) -> str:
    """Format a time in the local time zone, with the date unless it is today."""
    local = when.astimezone()
    if local.date() == datetime.now().astimezone().date():
        return f"{local:%H:%M:%S}"
    return f"{local:%d %b %H:%M}" if datetime.now().astimezone() - local < timedelta(days=300) else f"{local:%d %b %Y}"


def duration(seconds: float) -> str:
    """Format a number of seconds in its two largest units."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86_400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return (
        f"{minutes} min" if minutes >= 10 else f"{minutes} min {int(seconds) % 60} s" if minutes else f"{seconds:.0f} s"
    )


@cache
def environment() -> jinja2.Environment:
    """Return the environment of the templates, which are compiled at the first call, before any request."""
    created = jinja2.Environment(
        loader=jinja2.PackageLoader("smtp_trio.web"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    created.filters.update(visible=visible, size=size, moment=moment, duration=duration, id=partial(quote, safe=""))
    for name in created.list_templates():
        created.get_template(name)
    return created


def render(template: str, **values: Any) -> str:
    """Render a template with values."""
    return environment().get_template(template).render(values)
