"""Configs: the canonical text is invertible, leaves defaults out, and wrong options are refused in words."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lilliput.config import Config, config, configs, from_json, parse
from lilliput.errors import ConfigError, UnknownName


@config("test.subject")
class Subject(Config):
    """For tests."""

    keep: float | dict[str, float] = 1.0
    word: str = "l1"
    many: tuple[int, ...] = ()
    inner: Config | None = None
    on: bool = False


words = st.text(max_size=12)
subjects = st.builds(
    Subject,
    keep=st.floats(0.01, 1, allow_nan=False) | st.dictionaries(words, st.floats(0.1, 1), max_size=3),
    word=words,
    many=st.lists(st.integers(-5, 99), max_size=4).map(tuple),
    inner=st.none() | st.builds(Subject, word=words),
    on=st.booleans(),
)


@given(subjects)
def test_text_and_json_are_invertible(subject: Subject) -> None:
    assert parse(subject.text()) == subject
    assert from_json(json.loads(json.dumps(subject.to_json()))) == subject
    assert parse(subject.text()).id() == subject.id()


def test_defaults_are_left_out_and_fields_sorted() -> None:
    assert Subject().text() == "test.subject()"
    assert Subject(word="l2", keep=0.5).text() == "test.subject(keep=0.5, word=l2)"


def test_configs_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Subject().word = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("test.subjct()", "Did you mean `test.subject`"),
        ("test.subject(kep=1)", "no option is called `kep`. Did you mean `keep`"),
        ("test.subject(many=[1, x])", "test.subject: `many`"),
        ("test.subject(on=maybe)", "test.subject: `on` (='maybe')"),
        ("test.subject(", "expected"),
        ("test.subject(keep=0.5", "expected `,`"),
        ("test.subject(keep=0.5) and more", "expected the end"),
        ("prune.channels(keep=1.5)", "prune.channels: `keep` (=1.5) is the share of channels that stays"),
    ],
)
def test_what_is_wrong_is_said(text: str, words: str) -> None:
    import lilliput.prune  # noqa: F401 - registers

    with pytest.raises((ConfigError, UnknownName)) as caught:
        parse(text)
    assert words in str(caught.value) and caught.value.exit_code == 2


def test_every_registered_config_has_a_docstring_and_its_default_text() -> None:
    import lilliput.recipe

    assert lilliput.recipe
    for name, cls in configs.items():
        assert cls.__doc__, name
        assert cls().text() == f"{name}()"
        assert parse(f"{name}()") == cls()
