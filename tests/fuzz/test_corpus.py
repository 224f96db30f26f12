"""The inputs of the corpus, which include those that once made a target fail; and random ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from .targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
INPUTS = sorted(path for name in TARGETS for path in (CORPUS / name).iterdir())


def test_each_target_has_a_corpus() -> None:
    assert {path.name for path in CORPUS.iterdir() if path.is_dir()} == set(TARGETS)
    assert {path.parent.name for path in INPUTS} == set(TARGETS)


@pytest.mark.parametrize("path", INPUTS, ids=[f"{path.parent.name}/{path.name}" for path in INPUTS])
def test_input(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
def test_parts_of_inputs(name: str, data: st.DataObject) -> None:
    """Pieces of the corpus, and octets between them."""
    pieces = st.sampled_from([path.read_bytes() for path in INPUTS if path.parent.name == name])
    parts = st.tuples(pieces, st.integers(0, 80), st.integers(1, 80)).map(
        lambda part: part[0][part[1] : part[1] + part[2]]
    )
    TARGETS[name](b"".join(data.draw(st.lists(parts | st.binary(max_size=8), max_size=6))))
