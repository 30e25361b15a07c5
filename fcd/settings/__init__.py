"""Settings: defaults < config.toml < FCD_* environment < flags.

Every key is a field in `tables`; an unknown key is an error that names the nearest one. `FCD_<SECTION>_<KEY>` sets
any of them, and `FCD_HOST` and `FCD_PORT` are short for the daemon's.
"""

from __future__ import annotations

from fcd.settings.checks import check_tree
from fcd.settings.layers import (
    get_setting,
    load_settings,
    read_config,
    read_snapshot,
    setting_names,
    write_setting,
    write_snapshot,
)
from fcd.settings.profiles import is_profile, profile_of
from fcd.settings.tables import (
    DEFAULT_MODEL,
    DEFAULT_PORT,
    MOST_REPLICAS,
    PROFILE_FIELDS,
    PROFILE_RANGES,
    SECTIONS,
    ArenaSettings,
    ChatSettings,
    DaemonSettings,
    EnginesSettings,
    ModelSettings,
    Settings,
    TuiSettings,
    VllmSettings,
    WorkerSettings,
)
from fcd.settings.units import parse_duration, parse_size

__all__ = [
    "DEFAULT_MODEL",
    "DEFAULT_PORT",
    "MOST_REPLICAS",
    "PROFILE_FIELDS",
    "PROFILE_RANGES",
    "SECTIONS",
    "ArenaSettings",
    "ChatSettings",
    "DaemonSettings",
    "EnginesSettings",
    "ModelSettings",
    "Settings",
    "TuiSettings",
    "VllmSettings",
    "WorkerSettings",
    "check_tree",
    "get_setting",
    "is_profile",
    "load_settings",
    "parse_duration",
    "parse_size",
    "profile_of",
    "read_config",
    "read_snapshot",
    "setting_names",
    "write_setting",
    "write_snapshot",
]
