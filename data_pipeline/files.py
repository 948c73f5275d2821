"""Files that appear under their names only when they are complete, folders of one process, and the processors of this machine."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.errors import UserError, WriteError

_MAX_NAME_BYTES = 200

LOCK_FILE = "lock"
"""Name of the file that `locked` leaves in a folder."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its name when the body ends without an error; short suffixes are kept.

    The body makes a file or a folder there.  After an error it is removed, and `path` is as it was.  Parent folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:  # With more in front of it, it could be too long.
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16] + path.suffix[-10:]
    # Of this process alone, so that two that write the same file do not write into one another's.
    temporary = path.with_name(f".partial-{os.getpid()}-{name}")
    for left in path.parent.glob(f".partial-*-{glob.escape(name)}"):
        number = left.name.split("-")[1]
        if left == temporary or not (number.isdecimal() and _is_running(int(number))):
            _remove(left)  # Of a process that was killed.
    try:
        yield temporary
        try:
            temporary.replace(path)
        except OSError as error:  # Not under the temporary name.
            raise type(error)(error.errno, error.strerror, str(path)) from None
    finally:
        _remove(temporary)


def short_name(name: str, suffix: str) -> str:
    """A name with a suffix; where no file system would hold it, its beginning and a hash of it."""
    data = os.fsencode(name)
    if len(data) + len(suffix) <= 255:
        return f"{name}{suffix}"
    return f"{data[:_MAX_NAME_BYTES].decode(errors='ignore')}-{hashlib.sha256(data).hexdigest()[:16]}{suffix}"


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file in one step: a file under that name is complete.

    What is not Unicode, as in file names that are not UTF-8, becomes question marks.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")


@contextlib.contextmanager
def locked(folder: Path, refusal: UserError) -> Iterator[None]:
    """Keep other processes out of a folder; the system releases the lock when this process ends in any way.

    Args:
        folder: an existing folder.
        refusal: raised if another process has locked the folder.
    """
    with (folder / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise refusal from error
        except OSError:
            pass  # Some network file systems have no locks.
        yield


@contextlib.contextmanager
def writing(path: Path, remedy: str, *, forbidden: str | None = None) -> Iterator[None]:
    """Turn an OSError of the body into a WriteError that names the path, the reason, the free space and the remedy.

    Args:
        path: what is written.
        remedy: what the user can do.
        forbidden: the same where the path may not be written to; None for `remedy`.
    """
    try:
        yield
    except BrokenPipeError:  # Of a message, not of the file.
        raise
    except OSError as error:
        told = forbidden if forbidden and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) else remedy
        raise WriteError(f"{path}: {refused(path, error.strerror or str(error))} {told}") from error


def writing_data(path: Path) -> contextlib.AbstractContextManager[None]:
    """`writing` for `jaxpu prepare`, which keeps what it has finished."""
    return writing(
        path,
        "Finished tracks are kept, and no incomplete files remain: free some space, or raise the limit of file sizes, and rerun "
        "the same command.",
        forbidden="Choose another folder (-o), or change its permissions.",
    )


def check_writable(folder: Path, remedy: str) -> None:
    """Raise WriteError if nothing can be written to a folder, which need not exist and is not made."""
    existed = folder.is_dir()
    with writing(folder, remedy):
        probe = folder / f".writable-{os.getpid()}"
        write_text(probe, "")
        probe.unlink()
        if not existed:
            with contextlib.suppress(OSError):  # Another process has begun to use it.
                folder.rmdir()


def refused(path: Path, reason: str) -> str:
    """The sentences that a disk refuses to write a path, for this reason, and how much space it has."""
    existing = next((folder for folder in (path, *path.absolute().parents) if folder.exists()), Path("/"))
    with contextlib.suppress(OSError):
        return f"cannot be written ({reason}). The disk has {shutil.disk_usage(existing).free / 1e6:.0f} MB free."
    return f"cannot be written ({reason})."


def real_path(path: Path) -> Path:
    """The path without links, absolute; `Path.resolve` fails at a link to itself."""
    return Path(os.path.realpath(path))


def available_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_running(process: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return True  # Somebody else's.
    except (OSError, OverflowError):
        return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
