"""Markdown for the terminal: text to flat blocks (pure), and blocks to lines of a given width."""
