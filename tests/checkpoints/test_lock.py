"""The lock of a workdir, by real processes: one gets in, and no crash locks out the next."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from cnnjax.checkpoints import lock
from cnnjax.errors import UserError

HOLD = """
import pathlib, sys, time
from cnnjax.checkpoints import lock
with lock.hold(pathlib.Path(sys.argv[1])) as held:
  print("in", flush=True)
  while True:
    held.check()
    time.sleep(0.05)
"""
# Rounds in which several start at once; the one that gets in waits for its end, by a kill or not.
RACE = """
import os, pathlib, signal, sys, time
from cnnjax.checkpoints import lock
from cnnjax.errors import UserError
mode, folder, rounds, starts = sys.argv[1], pathlib.Path(sys.argv[2]), *map(int, sys.argv[3:])
if mode != "kernel":
  lock.SETTLE, lock.REFRESH, lock.STALE = 0.2, 0.05, 1.0
if mode == "record":
  lock.fcntl = None

def start(go, results, end):
  os.read(go, 1)
  try:
    with lock.hold(folder) as held:
      os.write(results, b"W")
      os.read(end, 1)
  except UserError:
    os.write(results, b"L")
  os._exit(0)

for i in range(rounds):
  path = folder / lock.FILE
  if mode == "overtaken":
    lock._Holder("elsewhere", "another", 1, "then", "x").write(fd := os.open(path, 66))
    os.utime(fd, (time.time() - 100,) * 2)
  (go, begin), (results, result), (end, finish) = os.pipe(), os.pipe(), os.pipe()
  children = []
  for _ in range(starts):
    if (child := os.fork()) == 0:
      start(go, result, end)
    children.append(child)
  os.write(begin, b"g" * starts)
  found = b"".join(os.read(results, 1) for _ in range(starts))
  if sorted(found) != sorted(b"W" + b"L" * (starts - 1)):
    sys.exit(f"round {i}: {found}")
  if i % 2:
    for child in children:
      os.kill(child, signal.SIGKILL)
  os.write(finish, b"e")
  for child in children:
    os.waitpid(child, 0)
  if not i % 2 and path.exists():
    sys.exit(f"round {i}: it is still there")
