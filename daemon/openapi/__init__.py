"""The OpenAPI description, made from the structs that the routes read and write, and a page that shows it."""

from __future__ import annotations

from daemon.openapi.document import document
from daemon.openapi.page import page

__all__ = ["document", "page"]
