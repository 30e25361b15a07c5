from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemon.engines.transformers.stops import StopStrings

letters = st.text("abc", max_size=40)
stops = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3).map(tuple)


def feed_all(watch: StopStrings, pieces: list[str]) -> str:
    out = ""
    for piece in pieces:
        out += watch.feed(piece)
        if watch.matched is not None:
            return out
    return out + watch.flush()


@given(st.lists(st.text("abc", max_size=6), max_size=12), stops, st.booleans())
def test_pieces_give_what_the_whole_text_gives(pieces: list[str], stop: tuple[str, ...], include: bool) -> None:
    """Cut at the stop string that is complete first; of those complete at once, the one that begins first."""
    watch = StopStrings(stop, include)
    got = feed_all(watch, pieces)
    text = "".join(pieces)
    seen = ""
    for piece in pieces:
        seen += piece
        found = [(seen.find(s), order) for order, s in enumerate(stop) if s in seen]
        if found:
            place, order = min(found)
            assert watch.matched == stop[order]
            assert got == seen[: place + (len(stop[order]) if include else 0)]
            return
    assert watch.matched is None
    assert got == text


@given(st.lists(st.text("abc", max_size=6), max_size=12), stops)
def test_nothing_shown_is_taken_back(pieces: list[str], stop: tuple[str, ...]) -> None:
    watch = StopStrings(stop)
    shown = ""
    for piece in pieces:
        shown += watch.feed(piece)
        assert not any(s in shown for s in stop)
        if watch.matched is not None:
            break
        # All but what may still become a stop string is out.
        assert len(watch.held) < max((len(s) for s in stop), default=1)


def test_a_stop_that_begins_earlier_wins() -> None:
    watch = StopStrings(("lo", "hello"))
    assert watch.feed("say hello") == "say "
    assert watch.matched == "hello"


def test_flush_gives_what_was_held() -> None:
    watch = StopStrings(("STOP",))
    assert watch.feed("aST") == "a"
    assert watch.flush() == "ST"
