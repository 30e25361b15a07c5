"""Answers that must have a form: JSON schemas and tool calls compiled to grammars, and token masks from grammars.

`compiler.StructuredCompiler` is what an engine holds. Importing this package imports no xgrammar.
"""
