"""Being asked to stop: which signals, how often, and at what moment; by real processes."""

import os
import signal
import subprocess
import sys
import threading
import time

import compiling
import jax
import numpy as np
import pytest

from cnnjax import checkpoints, train, writers
from cnnjax.config import to_json
from cnnjax.runtime import signals

# What the loop does: looks now and then, saves, and leaves. "busy" is in C meanwhile, as in the
# compiler, where Python runs no handler.
LOOP = """
import contextlib, hashlib, signal, sys, time
from cnnjax.runtime import signals
how = sys.argv[1]
# As from a terminal, also where the tests run in the background or under nohup.
signal.signal(signal.SIGHUP, signal.SIG_IGN if "nohup" in how else signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
with contextlib.nullcontext() if "library" in how else signals.leave_by_exception():
  print("ready", flush=True)
  if "before" in how:
    time.sleep(60)
  try:
    with signals.catch_signals() as caught:
      print("in", flush=True)
      if "busy" in how:
        hashlib.pbkdf2_hmac("sha512", b"", b"", 40_000_000)
      while not caught:
        time.sleep(0.01)
      out = sys.stdout
      sys.stdout = None if "closed" in how else out
      print("saving", file=out, flush=True)
      time.sleep(60 if "twice" in how else 0.5)
      print("saved", *[s.name for s in caught], flush=True)
  except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(3)
if "after" in how:
  import atexit
  atexit.register(lambda: (print("out", flush=True), time.sleep(60)))
sys.exit(128 + caught[0])
"""


def begin(how):
  process = subprocess.Popen(
    [sys.executable, "-c", LOOP, how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )
  ready = "ready" if "before" in how else "in"
  while process.stdout.readline().strip() != ready:
    assert process.poll() is None, process.stderr.read()
  time.sleep(0.1)
  return process


def ended(process):
  """(exit code, what it said, and on stderr)"""
  out, err = process.communicate(timeout=30)
  return process.returncode, out, err


@pytest.mark.smoke
@pytest.mark.parametrize("number", signals.STOPPING, ids=lambda s: s.name)
def test_each_one_saves_and_leaves_with_its_code(number):
  process = begin("loop")
  process.send_signal(number)
  code, out, err = ended(process)
  assert code == 128 + number and out == f"saving\nsaved {number.name}\n"
  again = "; once more leaves at once" if number in signals.ASKED else ""
  assert err == f"\n{number.name}: saving after this step{again}\n"


@pytest.mark.parametrize("number", signals.STOPPING, ids=lambda s: s.name)
def test_before_training_each_one_ends_the_start(number):
  process = begin("before")
  process.send_signal(number)
  code, _, err = ended(process)
  if number == signal.SIGINT:
    assert "KeyboardInterrupt" in err  # of which main.py makes its line
  else:
    assert (code, err) == (128 + number, "")


@pytest.mark.parametrize("first, second", [("TERM", "TERM"), ("INT", "INT"), ("USR1", "TERM")])
def test_when_python_cleans_up_one_ends_it_without_a_traceback(first, second):
  process = begin("loop after")
  process.send_signal(getattr(signal, f"SIG{first}"))
  while process.stdout.readline() != "out\n":
    assert process.poll() is None
  process.send_signal(getattr(signal, f"SIG{second}"))
  code, _, err = ended(process)
  assert code == -getattr(signal, f"SIG{second}") and "Traceback" not in err


@pytest.mark.parametrize("how", ["nohup before", "nohup loop"])
def test_under_nohup_a_hangup_is_nothing(how):
  process = begin(how)
  process.send_signal(signal.SIGHUP)
  time.sleep(0.3)
  assert process.poll() is None
  process.send_signal(signal.SIGTERM)
  assert ended(process)[0] == 143


@pytest.mark.parametrize("first, second", [("INT", "INT"), ("TERM", "TERM"), ("INT", "TERM")])
def test_a_second_one_leaves_at_once(first, second):
  process = begin("loop twice")
  process.send_signal(getattr(signal, f"SIG{first}"))
  assert process.stdout.readline() == "saving\n"
  process.send_signal(getattr(signal, f"SIG{second}"))
  code, out, err = ended(process)
  assert code == 128 + getattr(signal, f"SIG{second}") and "saved" not in out
  assert "stopped at once; the last checkpoint, if there is one, is whole" in err


def test_in_the_compiler_it_is_said_and_done_at_once():
  process = begin("busy")
  began = time.monotonic()
  process.send_signal(signal.SIGINT)
  for line in iter(process.stderr.readline, ""):
    if "saving after this step; once more leaves at once" in line:
      break
  process.send_signal(signal.SIGINT)
  assert ended(process)[0] == 130
  assert time.monotonic() - began < 5.0  # it is busy for longer than that


def test_notices_do_not_add_up():
  """As of SLURM: USR1 ahead of time, SIGTERM at the end, which is the first to ask."""
  process = begin("loop")
  for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM):
    process.send_signal(number)
    time.sleep(0.05)
  code, out, _ = ended(process)
  assert code == 128 + signal.SIGUSR1 and "saved SIGUSR1" in out


