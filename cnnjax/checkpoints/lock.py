"""Locks a workdir for one run at a time; no crash leaves it locked, on network disks too.

Two things hold `run.lock`, and each covers cases that the other does not see:

- flock(2), which the kernel releases when the process ends, however it ends. A start on the same
  machine therefore never waits, and one of several starts at once gets it. NFS, CephFS, GPFS and
  Lustre (mounted with "flock") share it between machines; other file systems know it on one machine
  alone, or not at all.
- A record of the holder, which the holder touches every few seconds. A start on another machine
  that gets the flock watches the record: it is refused while the record is touched, and takes over
  after a minute without. It compares no clocks of two machines: the age comes from the file
  system's clock, and then the start waits for a change.

The file is removed at the end. A run that lost the lock, or whose file was removed, notices it in
seconds.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import secrets
import threading
import time
import uuid
from collections.abc import Iterator

from cnnjax.errors import TransientError, UserError, warn

try:
  import fcntl
except ImportError:  # Windows: the record alone
  fcntl = None

FILE = "run.lock"
REFRESH = 5.0  # seconds between two touches
STALE = 60.0  # seconds without a touch after which a holder on another machine counts as gone
SETTLE = 1.0  # seconds in which another start may write its record over ours, without a flock
BOOT = pathlib.Path("/proc/sys/kernel/random/boot_id")


@dataclasses.dataclass(frozen=True)
class _Holder:
  """The record of the run that holds a lock."""

  host: str
  kernel: str  # the same for all that share flocks for sure
  pid: int
  since: str
  token: str  # of one start

  @classmethod
  def me(cls) -> "_Holder":
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return cls(platform.node(), _kernel(), os.getpid(), now, secrets.token_hex(8))

  @classmethod
  def read(cls, fd: int) -> "_Holder | None":
    """Reads the record; None if it is missing or incomplete."""
    os.lseek(fd, 0, os.SEEK_SET)
    try:
      return cls(**json.loads(os.read(fd, 4096)))
    except (ValueError, TypeError):
      return None

  def write(self, fd: int) -> None:
    os.lseek(fd, 0, os.SEEK_SET)
    os.ftruncate(fd, 0)
    os.write(fd, json.dumps(dataclasses.asdict(self)).encode())

  def __str__(self) -> str:
    return f"pid {self.pid} on {self.host}, since {self.since}"


def _kernel() -> str:
  try:
    return BOOT.read_text().strip()
  except OSError:
    return f"{platform.node()} {uuid.getnode()}"


class Lock:
  """A lock that is held: a thread touches its record and notices when it is lost."""

  def __init__(self, path: pathlib.Path, fd: int, holder: _Holder):
    self._path, self._fd, self._holder = path, fd, holder
    self._lost, self._released = "", threading.Event()
    self._thread = threading.Thread(target=self._refresh, name="run.lock", daemon=True)
    self._thread.start()

  def check(self) -> None:
    """Raises UserError if the lock was lost: the workdir is another run's now."""
    if self._lost:
      raise UserError(
        f"this run no longer holds {self._path}: {self._lost}. It stops here and saves nothing "
        "more, so as not to write over another run; where there is none, the same command goes on "
        "from the last checkpoint"
      )

  def release(self) -> None:
    """Removes the file, unless another run took it over."""
    self._released.set()
    self._thread.join()
    with contextlib.suppress(OSError):
      if not self._loss_reason():
        self._path.unlink()
    os.close(self._fd)

  def _loss_reason(self) -> str:
    """Returns in words how the lock was lost; "" if it was not."""
    if not _is_at(self._fd, self._path):
      return "the file was removed" if not self._path.exists() else "another one was put there"
    holder = _Holder.read(self._fd)
    return "" if holder == self._holder else f"it was taken over by {holder or 'another run'}"

  def _refresh(self) -> None:
    wait = SETTLE
    while not self._lost and not self._released.wait(wait):
      wait = REFRESH
      with contextlib.suppress(OSError):  # a file system that is away may come back
        self._lost = self._loss_reason()
        if not self._lost:
          os.utime(self._fd)


