"""Where the door of a site and its worker meet: a socket for their user alone, one worker at a time, both of one edition.

Imports nothing but the standard library and what does the same: the door is a new process for every order.
"""

import fcntl
import hashlib
import os
import socket
import stat
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import durable
from configs.version import VERSION

HOME = Path(__file__).resolve().parents[1]
CODE = ("*.py", "clients/**/*.py", "configs/*.py", "configs/strategies.yaml", "memory/*.py", "strategies/*.py")
"""What a worker has loaded, or will."""
ROOM, PLACE, LOCK, STARTING, UNREACHABLE = "door", "place", "lock", "starting", "unreachable"
"""In the site's folder, for its owner alone; in it: where the socket is, who is the worker, who starts one, and a word to a
worker whose socket nobody can reach (another /tmp, a cleaner of old files) that it should end."""
LONGEST_PATH = 103
"""Bytes of a socket's path: Linux takes 107, others 103."""
PREFIX = "sitestream-"


def edition() -> str:
    """Which SiteStream lies on this disk now: its version, and a sum over the code's names, sizes and times."""
    found = sorted(path for pattern in CODE for path in HOME.glob(pattern))
    facts = [(path.relative_to(HOME).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in found]
    return f"{VERSION}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:12]}"


def room(folder: Path) -> Path:
    """The part of a site's folder that is its owner's alone (0700); made if it is not there.

    Raises:
        ValueError: it is another user's.
    """
    place = folder / ROOM
    folder.mkdir(parents=True, exist_ok=True)
    place.mkdir(mode=0o700, exist_ok=True)
    facts = place.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
        raise ValueError(f"{place} is user {facts.st_uid}'s, this is user {os.geteuid()}: run door and worker as one user")
    if facts.st_mode & 0o077:
        place.chmod(0o700)
    return place


# The socket ---------------------------------------------------------------------------------------------------------------


def listen(room: Path) -> tuple[socket.socket, Path]:
    """A socket that only this user can reach (0600), and its path, which is written down for the door.

    Raises:
        ValueError: there is no folder whose path is short enough.
    """
    forget(room)
    path = room / "socket"
    if len(os.fsencode(path)) > LONGEST_PATH:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_short_folder())) / "socket"
    if len(os.fsencode(path)) > LONGEST_PATH:
        path.parent.rmdir()
        raise ValueError(f"{path} is too long for a socket: set XDG_RUNTIME_DIR, or TMPDIR, to a folder with a shorter path")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen()
    durable.write_whole(room / PLACE, lambda draft: draft.write_text(str(path)))
    return listener, path


def connect(room: Path) -> socket.socket | None:
    """A line to the worker; None if none listens."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        line.connect((room / PLACE).read_text())
        check_peer(line)
    except (FileNotFoundError, ConnectionRefusedError):
        line.close()
        return None
    except BaseException:
        line.close()
        raise
    return line


def forget(room: Path) -> None:
    """Take a worker's socket away, and with it the folder made for it elsewhere."""
    with suppress(OSError):
        path = Path((room / PLACE).read_text())
        (room / PLACE).unlink()
        path.unlink(missing_ok=True)
        if path.parent.name.startswith(PREFIX):
            path.parent.rmdir()
    with suppress(OSError):
        (room / "socket").unlink()


def check_peer(line: socket.socket) -> None:
    """Raises PermissionError if another user is at the other end. Where the system cannot say, the folder's mode decides."""
    if hasattr(socket, "SO_PEERCRED"):
        _, user, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        if user != os.geteuid():
            raise PermissionError(f"user {user} is at the other end of the socket, this is user {os.geteuid()}")


def _short_folder() -> str:
    """The user's own folder for sockets, if the system has one, else that for temporary files."""
    own = Path(os.environ.get("XDG_RUNTIME_DIR") or "/nowhere")
    with suppress(OSError):
        facts = own.stat()
        if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o077:
            return str(own)
    return tempfile.gettempdir()


# Locks (flock: they end with their process) -------------------------------------------------------------------------------


def take(path: Path, wait: bool = False) -> int | None:
    """A lock, as a file that stays open as long as it is held; None: another process has it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def is_taken(path: Path) -> bool:
    """Whether another process holds a lock."""
    handle = take(path)
    if handle is not None:
        os.close(handle)
    return handle is None


@contextmanager
def taken(path: Path) -> Iterator[None]:
    """Hold a lock, once whoever has it now lets it go."""
    handle = take(path, wait=True)
    assert handle is not None, "one that waits gets it"
    try:
        yield
    finally:
        os.close(handle)