"""


def run(code, *args):
  return subprocess.Popen(
    [sys.executable, "-c", code, *map(str, args)],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


@contextlib.contextmanager
def holding(folder):
  """A process that holds the lock."""
  process = run(HOLD, folder)
  try:
    assert process.stdout.readline() == "in\n", process.stdout.read()
    yield process
  finally:
    process.kill()
    process.communicate()


def record(folder, *, kernel=None, age=0.0):
  """A record as a run leaves it that was killed, or one on another machine."""
  path = folder / lock.FILE
  holder = lock._Holder("elsewhere", kernel or "another", 4711, "2001-02-03 04:05:06 UTC", "x")
  with path.open("w+b") as f:
    holder.write(f.fileno())
  os.utime(path, (time.time() - age,) * 2)
  return path


@pytest.fixture
def fast(monkeypatch):
  for name, seconds in (("REFRESH", 0.1), ("SETTLE", 0.1), ("STALE", 1.5)):
    monkeypatch.setattr(lock, name, seconds)


@pytest.mark.smoke
def test_the_second_is_told_who_holds_it_and_what_to_do(tmp_path):
  with holding(tmp_path) as process:
    with pytest.raises(UserError) as error, lock.hold(tmp_path):
      pytest.fail("both got in")
    for words in (
      f"another run holds the workdir {tmp_path}: pid {process.pid} on ", "since 20", " UTC. ",
      f"kill {process.pid}", "another --workdir",
    ):  # fmt: skip
      assert words in str(error.value)
    process.send_signal(signal.SIGKILL)  # not waited for: it may be a zombie
    time.sleep(0.2)
    began = time.monotonic()
    with lock.hold(tmp_path):
      assert time.monotonic() - began < 0.5, "a start after a kill waits"
  assert not list(tmp_path.iterdir())


def test_a_process_does_not_get_in_twice(tmp_path):
  with lock.hold(tmp_path):
    with pytest.raises(UserError, match=f"pid {os.getpid()} on"), lock.hold(tmp_path):
      pass
    assert (tmp_path / lock.FILE).exists(), "who was refused took the lock away"
  with lock.hold(tmp_path):
    pass


def test_the_holder_touches_the_file(tmp_path, fast):
  """By which others see that it is there."""
  with lock.hold(tmp_path):
    path = tmp_path / lock.FILE
    os.utime(path, (1.0, 1.0))
    touched = (time.sleep(0.05) or path.stat().st_mtime > 1.0 for _ in range(100))
    assert any(touched), "it was not touched for five seconds"


@pytest.mark.parametrize("mode, rounds", [("kernel", 60), ("overtaken", 6), ("record", 6)])
def test_of_several_at_once_one_gets_in(tmp_path, mode, rounds):
  process = run(RACE, mode, tmp_path, rounds, 4)
  output, _ = process.communicate(timeout=100)
  assert process.returncode == 0, output


@pytest.mark.slow
@pytest.mark.parametrize("mode, rounds", [("kernel", 1000), ("overtaken", 60), ("record", 60)])
def test_of_many_at_once_one_gets_in(tmp_path, mode, rounds):
  process = run(RACE, mode, tmp_path, rounds, 8)
  output, _ = process.communicate(timeout=500)
  assert process.returncode == 0, output


def test_its_holder_leaves_while_another_comes(tmp_path, monkeypatch):
  """The file that is opened is not the one that is there when it is locked."""
  flock, seen, path = lock._flock, [], tmp_path / lock.FILE

  def late(fd):
    if not seen:
      path.unlink()
    seen.append(fd)
    return flock(fd)

  monkeypatch.setattr(lock, "_flock", late)
  with lock.hold(tmp_path):
    assert len(seen) == 2 and path.exists()
    with pytest.raises(UserError, match="another run holds"), lock.hold(tmp_path):
      pass


def test_another_machine_that_is_there_is_not_overtaken(tmp_path, fast):
  """Its touches are seen, also where its clock is wrong by a day."""
  path, done = record(tmp_path), threading.Event()

  def touch():
    while not done.wait(0.1):
      path.write_bytes(path.read_bytes())

  thread = threading.Thread(target=touch)
  thread.start()
  try:
    with pytest.raises(UserError, match="pid 4711 on elsewhere, since 2001"), lock.hold(tmp_path):
      pass
  finally:
    done.set()
    thread.join()
  assert json.loads(path.read_text())["pid"] == 4711


@pytest.mark.parametrize("age, least, most", [(0.0, 1.4, 4), (3600.0, 0.0, 1.0)])
def test_another_machine_that_is_gone_is_waited_for_and_overtaken(
  tmp_path, fast, capsys, age, least, most
):
  record(tmp_path, age=age)
  began = time.monotonic()
  with lock.hold(tmp_path) as held:
    assert least <= time.monotonic() - began <= most
    time.sleep(0.3)
    held.check()
  assert ("pid 4711 on elsewhere" in capsys.readouterr().err) == (age == 0)
  assert not list(tmp_path.iterdir())


def test_what_a_kill_of_this_machine_left_is_no_reason_to_wait(tmp_path):
  record(tmp_path, kernel=lock._kernel())
  began = time.monotonic()
  with lock.hold(tmp_path):
    assert time.monotonic() - began < 0.5


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 3}', "\0" * 100])
def test_half_a_record(tmp_path, content):
  (tmp_path / lock.FILE).write_text(content)
  with lock.hold(tmp_path) as held:
    held.check()


@pytest.mark.parametrize("how", ["removed", "replaced", "overtaken", "folder removed"])
def test_a_lock_that_is_lost_is_noticed_and_not_taken_from_another(tmp_path, fast, how):
  folder = tmp_path / "run"
  folder.mkdir()
  path = folder / lock.FILE
  with lock.hold(folder) as held:
    time.sleep(0.3)
    held.check()
    if how != "overtaken":
      path.unlink()
    if how == "folder removed":
      folder.rmdir()
    if how in ("replaced", "overtaken"):
      record(folder)
    time.sleep(0.5)
    with pytest.raises(UserError, match=r"no longer holds .*run\.lock: .*saves nothing more"):
      held.check()
  assert path.exists() == (how in ("replaced", "overtaken"))


def test_no_flock_on_the_file_system(tmp_path, fast, monkeypatch):
  """As Lustre without it: the record alone, and a minute's wait after a kill."""

  def missing(*_):
    raise OSError(38, "Function not implemented")

  monkeypatch.setattr(lock.fcntl, "flock", missing)
  again = pytest.raises(UserError, match=f"pid {os.getpid()}")
  with lock.hold(tmp_path), again, lock.hold(tmp_path):
    pass
  record(tmp_path, kernel=lock._kernel())
  began = time.monotonic()
  with lock.hold(tmp_path):
    assert time.monotonic() - began > 1.4


def test_a_holder_without_a_sign_of_life(tmp_path):
  """Stopped, not gone: it is not overtaken where the flock is seen, but told."""
  with holding(tmp_path) as process:
    process.send_signal(signal.SIGSTOP)
    os.utime(tmp_path / lock.FILE, (time.time() - 500,) * 2)
    hangs = pytest.raises(UserError, match=r"no sign of life for 500 s.*delete .*run\.lock")
    with hangs, lock.hold(tmp_path):
      pass


def test_a_folder_that_is_not_there(tmp_path):
  with pytest.raises(FileNotFoundError), lock.hold(pathlib.Path(tmp_path / "nowhere")):
    pass


