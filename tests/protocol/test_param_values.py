"""Each parameter of an extension: ``parse`` and ``format`` are inverse, and no other value is sent."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from extension_params import CASES, COMMANDS, IDS, SAMPLES, VALUES
from hypothesis import given, strategies as st

from smtp_trio.protocol import BadCommandError, Param, Params
from smtp_trio.protocol.params import make_params, parse_params

each_param = pytest.mark.parametrize("param", COMMANDS, ids=repr)


def test_each_parameter_has_values() -> None:
    """A new parameter has to be added to ``extension_params``, whose tables other tests use too."""
    assert SAMPLES.keys() == VALUES.keys() == COMMANDS.keys()


@pytest.mark.parametrize(("param", "value", "text"), CASES, ids=IDS)
def test_text_of_each_sample(param: Param[Any], value: object, text: str) -> None:
    assert Params({param: value}).encode() == text
    assert parse_params(text, {param.keyword: param}) == Params({param: value})


@each_param
@given(data=st.data())
def test_value_is_read_as_it_was_written(param: Param[Any], data: st.DataObject) -> None:
    value = data.draw(VALUES[param])
    made = make_params({param.name: value}, [param])
    assert made[param] == value
    assert parse_params(made.encode(), {param.keyword: param}) == made


@each_param
@given(data=st.data())
def test_text_is_written_with_the_value_that_was_read(param: Param[Any], data: st.DataObject) -> None:
    """Of any text that is valid: one in another case, for example."""
    written = VALUES[param].map(lambda value: param.format(value) or "")
    changed = st.one_of(written.map(str.lower), written.map(str.upper), written.map(lambda text: f"+{text}"))
    text = data.draw(st.one_of(written, changed, st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E))))
    value = param.parse(text or None)
    if value is not None:
        assert param.parse(param.format(value)) == value
        assert make_params({param.name: value}, [param])[param] == value


#: Values of all kinds that a program may pass by mistake.
anything = st.one_of(
    st.text(), st.binary(), st.integers(), st.floats(), st.datetimes(), st.sets(st.text()), st.lists(st.text()),
    *(strategy for strategy in VALUES.values()),
)  # fmt: skip


@each_param
@given(value=anything)
def test_value_is_refused_or_can_be_read(param: Param[Any], value: object) -> None:
    """What a client sends is the text of one parameter, whatever the program has passed."""
    try:
        made = make_params({param.name: value}, [param])
    except ValueError:
        return
    if made:
        assert parse_params(made.encode(), {param.keyword: param}) == made


@each_param
@pytest.mark.parametrize("value", ["", "=", " ", "\r\nRSET", "x y", "\0", "\u2028", datetime(2026, 1, 1), -1])
def test_value_that_no_parameter_has(param: Param[Any], value: object) -> None:
    try:
        made = make_params({param.name: value}, [param])
    except ValueError:
        return
    # ENVID and AUTH encode what the grammar of parameters does not allow.
    assert parse_params(made.encode(), {param.keyword: param}) == made


@each_param
def test_repeated_and_empty_values_are_invalid(param: Param[Any]) -> None:
    known = {param.keyword: param}
    word = SAMPLES[param][0][1]
    for text in (f"{word} {word}", f"{word} {word.lower()}", f"{param.keyword}="):
        with pytest.raises(BadCommandError) as caught:
            parse_params(text, known)
        assert (caught.value.reply.code, caught.value.reply.status) in ((501, param.invalid), (501, "5.5.4"))
