"""Where the hub folder keeps what belongs to one device: its client, its folders, who is running.

    client.sqlite     the client: keys, records, outbox
    settings.json     the hub's address, this device's name, the folders by their id
    folders/<id>.sqlite   the agreed states of one folder
    running.json      what the running process last said of itself, for ``hub folder status``
    lock              held by the process that uses the client

A folder is known by the id in its marker file, not by its place: a folder that
was moved keeps its memory, and an empty mount point, which has no marker, is a new
folder that takes nothing away from anybody.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hub.folder.files import MARKER


class InUse(Exception):
    """Another process uses this home."""


class BadFolder(Exception):
    """That path cannot be synced; the text says why."""


class Home:
    """One device's own folder, made when it is missing, readable by its person alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True, mode=0o700)

    @classmethod
    def default(cls, environment: Mapping[str, str]) -> Home:
        """HUB_FOLDER_HOME, else ``sync-hub/folder`` in the person's configuration folder."""
        if chosen := environment.get("HUB_FOLDER_HOME"):
            return cls(Path(chosen))
        base = environment.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
        return cls(Path(base) / "sync-hub" / "folder")

    @property
    def client_path(self) -> Path:
        """The client's one file."""
        return self.path / "client.sqlite"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process uses the client at a time.  Raises ``InUse``."""
        with (self.path / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InUse(f"another hub folder is running with {self.path}") from None
            yield

    def settings(self) -> dict[str, Any]:
        """What is remembered; empty before the first login."""
        return _read_json(self.path / "settings.json")

    def remember(self, **settings: Any) -> None:
        """Add these to what is remembered."""
        _write_json(self.path / "settings.json", {**self.settings(), **settings})

    def say_running(self, status: dict[str, Any]) -> None:
        """For ``hub folder status`` in another terminal."""
        _write_json(self.path / "running.json", {**status, "pid": os.getpid()})

    def running(self) -> dict[str, Any]:
        """What the running process last said, or nothing when none is running."""
        try:
            with self.locked():
                return {}
        except InUse:
            return _read_json(self.path / "running.json")

    def stopped(self) -> None:
        """Nothing is running any more."""
        (self.path / "running.json").unlink(missing_ok=True)

    def state_path(self, folder_id: str) -> Path:
        """The file with a folder's agreed states."""
        (self.path / "folders").mkdir(exist_ok=True, mode=0o700)
        return self.path / "folders" / f"{folder_id}.sqlite"

    def join(self, root: Path) -> str:
        """The id of this folder, marking it when it is new.  Raises ``BadFolder``."""
        root = root.resolve()
        if not root.is_dir():
            raise BadFolder(f"{root} is not a folder")
        if root == self.path.resolve() or root in self.path.resolve().parents:
            raise BadFolder(f"{root} holds the hub folder's own state ({self.path}); choose another")
        folders: dict[str, str] = self.settings().get("folders", {})
        folder_id = _marker_of(root)
        if not folder_id or self._is_copy(folders.get(folder_id), root, folder_id):
            folder_id = secrets.token_hex(16)
            (root / MARKER).write_text(folder_id + "\n")
        if folders.get(folder_id) != str(root):
            self.remember(folders={**folders, folder_id: str(root)})
        return folder_id

    def _is_copy(self, known: str | None, root: Path, folder_id: str) -> bool:
        """A folder that was copied, marker and all, is not the one whose memory we have."""
        return known is not None and known != str(root) and _marker_of(Path(known)) == folder_id

    def forget(self) -> None:
        """After a logout: nothing of the device is left but its folders' files."""
        for path in [*self.path.glob("client.sqlite*"), *self.path.glob("folders/*")]:
            path.unlink()
        for name in ("settings.json", "running.json"):
            (self.path / name).unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """A new file that only its owner reads; what was there before is replaced as a whole."""
    temp = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    temp.replace(path)


def _marker_of(root: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        text = (root / MARKER).read_text().strip()
        if len(text) == 32 and set(text) <= set("0123456789abcdef"):
            return text
    return ""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_private(path, json.dumps(value, indent=1) + "\n")
