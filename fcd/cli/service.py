"""`fcd daemon install` and `uninstall`: the daemon as a service of this user, under systemd or launchd."""

from __future__ import annotations

import argparse
import os
import plistlib
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from xml.sax.saxutils import escape

import msgspec

import fcd
from fcd.cli.command import Group
from fcd.cli.ensure import not_ready, progress_on_stderr
from fcd.cli.output import note
from fcd.errors import EXIT_OK, FcdError, NotFound
from fcd.instance import already_running, running_instance
from fcd.paths import Paths, resolve_paths
from fcd.settings import load_settings
from fcd.wire.admin import Progress

UNIT = "fcd.service"
LABEL = "fcd.daemon"

_PASSED_ON = ("FCD_HOME", "HF_HOME", "HF_HUB_CACHE")
"""Where things are. Nothing secret stands in a unit; everything else belongs into config.toml."""
_STOP_SLACK_S = 30
_START_S = 60.0
_ASK_S = 20.0
_POLL_S = 0.1


class Program(msgspec.Struct, frozen=True):
    """What the service starts."""

    arguments: tuple[str, ...]
    environment: dict[str, str]
    stop_s: int
    """How long it may take to stop."""
    log: Path


class Service(Protocol):
    """One kind of service manager."""

    file: Path
    hint: str

    def text(self, program: Program) -> bytes:
        """The unit as it stands in `file`."""
        ...

    def check(self) -> None:
        """Raises FcdError: the manager is not there, or does not answer."""
        ...

    def start(self) -> None:
        """Take the file up, start the service now and from now on."""
        ...

    def stop(self) -> None:
        """Stop it, now and from now on."""
        ...

    def forget(self) -> None:
        """The file is gone."""
        ...


def add_service(group: Group) -> None:
    install = group.add(
        "install",
        "have the daemon started when you log in",
        _install,
        description="Write a systemd user unit (Linux) or a launchd agent (macOS) that runs the daemon with this"
        " Python and these folders, and start it. Settings belong into config.toml, which the service reads.",
        epilog="On Linux, `loginctl enable-linger` has it run without a login, too.",
    )
    install.add_argument("--print", dest="show", action="store_true", help="print the unit and do nothing")
    group.add("uninstall", "stop that service and take it away", _uninstall)


def _install(args: argparse.Namespace) -> int:
    paths = resolve_paths()
    service, program = service_for(sys.platform, os.environ), program_of(paths, os.environ)
    text = service.text(program)
    if args.show:
        sys.stdout.write(text.decode())
        return EXIT_OK
    service.check()
    known = service.file.exists()
    running = running_instance(paths)
    if running is not None and not known:
        error = already_running(running)
        error.hint = "`fcd daemon stop` ends it; the service starts its own."
        raise error
    _refuse_other_home(service.file, program)
    _write(service.file, text)
    if known:
        service.stop()
    service.start()
    print(f"The daemon is a service now: {service.file}")
    print(f"It is ready at {_wait(paths, service)}.")
    note(service.hint)
    return EXIT_OK


def _uninstall(args: argparse.Namespace) -> int:
    service = service_for(sys.platform, os.environ)
    if not service.file.exists():
        raise NotFound(f"No service is installed: there is no {service.file}.", hint="`fcd daemon install` makes one.")
    service.check()
    service.stop()
    service.file.unlink()
    service.forget()
    print(f"The service is stopped and taken away: {service.file}")
    return EXIT_OK


def service_for(platform: str, environ: Mapping[str, str]) -> Service:
    """Raises FcdError: this system has neither."""
    if platform.startswith("linux"):
        return Systemd(environ)
    if platform == "darwin":
        return Launchd(environ)
    raise FcdError(
        f"Services are made for systemd and launchd, and this system ({platform}) has neither.",
        hint="Have your system run `fcd daemon run` at login.",
    )


def program_of(paths: Paths, environ: Mapping[str, str]) -> Program:
    """This Python and this fcd, with the folders that this environment names.

    Raises:
        ConfigError: config.toml cannot be used, so the service could not start.
    """
    passed = {name: environ[name] for name in _PASSED_ON if environ.get(name)}
    if "FCD_HOME" in passed:
        passed["FCD_HOME"] = str(Path(passed["FCD_HOME"]).expanduser().absolute())
    root = str(Path(fcd.__file__).resolve().parent.parent)
    if "site-packages" not in root:
        passed["PYTHONPATH"] = root
    stop_s = int(load_settings(paths.config_file).daemon.drain_s) + _STOP_SLACK_S
    # `-m` would import from the current folder first, whatever lies there; -P forbids that.
    return Program((sys.executable, "-P", "-m", "fcd", "daemon", "run"), passed, stop_s, paths.logs / "daemon.err")


