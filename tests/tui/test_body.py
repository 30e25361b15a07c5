"""How often an answer that is being written moves the screen, and that it ends as high as its text."""

from __future__ import annotations

import asyncio

import pytest
from textual.app import App, ComposeResult
from textual.containers import VerticalScroll

from benchmarks.tui_stream import KINDS
from tui.glyphs import UNICODE
from tui.widgets.body import Body


class Page(App[None]):
    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Body(UNICODE)


@pytest.mark.parametrize("kind", KINDS)
def test_growth_is_in_steps_and_exact_at_the_end(kind: str) -> None:
    text = KINDS[kind](3000)[:3000]

    async def main() -> None:
        app = Page()
        async with app.run_test(size=(80, 24)) as pilot:
            body = app.query_one(Body)
            heights = []
            for at in range(0, len(text), 30):
                body.feed(text[at : at + 30])
                await pilot.pause(0)
                heights.append(body.size.height)
                assert body.size.height >= len(body.lines)
                assert body.size.height <= len(body.lines) + 8
            body.finish()
            await pilot.pause()
            assert body.size.height == len(body.lines)
            whole = Body(UNICODE)
            await app.query_one(VerticalScroll).mount(whole)
            whole.show(text)
            await pilot.pause()
            assert [line.content.plain for line in whole.lines] == [line.content.plain for line in body.lines]
            assert [body.render_line(y).text for y in range(len(body.lines))] == [
                whole.render_line(y).text for y in range(len(whole.lines))
            ]
            grown = len(set(heights))
            assert grown <= len(body.lines) / 3 + 9, (grown, len(body.lines))

    asyncio.run(main())
