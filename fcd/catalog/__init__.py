"""A model's name -> where its files are. Imports neither torch nor transformers; huggingface_hub only to download."""

from __future__ import annotations

from fcd.catalog.download import ProgressCallback, ensure_local
from fcd.catalog.facts import Estimate, ModelFacts, estimate, read_facts
from fcd.catalog.hub import CachedRepo, cached_repos, cached_snapshot, hub_cache, is_offline
from fcd.catalog.listing import list_models, near_names
from fcd.catalog.reference import Reference, resolve

__all__ = [
    "CachedRepo",
    "Estimate",
    "ModelFacts",
    "ProgressCallback",
    "Reference",
    "cached_repos",
    "cached_snapshot",
    "ensure_local",
    "estimate",
    "hub_cache",
    "is_offline",
    "list_models",
    "near_names",
    "read_facts",
    "resolve",
]
