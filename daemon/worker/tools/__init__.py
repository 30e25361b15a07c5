"""Tool calls: how models are told of tools, how they write calls, and how calls are read while they are written.

Pure: text in, events out. Each family of models writes calls in a form of its own; see `families`.
"""
