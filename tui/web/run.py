"""The process of one session: `python -m tui.web.run`, started by the server with Textual's driver for browsers."""

from __future__ import annotations

import argparse

from tui.app import run_tui


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ascii", action="store_true")
    parser.add_argument("--readonly", action="store_true")
    flags = parser.parse_args()
    return run_tui(ascii=flags.ascii, readonly=flags.readonly)


if __name__ == "__main__":
    raise SystemExit(main())
