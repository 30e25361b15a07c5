"""Writes the conversations that the built-in models are trained on: one file per family of skills."""