@contextlib.contextmanager
def hold(folder: pathlib.Path) -> Iterator[Lock]:
  """Holds the lock of an existing `folder`.

  Waits for up to a minute if the record is of another machine, which may be gone.

  Raises:
    UserError: another run holds it; says which, since when, and what to do.
  """
  path, me = folder / FILE, _Holder.me()
  while (fd := _taken_by(path, me)) is None:
    pass
  lock = Lock(path, fd, me)
  try:
    yield lock
  finally:
    lock.release()


def _taken_by(path: pathlib.Path, me: _Holder) -> int | None:
  """Takes the lock; returns the open file with the record `me`, None if it changed: try again."""
  fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
  try:
    certain = _flock(fd)
    if certain is None:
      raise _refused(path, fd)
    if not _is_at(fd, path):  # its holder removed it between the two
      os.close(fd)
      return None
    before = _Holder.read(fd)
    foreign = before is not None and not (certain and before.kernel == me.kernel)
    if foreign and not _wait_for(path, fd, before):
      os.close(fd)
      return None
    me.write(fd)
    if foreign or not certain:
      time.sleep(SETTLE)
      if not _is_at(fd, path) or _Holder.read(fd) != me:
        raise _refused(path, fd)
    return fd
  except BaseException:
    with contextlib.suppress(OSError):
      os.close(fd)
    raise


def _flock(fd: int) -> bool | None:
  """Takes the flock; returns True, None if another process has it, False if there is none here."""
  if fcntl is None:
    return False
  try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return None
  except OSError:  # ENOSYS, ENOLCK, EOPNOTSUPP
    return False
  return True


def _is_at(fd: int, path: pathlib.Path) -> bool:
  """Returns whether the open file is the one at `path`."""
  try:
    return os.path.samestat(os.fstat(fd), os.stat(path))
  except FileNotFoundError:
    return False


def _age(path: pathlib.Path) -> float:
  """Returns the seconds since the file was touched, by the file system's clock."""
  probe = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
  try:
    probe.write_bytes(b"")
    return probe.stat().st_mtime - path.stat().st_mtime
  finally:
    probe.unlink(missing_ok=True)


def _wait_for(path: pathlib.Path, fd: int, holder: _Holder) -> bool:
  """Waits a minute for a touch of the record; returns True if none came, False if it is gone.

  Raises:
    UserError: the holder touched it.
  """
  left = STALE - max(0.0, _age(path))
  if left > 0:
    warn(f"{path} was held by {holder} a moment ago; waiting {left:.0f} s for a sign of it")
  end, seen = time.monotonic() + left, path.stat().st_mtime_ns
  while time.monotonic() < end:
    time.sleep(min(1.0, REFRESH))
    try:
      with path.open("rb") as file:  # opened again, so that NFS asks the server
        if os.fstat(file.fileno()).st_mtime_ns != seen:
          raise _refused(path, file.fileno())
    except FileNotFoundError:
      return False
  return _is_at(fd, path)


def _refused(path: pathlib.Path, fd: int) -> TransientError:
  for _ in range(20):  # it may be in the middle of writing
    if (holder := _Holder.read(fd)) is not None:
      break
    time.sleep(0.05)
  with contextlib.suppress(OSError):
    if (age := _age(path)) > STALE:
      return TransientError(
        f"another run holds the workdir {path.parent}: {holder}, with no sign of life for "
        f"{age:.0f} s. Stop it if it hangs; if it is gone for sure, delete {path}"
      )
  stop = f" stop it (kill {holder.pid}, on {holder.host})," if holder else ""
  return TransientError(
    f"another run holds the workdir {path.parent}: {holder or 'one that just began'}. Wait for "
    f"its end,{stop} or choose another --workdir"
  )