def test_machines_of_several_versions_wait_for_the_same_time():
  """They touch and watch one file: who waits less than another touches would take a live lock."""
  assert (lock.FILE, lock.REFRESH, lock.STALE, lock.SETTLE) == ("run.lock", 5.0, 60.0, 1.0)


def test_a_machine_is_known_by_its_boot_or_else_by_its_address(monkeypatch, tmp_path):
  assert lock._kernel() == lock.BOOT.read_text().strip()
  monkeypatch.setattr(lock, "BOOT", tmp_path / "none")
  monkeypatch.setattr(lock.uuid, "getnode", lambda: 42)
  monkeypatch.setattr(lock.platform, "node", lambda: "here")
  assert lock._kernel() == "here 42"


def test_a_record_is_that_of_this_process_and_of_one_start():
  one, other = lock._Holder.me(), lock._Holder.me()
  assert one.pid == os.getpid() and one.token != other.token and len(one.token) == 16
  assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", one.since)
  assert str(one) == f"pid {one.pid} on {one.host}, since {one.since}"


def test_a_record_replaces_a_longer_one(tmp_path):
  path = tmp_path / lock.FILE
  path.write_text("x" * 3000)
  with path.open("r+b") as f:
    me = lock._Holder.me()
    me.write(f.fileno())
    assert lock._Holder.read(f.fileno()) == me == lock._Holder.read(f.fileno())
  assert json.loads(path.read_text())["token"] == me.token


def test_a_file_that_goes_while_it_is_watched_is_locked_anew(tmp_path, monkeypatch):
  """Another run ended in that minute."""
  path, waited = record(tmp_path), []
  monkeypatch.setattr(lock, "STALE", 3600.0)

  def sleep(seconds):
    waited.append(seconds)
    path.unlink(missing_ok=True)

  monkeypatch.setattr(lock.time, "sleep", sleep)
  with lock.hold(tmp_path) as held:
    held.check()
    assert path.exists()
  assert waited == [1.0] and not list(tmp_path.iterdir())


def test_a_record_that_another_start_writes_over_is_no_lock(tmp_path, monkeypatch):
  """Where the file system has no flock, both may have seen it free."""
  monkeypatch.setattr(lock, "fcntl", None)
  path, waited = tmp_path / lock.FILE, []

  def other(seconds):
    waited.append(seconds)
    record(tmp_path)

  monkeypatch.setattr(lock.time, "sleep", other)
  with pytest.raises(UserError, match=r"another run holds the .* pid 4711 on elsewhere"):
    lock._taken_by(path, lock._Holder.me())
  assert waited == [lock.SETTLE] and path.exists()


def test_of_a_holder_that_is_just_writing_its_name_is_waited_for(tmp_path, monkeypatch):
  path, waited = tmp_path / lock.FILE, []
  path.write_text("{")
  with path.open("rb") as f:
    monkeypatch.setattr(lock.time, "sleep", waited.append)
    error = lock._refused(path, f.fileno())
    assert "one that just began. Wait for its end, or choose another --workdir" in str(error)
    assert waited == [0.05] * 20
    waited.clear()
    monkeypatch.setattr(lock.time, "sleep", lambda _: waited.append(record(tmp_path)))
    error = lock._refused(path, f.fileno())
    assert "stop it (kill 4711, on elsewhere), or choose another" in str(error) and len(waited) == 1
  assert error.code == 75


@pytest.mark.parametrize("age, dead", [(59.0, False), (61.5, True)])
def test_no_sign_of_life_for_a_minute_is_said(tmp_path, age, dead):
  path = record(tmp_path, age=age)
  with path.open("rb") as f:
    assert ("no sign of life" in str(lock._refused(path, f.fileno()))) == dead
  assert [file.name for file in tmp_path.iterdir()] == [lock.FILE]


@pytest.mark.parametrize("holder, words", [(True, "pid 4711 on elsewhere"), (False, "another run")])
def test_how_a_lock_was_lost(tmp_path, holder, words):
  path, me = tmp_path / lock.FILE, lock._Holder.me()
  fd = lock._taken_by(path, me)
  held = lock.Lock(path, fd, me)
  try:
    assert held._loss_reason() == ""
    if holder:
      record(tmp_path)
    else:
      path.write_text("{")
    assert held._loss_reason().startswith(f"it was taken over by {words}")
    path.rename(tmp_path / "elsewhere")
    assert held._loss_reason() == "the file was removed"
    path.touch()
    assert held._loss_reason() == "another one was put there"
  finally:
    held.release()
  assert path.exists()


def test_the_thread_of_a_lock_ends_with_it(tmp_path):
  """Or with the process, where the run breaks off."""
  with lock.hold(tmp_path) as held:
    thread = held._thread
    assert (thread.name, thread.daemon, thread.is_alive()) == ("run.lock", True, True)
  assert not thread.is_alive()