def test_other_programs_keep_their_second_one():
  """A notebook is not ended with all that is in it."""
  process = begin("library twice")
  process.send_signal(signal.SIGINT)
  assert process.stdout.readline() == "saving\n"
  process.send_signal(signal.SIGINT)
  assert ended(process)[:2] == (3, "interrupted\n")


def test_all_is_as_before_afterwards():
  before = {s: signal.getsignal(s) for s in signals.STOPPING}
  threads = threading.active_count()
  for _ in range(3):
    with signals.catch_signals() as caught:
      os.kill(os.getpid(), signal.SIGUSR1)
      time.sleep(0.05)
    assert caught == [signal.SIGUSR1]
  assert {s: signal.getsignal(s) for s in signals.STOPPING} == before
  assert threading.active_count() == threads
  assert signal.set_wakeup_fd(-1) == -1


def test_in_another_thread_nothing_is_caught():
  found = []

  def enter():
    with signals.catch_signals() as caught:
      found.append(caught)

  thread = threading.Thread(target=enter)
  thread.start()
  thread.join()
  assert found == [[]]


def test_where_a_signal_is_not_there():
  """As on Windows."""
  code = (
    "import signal\nfor n in ('SIGHUP', 'SIGUSR1', 'SIGUSR2'): delattr(signal, n)\n"
    "from cnnjax.runtime import signals\n"
    "with signals.leave_by_exception(), signals.catch_signals():\n"
    "  print(*[s.name for s in signals.STOPPING])"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout == "SIGINT SIGTERM\n"


# In training

RUN = """
import pathlib, signal, sys
from cnnjax import config, errors, train
from cnnjax.runtime import signals
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
settings = config.from_json(pathlib.Path(sys.argv[1]).read_text())
stopped = lambda: train.train(settings, pathlib.Path(sys.argv[2]))[2]
with signals.leave_by_exception():
  sys.exit(errors.run(lambda: 128 + int(stopped() or -128)))
"""


def run(config, tmp_path):
  (tmp_path / "wanted.json").write_text(to_json(config))
  return subprocess.Popen(
    [sys.executable, "-c", RUN, str(tmp_path / "wanted.json"), str(tmp_path / "run")],
    env={**compiling.environment(), "PYTHONUNBUFFERED": "1"},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def lines(tmp_path):
  return [
    {k: v for k, v in line.items() if k != "images_per_second"}
    for line in writers.read_metrics(tmp_path)
  ]


@pytest.mark.slow
def test_the_save_that_a_second_signal_cuts_off_hurts_nothing(tiny, tmp_path):
  """Again and again, at random moments after the first; the end is that of a run left alone."""
  config = tiny(**{
    "epochs": 100, "checkpoint_every": "100 steps", "model.dense_features": (512, 512),
  })  # fmt: skip
  end, _, _ = train.train(config, tmp_path / "undisturbed")
  random, said = np.random.default_rng(0), []
  for _ in range(8):
    process, before = run(config, tmp_path), checkpoints.last_step(tmp_path / "run") or 0
    while process.poll() is None and "compiled in" not in process.stdout.readline():
      pass
    time.sleep(random.uniform(0, 0.5))
    process.send_signal(signal.SIGTERM)
    time.sleep(random.uniform(0, 0.5))
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    said.append(output)
    # -15: it came when Python was on its way out, all being saved; a shell says 143 of it as well.
    assert process.returncode in (143, -15), output
    assert "Traceback" not in output
    if process.returncode == 143 and "stopped at once" not in output:
      assert "and saved at step" in output
    assert (checkpoints.last_step(tmp_path / "run") or 0) >= before
  assert "stopped at once" in " ".join(said)
  again, _, _ = train.train(config, tmp_path / "run")
  for a, b in zip(*map(jax.tree.leaves, (end, again)), strict=True):
    np.testing.assert_array_equal(a, b)
  assert lines(tmp_path / "run") == lines(tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("number", ["SIGHUP", "SIGUSR1"])
def test_while_it_compiles(tiny, tmp_path, number):
  """The step that it is at is done and saved."""
  config = tiny(epochs=1000)
  config.model = {"name": "resnet20"}
  process = run(config, tmp_path)
  for line in process.stdout:
    if line.strip().startswith("workdir"):
      break
  time.sleep(0.5)
  process.send_signal(getattr(signal, number))
  output, _ = process.communicate(timeout=100)
  assert process.returncode == 128 + getattr(signal, number), output
  assert f"stopped by {number} and saved at step 1 of" in output


def test_a_signal_is_heard_though_nobody_reads_what_is_said():
  """As of `2>&1 | head`, or with stdout closed: the thread that answers goes on."""
  read, sent = os.pipe()
  os.close(read)
  process = subprocess.Popen(
    [sys.executable, "-c", LOOP, "twice closed"], stdout=subprocess.PIPE, stderr=sent, text=True
  )
  os.close(sent)
  with process:
    while process.stdout.readline().strip() != "in":
      assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    while process.stdout.readline().strip() != "saving":
      assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