class Systemd:
    """A unit of the user's own systemd."""

    hint = "It runs while you are logged in; `loginctl enable-linger` has it run from boot on, and after a logout."

    def __init__(self, environ: Mapping[str, str]) -> None:
        home = Path(environ.get("HOME") or Path.home())
        self.file = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "systemd" / "user" / UNIT

    def text(self, program: Program) -> bytes:
        lines = [
            "[Unit]",
            "Description=fcd, a home for local language models",
            "Documentation=man:fcd-daemon(1)",
            "",
            "[Service]",
            "Type=exec",
            f"ExecStart={' '.join(_quoted(word, dollar=True) for word in program.arguments)}",
            *(f"Environment={_quoted(f'{name}={value}')}" for name, value in program.environment.items()),
            "Restart=on-failure",
            "RestartSec=5",
            "# Settings that cannot be used, and a daemon that runs already, are no reasons to try again.",
            "RestartPreventExitStatus=2 3",
            "KillMode=mixed",
            f"TimeoutStopSec={program.stop_s}",
            "",
            "[Install]",
            "WantedBy=default.target",
        ]
        return ("\n".join(lines) + "\n").encode()

    def check(self) -> None:
        if shutil.which("systemctl") is None:
            raise FcdError(
                "There is no systemctl here, so the daemon cannot be a systemd service.",
                hint="`fcd daemon start` starts it by hand; `fcd daemon install --print` shows the unit.",
            )
        done = _call("systemctl", "--user", "show-environment")
        if done.returncode:
            raise FcdError(
                f"systemd does not look after this user's services here: {_said(done)}",
                hint="Log in directly (not through su or sudo), or start the daemon by hand: `fcd daemon start`.",
            )

    def start(self) -> None:
        _do("systemctl", "--user", "daemon-reload")
        _do("systemctl", "--user", "enable", "--now", UNIT)

    def stop(self) -> None:
        _do("systemctl", "--user", "disable", "--now", UNIT)

    def forget(self) -> None:
        _do("systemctl", "--user", "daemon-reload")


class Launchd:
    """An agent of the user's own launchd."""

    hint = "It runs while you are logged in."

    def __init__(self, environ: Mapping[str, str]) -> None:
        home = Path(environ.get("HOME") or Path.home())
        self.file = home / "Library" / "LaunchAgents" / f"{LABEL}.plist"

    def text(self, program: Program) -> bytes:
        return plistlib.dumps(
            {
                "Label": LABEL,
                "ProgramArguments": list(program.arguments),
                "EnvironmentVariables": program.environment,
                "RunAtLoad": True,
                "KeepAlive": {"SuccessfulExit": False},
                "ThrottleInterval": 10,
                "ExitTimeOut": program.stop_s,
                "StandardOutPath": str(program.log),
                "StandardErrorPath": str(program.log),
            },
            sort_keys=False,
        )

    def check(self) -> None:
        if shutil.which("launchctl") is None:
            raise FcdError("There is no launchctl here.", hint="`fcd daemon start` starts the daemon by hand.")
        done = _call("launchctl", "print", f"gui/{os.getuid()}")
        if done.returncode:
            raise FcdError(
                f"launchd does not look after this user's agents here: {_said(done)}",
                hint="Log in at the screen, or start the daemon by hand: `fcd daemon start`.",
            )

    def start(self) -> None:
        _do("launchctl", "bootstrap", f"gui/{os.getuid()}", str(self.file))

    def stop(self) -> None:
        done = _call("launchctl", "bootout", f"gui/{os.getuid()}/{LABEL}")
        if done.returncode not in (0, 3, 113):  # it is not loaded: that is what was wanted
            raise FcdError(f"launchctl bootout failed: {_said(done)}")

    def forget(self) -> None: ...


def _quoted(word: str, *, dollar: bool = False) -> str:
    """A word of a unit's line: systemd takes % for a specifier, and in commands $ for a variable."""
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    text = text.replace("$", "$$") if dollar else text
    if any(ord(each) < 32 for each in text):
        raise FcdError(f"A service cannot be made for a path with control characters: {word!r}.")
    return f'"{text}"' if text != word or any(each in word for each in " '\"") else text


def _refuse_other_home(file: Path, program: Program) -> None:
    """One service for each user: that of other folders is not replaced silently."""
    if not file.exists():
        return
    text, home = file.read_text(encoding="utf-8", errors="replace"), program.environment.get("FCD_HOME", "")
    # Whole lines, as the units write them: /a/fcd is not /a/fcd2.
    lines = {f"Environment={_quoted(f'FCD_HOME={home}')}", f"<string>{escape(home)}</string>"}
    same = any(line.strip() in lines for line in text.splitlines())
    if ("FCD_HOME" in text) != bool(home) or (home and not same):
        raise FcdError(
            f"{file} is there already, for other folders than {home or 'the usual ones'}.",
            hint="`fcd daemon uninstall` takes it away.",
        )


def _write(file: Path, text: bytes) -> None:
    from fcd.chatlog import write_atomically

    write_atomically(file, text)


def _wait(paths: Paths, service: Service) -> str:
    """The address of the daemon that the service has started.

    Raises:
        FcdError: it is not ready in time.
    """
    progress, began, reason = progress_on_stderr(), time.monotonic(), "it has not started"
    try:
        while (waited := time.monotonic() - began) < _START_S:
            instance = running_instance(paths)
            if instance is not None:
                reason = not_ready(instance.url) or ""
                if not reason:
                    return instance.url
            progress(Progress("Starting the daemon", done=waited, unit="s"))
            time.sleep(_POLL_S)
    finally:
        progress.end()
    looks = f"systemctl --user status {UNIT}" if isinstance(service, Systemd) else f"launchctl print gui/.../{LABEL}"
    raise FcdError(
        f"The service is installed, and its daemon is not ready after {_START_S:.0f} s: {reason}.",
        hint=f"`{looks}` and `fcd daemon logs` say why.",
    )


def _do(*command: str) -> None:
    done = _call(*command)
    if done.returncode:
        raise FcdError(f"`{' '.join(command)}` failed: {_said(done)}")


def _call(*command: str) -> subprocess.CompletedProcess[str]:
    limit = 3 * _ASK_S + _START_S
    try:
        return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise FcdError(f"`{' '.join(command)}` did not end within {limit:.0f} s.") from error


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stderr or done.stdout).split())[:300] or f"exit code {done.returncode}"
