"""What breaks in the middle of a run is named, with what to do; two runs never share a workdir."""

import signal
import subprocess
import sys
import time

import compiling
import jax
import pytest

from cnnjax import build, checkpoints, data, train, writers
from cnnjax.checkpoints import lock
from cnnjax.errors import TransientError, UserError, run
from cnnjax.training.failures import named_failures
from cnnjax.training.program import Program


@pytest.mark.parametrize(
  "text",
  [
    "INTERNAL: CUDA error: Failed call to cuStreamSynchronize: CUDA_ERROR_LAUNCH_FAILED",
    "UNAVAILABLE: TPU worker is gone",
    "DATA_LOSS: uncorrectable ECC error",
    "ABORTED: NCCL operation was aborted",
  ],
)
def test_a_device_that_fails_is_named(tiny, monkeypatch, capsys, text):
  def fail(*_):
    raise jax.errors.JaxRuntimeError(f"{text}\nand more of it")

  program = build.build(tiny())
  monkeypatch.setattr(Program, "compiled_step", fail)
  assert run(lambda: program.train_step(None, None, 1)) == 75
  said = capsys.readouterr().err
  assert said.startswith(f"error: the device failed: {text}. Start the same command again")
  assert said.count("\n") == 1


@pytest.mark.parametrize(
  "text",
  [
    "INVALID_ARGUMENT: Executable expected shape f32[3]",
    "UNIMPLEMENTED: no such convolution",
    "INTERNAL: CpuCallback error: Traceback (most recent call last): ...",
  ],
)
def test_a_bug_shows_where_it_is(tiny, text):
  with pytest.raises(jax.errors.JaxRuntimeError), named_failures(tiny()):
    raise jax.errors.JaxRuntimeError(text)


def test_too_little_memory_in_an_evaluation(tiny):
  out = jax.errors.JaxRuntimeError("INTERNAL: Failed to allocate 80 GiB: out of memory")
  tries = pytest.raises(UserError, match=r"evaluate batches of 64.*--config.eval_batch_size=32")
  with tries as error, named_failures(tiny(eval_batch_size=64), evaluating=True):
    raise out
  assert not isinstance(error.value, TransientError)


@pytest.mark.parametrize(
  "model, dtype, more",
  [
    ({}, "float32", ["model.remat=True, where the model has it", "dtype=bfloat16"]),
    ({}, "bfloat16", ["model.remat=True, where the model has it"]),
    ({"remat": True}, "float32", ["dtype=bfloat16"]),
    ({"remat": True}, "bfloat16", []),
  ],
)
def test_too_little_memory_in_training(tiny, model, dtype, more):
  """What is on already, or in the model's settings, is not said once more."""
  config = tiny(dtype=dtype)
  config.model = {"name": "resnet18", **model}
  tries = ["accumulate=2 (micro-batches of 8)", *more]
  with pytest.raises(UserError) as error, named_failures(config):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 80 GiB")
  said = str(error.value).partition("Try ")[2]
  assert said == ", or ".join(f"--config.{key}" for key in tries) + ", or batch_size=8"


def test_a_run_whose_lock_is_taken_stops_and_saves_nothing_more(tiny, tmp_path, monkeypatch):
  monkeypatch.setattr(lock, "REFRESH", 0.05)
  monkeypatch.setattr(lock, "SETTLE", 0.05)
  feed = data.Resident.feed

  def removed(self, step):
    if step == 8:
      (tmp_path / "run.lock").unlink()
      time.sleep(0.5)
    return feed(self, step)

  monkeypatch.setattr(data.Resident, "feed", removed)
  with pytest.raises(UserError, match=r"no longer holds .*run\.lock: the file was removed"):
    train.train(tiny(checkpoint_every="4 steps"), tmp_path)
  assert checkpoints.last_step(tmp_path) == 8
  assert not (tmp_path / "run.lock").exists()


SETTINGS = {
  "model.name": "simple_cnn", "data.source": "synthetic", "data.synthetic.train_examples": 101,
  "data.synthetic.test_examples": 37, "data.synthetic.image_size": 8, "batch_size": 16,
  "epochs": 100000,
}  # fmt: skip


def start(folder, *more):
  (folder.parent / "mine.py").write_text(
    "from cnnjax.config import default\ndef get_config():\n  return default()\n"
  )
  command = [sys.executable, "-m", "cnnjax.main", f"--config={folder.parent}/mine.py"]
  command += [f"--config.{key}={value}" for key, value in SETTINGS.items()]
  return subprocess.Popen(
    [*command, f"--workdir={folder}", *more],
    env={**compiling.environment(), "PYTHONUNBUFFERED": "1"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.mark.slow
def test_two_commands_on_one_workdir(tmp_path):
  """The second is refused; after a kill -9 of the first it goes on at once."""
  folder = tmp_path / "run"
  first = start(folder)
  while not writers.read_metrics(folder) and first.poll() is None:
    time.sleep(0.1)
  before = (folder / "starts.jsonl").read_bytes()
  second = start(folder)
  out, err = second.communicate(timeout=100)
  assert second.returncode == 75 and out.count("\n") == 1 and out.endswith(": loading JAX\n")
  assert err.startswith(f"error: another run holds the workdir {folder}: pid {first.pid} on ")
  assert err.count("\n") == 1 and "another --workdir" in err
  assert first.poll() is None and (folder / "starts.jsonl").read_bytes() == before
  evaluated = subprocess.run(
    [sys.executable, "-m", "cnnjax.evaluate", f"--workdir={folder}"],
    env=compiling.environment(), capture_output=True, text=True, timeout=100,
  )  # fmt: skip
  assert evaluated.returncode == 0, evaluated.stderr  # it takes no lock
  first.kill()
  again = start(folder)  # before the killed one is waited for
  for line in again.stdout:
    if "going on from step" in line:
      break
  again.send_signal(signal.SIGINT)
  _, err = again.communicate(timeout=100)
  first.communicate()
  assert again.returncode == 130 and "SIGINT: saving after this step" in err
  assert not (folder / "run.lock").exists()
