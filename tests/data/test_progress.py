"""The bar shows itself on a terminal, to the patient."""

from __future__ import annotations

import io

from lilliput.data.progress import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(stream: io.StringIO, patience: float) -> str:
    with Bar("decoding images", 10, stream=stream, patience=patience) as bar:
        for _ in range(10):
            bar.update(1)
    return stream.getvalue()


def test_it_appears_after_its_patience_and_only_on_a_terminal() -> None:
    assert "decoding images" in drawn(Terminal(), 0.0)
    assert drawn(Terminal(), 60.0) == ""
    assert drawn(io.StringIO(), 0.0) == ""


def test_a_download_of_unknown_length_is_drawn_too() -> None:
    stream = Terminal()
    with Bar("fetching", 0, stream=stream, patience=0.0) as bar:
        bar.update(5)
    assert "fetching" in stream.getvalue() and bar.done == 5
