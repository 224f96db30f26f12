"""Rules as text: `parse_rule` and `format_rule`, which are inverse to each other.

The text of a rule has four parts: ``sometimes CHANCE``, the kind with its words, the number of times that the rule acts, and
its scope. The table in `grammar` defines the words of each kind; this module is independent of the kinds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Any

from attrs import field, frozen

from ...protocol.arguments import argument, check_type
from .grammar import BY_CLASS, BY_WORD, REQUIRED, Row, Word
from .policy import Policy
from .rule import Rule, Sometimes
from .scope import EVERYWHERE, Scope
from .values import CHANCE, NUMBER, Token, escape, suggestion, tokenize, unescape, write_number

#: The maximum number of characters of the text of a rule.
MAX_TEXT = 4096
COUNTS = {"once": 1, "twice": 2, "always": 0}
COUNT_WORDS = {count: word for word, count in COUNTS.items()}
MODIFIERS = ("nth", *COUNTS, "times", "by", "for", "from")
AnyRule = Rule | Sometimes | Policy


@frozen
class ScopedRule:
    """A rule or policy with its scope: the value of the text of a rule. ``str`` returns the text.

    :raises ValueError: the rule could never act in this scope; for example, MAIL comes before the recipients.
    """

    rule: AnyRule = field(validator=argument(check_type, (Rule, Sometimes, Policy)))
    scope: Scope = EVERYWHERE

    def __attrs_post_init__(self) -> None:
        at = place_of(self.rule)
        if at is not None:
            self.scope.check_place(at)

    @property
    def kind(self) -> str:
        """The kind of the rule, such as "answer"."""
        return row_of(self.rule).word

    def __str__(self) -> str:
        return format_rule(self.rule) + format_scope(self.scope)


#: The first place at which a policy acts.
POLICY_PLACES = {
    "connection-rate": "CONNECT",
    "connections-per-peer": "CONNECT",
    "messages-per-connection": "MAIL",
    "message-rate": "MAIL",
}


def place_of(rule: AnyRule) -> str | None:
    """Return the place at which a rule acts; None if it acts at several."""
    inner = rule.rule if isinstance(rule, Sometimes) else rule
    if isinstance(inner, Policy):
        return POLICY_PLACES.get(row_of(inner).word)
    row = row_of(inner)
    if row.word in ("omit", "advertise"):
        return "EHLO"
    return getattr(inner, "at", None)


def row_of(rule: AnyRule) -> Row:
    """Return the kind of a rule. Raises ValueError for a class that has no text form."""
    inner = rule.rule if isinstance(rule, Sometimes) else rule
    cls = inner.layer if isinstance(inner, Policy) else type(inner)
    if cls not in BY_CLASS:
        raise ValueError(f"{cls.__name__} has no text form")
    return BY_CLASS[cls]


# --- writing --------------------------------------------------------------------------------------------------------


def format_rule(rule: AnyRule) -> str:
    """Return the text of a rule or policy, which `parse_rule` parses into an equal one.

    :raises ValueError: the class has no text form, or a time is longer than 10**9 seconds.
    """
    check_type(rule, "rule", (Rule, Sometimes, Policy))
    row = row_of(rule)
    inner = rule.rule if isinstance(rule, Sometimes) else rule
    words = [] if not isinstance(rule, Sometimes) else ["sometimes", write_number(rule.chance)]
    words.append(row.word)
    for word in row.words:
        value = inner.get(word.attribute) if isinstance(inner, Policy) else getattr(inner, word.attribute)
        default = row.default(word)
        if default is REQUIRED or value != default:
            words += filter(None, (word.before, word.kind.write(value), word.unit))
    if isinstance(inner, Rule):
        words += format_modifiers(inner, row)
    return " ".join(words)


def format_modifiers(rule: Rule, row: Row) -> list[str]:
    """Return the words for the number of times that a rule acts, and for its side."""
    words = [] if rule.nth == 1 else ["nth", str(rule.nth)]
    if rule.times or row.defaults.get("times") != 0:
        words.append(COUNT_WORDS.get(rule.times) or f"{rule.times} times")
    if rule.by != row.defaults["by"]:
        words += ["by", rule.by]
    return words


def format_scope(scope: Scope) -> str:
    """Return the words of a scope, with a space before each."""
    named = (("for", scope.recipient), ("from", scope.client))
    return "".join(f" {word} {_plain(value)}" for word, value in named if value is not None)


def _plain(text: str) -> str:
    return escape(text) if '"' in text or not text.isprintable() or text.split() != [text] else text


# --- reading --------------------------------------------------------------------------------------------------------


def parse_rule(text: str) -> ScopedRule:
    """Parse the text of a rule or policy with its scope.

    :raises TypeError: ``text`` is not a str.
    :raises ValueError: the text is invalid. The error names the word and the expected syntax.
    """
    return read_rule(text, BY_WORD)


def read_rule(text: str, kinds: Collection[str]) -> ScopedRule:
    """Parse a text like `parse_rule`. Errors about its kind suggest only ``kinds``."""
    check_type(text, "text", str)
    if len(text) > MAX_TEXT:
        raise ValueError(f"the text of a rule must have at most {MAX_TEXT} characters, got {len(text)}")
    control = next((char for char in text if not char.isprintable() and char != "\t"), None)
    if control is not None:
        raise ValueError(
            f"the text of a rule must be one line of printable characters, got {control!r}: write it as \\n or \\x00"
        )
    return Parser(deque(tokenize(text)), kinds).rule()


class Parser:
    """A parser for the tokens of one rule."""

    def __init__(self, tokens: deque[Token], kinds: Collection[str]) -> None:
        self._tokens = tokens
        self._kinds = kinds
        self._last: Token | None = None
        self._given: dict[str, Any] = {}

    def rule(self) -> ScopedRule:
        """Parse the rule. Raises ValueError if it is invalid."""
        chance = self._chance()
        row = self._row()
        scope: dict[str, Any] = {}
        left = list(row.words)
        while self._tokens:
            if not (self._modifier(row, scope) or self._word(row, left)):
                self._fail_at_unknown(row, left)
        missing = next((each for each in left if row.default(each) is REQUIRED), None)
        if missing is not None:
            raise ValueError(f"{row.word} needs {missing.usage}: {row.usage}")
        absent = {each.attribute: each.default for each in left if each.default is not None}
        made = row.make(**absent, **self._given)
        rule: AnyRule = made
        if chance is not None:
            if isinstance(made, Policy):
                raise ValueError(f"'sometimes' cannot be used with {row.word}, which is a policy")
            rule = Sometimes(made, chance)
        return ScopedRule(rule, Scope(**scope))

    def _next(self) -> Token:
        """Remove the next token, and return it."""
        self._last = self._tokens.popleft()
        return self._last

    def _chance(self) -> float | None:
        if not (self._tokens and self._tokens[0].lower == "sometimes"):
            return None
        self._next()
        if self._tokens and self._tokens[0].raw[:1] in "0123456789.":
            chance: float = self._value("'sometimes'", CHANCE.read)
            return chance
        return 0.5

    def _row(self) -> Row:
        if not self._tokens:
            raise ValueError(f"a rule begins with its kind: {', '.join(self._kinds)}")
        token = self._next()
        row = BY_WORD.get(token.lower)
        if row is None:
            hint = suggestion(token.raw, self._kinds, f"the kinds are {', '.join(self._kinds)}")
            raise ValueError(f"{token} is not a kind of rule: {hint}")
        return row

    def _value(self, what: str, read: Any) -> Any:  # noqa: ANN401  (of any kind)
        """Read the value of the next token; ``what`` names it in errors."""
        if not self._tokens:
            raise ValueError(f"{what} needs a value after it")
        token = self._next()
        try:
            return read(token)
        except ValueError as error:
            reason = str(error)
            raise ValueError(
                f"{token} {reason}" if reason.startswith("is ") else f"{what} {reason}, got {token}"
            ) from None

    def _set(self, name: str, what: str, value: object) -> None:
        if name in self._given:
            raise ValueError(f"{what} is given twice")
        self._given[name] = value

    def _modifier(self, row: Row, scope: dict[str, Any]) -> bool:
        """Read a modifier or a part of the scope; return whether the next token is one."""
        word = self._tokens[0].lower
        counted = len(self._tokens) > 1 and self._tokens[1].lower in ("times", "time")
        if word in ("for", "from"):
            self._next()
            name = "recipient" if word == "for" else "client"
            if name in scope:
                raise ValueError(f"{word!r} is given twice")
            scope[name] = self._value(repr(word), unescape)
        elif not issubclass(row.cls, Rule):
            return False
        elif word in COUNTS:
            self._next()
            self._set("times", "the number of times", COUNTS[word])
        elif counted and word[:1].isdigit():
            self._set("times", "the number of times", self._value("the number of times", NUMBER.read))
            self._next()
        elif word == "nth":
            self._next()
            self._set("nth", "'nth'", self._value("'nth'", NUMBER.read))
        elif word == "by":
            self._next()
            side = self._value("'by'", unescape)
            if "by" in row.settable:
                self._set("by", "'by'", side)
            elif side != row.defaults["by"]:
                raise ValueError(f"{side!r} cannot follow 'by': {row.word} is a fault of a {row.defaults['by']}")
        else:
            return False
        return True

    def _word(self, row: Row, left: list[Word]) -> bool:
        """Read one of the remaining words of the rule; return whether the next token is one."""
        token = self._tokens[0]
        named = next((each for each in left if each.before and token.lower == each.before), None)
        if named is None and any(each.before and token.lower == each.before for each in row.words):
            raise ValueError(f"{token} is given twice")
        word = named or next((each for each in left if not each.before or each.bare), None)
        if word is None or (word.kind.quoted and not token.quoted and row.default(word) is not REQUIRED):
            return False
        if named is not None or (token.lower == "at" and word.attribute == "at"):
            self._next()
        left.remove(word)
        what = repr(word.before) if named is not None else f"the {word.kind.name} of {row.word!r}"
        self._given[word.attribute] = self._value(what, word.kind.read)
        if word.unit and self._tokens and self._tokens[0].lower in (word.unit, word.unit.removesuffix("s")):
            self._next()
        return True

    def _fail_at_unknown(self, row: Row, left: list[Word]) -> None:
        token = self._tokens[0]
        known = [each.before for each in left if each.before]
        known += ["for", "from"] if not issubclass(row.cls, Rule) else MODIFIERS
        hint = suggestion(token.raw, known, f"expected {', '.join(known)}")
        raise ValueError(f"{token} is not expected here, after {self._last}: {hint}")
