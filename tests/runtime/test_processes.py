"""Real processes on one machine, one run: the same losses, and what comes when one ends."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import compiling
import numpy as np
import pytest
from PIL import Image
from waiting import wait_for

from cnnjax import launch, writers
from cnnjax.errors import UserError
from cnnjax.runtime import processes, ranks

ROOT = pathlib.Path(__file__).parents[1]
RUNS: list[subprocess.Popen] = []
# 37 examples to test and 101 to train on: uneven in all ways.
WORDS = [
  "--config=configs/simple_cnn.py", "--config.model.conv_features=(4,)",
  "--config.model.dense_features=(8,)", "--config.data.source=synthetic",
  "--config.data.synthetic.train_examples=101", "--config.data.synthetic.test_examples=37",
  "--config.data.synthetic.image_size=8", "--config.data.validation=21",
  "--config.batch_size=16", "--config.eval_batch_size=10", "--config.log_every=1 steps",
  "--config.augment=pad_crop(1) | flip", "--config.mesh.fsdp_min_size=16",
  "--config.optim.schedule.name=constant", "--config.average.ema=0.9",
]  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_is_left():
  """Ends what a test that failed has left behind."""
  yield
  for run in RUNS:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(run.pid, signal.SIGKILL)
  RUNS.clear()


def start(count, workdir, *more, words=WORDS, wait=True, devices=1):
  """A run of `count` processes; what it printed, once it has ended."""
  given = f"--processes={count}", *words, f"--workdir={workdir}", *more
  run = subprocess.Popen(
    [sys.executable, "-m", "cnnjax.launch", *given],
    cwd=ROOT,
    env=compiling.environment(devices),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )
  RUNS.append(run)
  if not wait:
    return run
  output, _ = run.communicate(timeout=300)
  return run.returncode, output


def ranks_of(run):
  """The process ids of a launched run, in order."""
  found = subprocess.run(
    ["pgrep", "-P", str(run.pid), "-f", "cnnjax.main"], capture_output=True, text=True
  )
  rank = lambda pid: pathlib.Path(f"/proc/{pid}/environ").read_text().split("JAX_PROCESS_ID=")[1][0]
  return sorted(map(int, found.stdout.split()), key=rank)


def lines_of(workdir):
  """What was written, without what a clock says."""
  clocks = ("images_per_second", "data_wait", "step_ms", "seconds")
  return [
    {k: v for k, v in line.items() if not k.startswith(clocks)}
    for line in writers.read_metrics(workdir)
  ]


def assert_same(found, wanted):
  assert [line["step"] for line in found] == [line["step"] for line in wanted]
  for a, b in zip(found, wanted, strict=True):
    assert a.keys() == b.keys()
    for key in a:
      assert a[key] == pytest.approx(b[key], rel=2e-4, abs=2e-5), (key, a["step"])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """The lines of a run of one process."""
  workdir = tmp_path_factory.mktemp("alone")
  code, output = start(1, workdir, "--config.epochs=3")
  assert code == 0, output
  return lines_of(workdir)


MODES = {
  "two": (2, ()),
  "two_sharded_streaming": (
    2,
    ("--config.mesh.data=1", "--config.mesh.fsdp=2", "--config.data.pipeline=streaming"),
  ),
  "two_of_several_steps_traced": (
    2,
    ("--config.steps_per_dispatch=3", "--config.profile.start=2", "--config.profile.steps=2"),
  ),
  "four": (4, ()),
  "four_sharded": (4, ("--config.mesh.data=2", "--config.mesh.fsdp=2")),
}


@pytest.mark.parametrize(
  "name", [name if name == "two" else pytest.param(name, marks=pytest.mark.slow) for name in MODES]
)
def test_the_same_losses_and_exact_evaluation(alone, tmp_path, name):
  count, words = MODES[name]
  code, output = start(count, tmp_path, "--config.epochs=3", *words)
  assert code == 0, output
  assert f"of {count} processes" in output
  assert output.count("trained 15 steps") == 1  # one of them speaks
  assert_same(lines_of(tmp_path), alone)


PRECISE_STOPPING = (
  "--config.batch_norm.precise=True", "--config.batch_norm.batches=3", "--config.health.every=2",
  "--config.optim.plateau.patience=1", "--config.early_stopping.patience=4",
  "--config.monitor=validation/loss",
)  # fmt: skip
MATCHED_SWA = (
  "--config.accumulate=2", "--config.batch_norm.accumulated=matched",
  "--config.average.swa_start=1", "--config.average.swa_every=3 steps",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("words", [PRECISE_STOPPING, MATCHED_SWA], ids=["precise", "matched"])
def test_recipes_are_the_same_on_two_processes(tmp_path, words):
  more = "--config.epochs=3", "--config.model.batch_norm=True", *words
  for count in (1, 2):
    code, output = start(count, tmp_path / str(count), *more)
    assert code == 0, output
  assert_same(lines_of(tmp_path / "2"), lines_of(tmp_path / "1"))


@pytest.mark.slow
def test_nan_is_traced_by_all(tmp_path):
  words = (
    "--config.optim.schedule.name=multi_step", "--config.optim.schedule.boundaries=('5 steps',)",
    "--config.optim.schedule.factor=1e18", "--config.health.trace=True",
    "--config.optim.name=sgd", "--config.optim.learning_rate=0.1",
  )  # fmt: skip
  words = [w for w in WORDS if "schedule" not in w] + [*words, "--config.epochs=3"]
  code, output = start(2, tmp_path, words=words)
  assert code == 2 and "began in" in output and "infinite in step" in output, output


@pytest.mark.slow
def test_two_devices_in_each_of_two_processes(alone, tmp_path):
  words = ("--config.epochs=3", "--config.mesh.fsdp=2")
  code, output = start(2, tmp_path, *words, devices=2)
  assert code == 0 and "4 x cpu (data 2, fsdp 2) of 2 processes" in output, output
  assert_same(lines_of(tmp_path), alone)


@pytest.mark.slow
def test_a_signal_to_one_stops_all_and_one_process_goes_on(tmp_path):
  """Saved by two processes, resumed by one."""
  run = start(2, tmp_path / "moved", "--config.epochs=2000", wait=False)
  wait_for(run, tmp_path / "moved", 8, seconds=120)
  os.kill(ranks_of(run)[1], signal.SIGTERM)
  output, _ = run.communicate(timeout=120)
  assert run.returncode == 128 + signal.SIGTERM, output
  assert "stopped by SIGTERM and saved at step" in output
  epochs = writers.read_metrics(tmp_path / "moved")[-1]["step"] // 5 + 2
  for name in ("moved", "stayed"):
    code, output = start(1, tmp_path / name, f"--config.epochs={epochs}")
    assert code == 0, output
    assert ("going on from step" in output) == (name == "moved")
  assert_same(lines_of(tmp_path / "moved"), lines_of(tmp_path / "stayed"))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_is_killed_ends_the_others(tmp_path, rank):
  run = start(2, tmp_path, "--config.epochs=2000", wait=False)
  wait_for(run, tmp_path, 11, seconds=120)  # the save of step 10 waited for that of step 5
  os.kill(ranks_of(run)[rank], signal.SIGKILL)
  began = time.monotonic()
  output, _ = run.communicate(timeout=120)
  assert time.monotonic() - began < 60
  assert f"process {rank} was ended by SIGKILL" in output
  assert "another process of this run is gone" in output or "detected fatal errors" in output
  assert run.returncode not in (0, 2)
  epochs = writers.read_metrics(tmp_path)[-1]["step"] // 5 + 2
  code, output = start(1, tmp_path, f"--config.epochs={epochs}")
  assert code == 0 and "going on from step" in output, output


@pytest.mark.slow
def test_an_image_that_one_cannot_read_ends_all(tmp_path):
  """What one process alone meets: it does not wait for the others to save, and they do not wait."""
  rng = np.random.default_rng(0)
  for i in range(40):
    place = tmp_path / "photos" / ("train" if i < 32 else "test") / "ab"[i % 2]
    place.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(255, size=(8, 8, 3), dtype=np.uint8)).save(place / f"{i}.png")
  given = {
    "data.source": "folder", "data.path": tmp_path / "photos", "data.image_size": 8,
    "data.pipeline": "streaming", "data.max_unreadable": 0, "data.validation": None,
  }  # fmt: skip
  words = [word for word in WORDS if not word.startswith("--config.data")]
  words += [f"--config.{key}={value}" for key, value in given.items()]
  run = start(2, tmp_path / "run", "--config.epochs=2000", words=words, wait=False)
  wait_for(run, tmp_path / "run", 4, seconds=120)
  next((tmp_path / "photos" / "train" / "a").glob("*.png")).write_bytes(b"no image")
  began = time.monotonic()
  output, _ = run.communicate(timeout=120)
  assert time.monotonic() - began < 60 and run.returncode in (2, 75), output
  assert "cannot be read" in output


@pytest.mark.slow
def test_one_that_waits_for_others_can_be_ended(tmp_path):
  words = "--coordinator=127.0.0.1:1", "--processes=2", "--process=1"
  run = subprocess.Popen(
    [sys.executable, "-m", "cnnjax.main", *WORDS, f"--workdir={tmp_path}", *words],
    cwd=ROOT,
    start_new_session=True,
  )
  RUNS.append(run)
  time.sleep(10)
  assert run.poll() is None
  run.terminate()
  assert run.wait(timeout=5) == -signal.SIGTERM


@pytest.mark.slow
def test_a_wrong_config_is_said_by_all_and_nothing_is_left(tmp_path):
  code, output = start(3, tmp_path / "run", "--config.epochs=1")
  assert code == 2 and "batch_size 16 cannot be divided over 3 devices" in output
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  "given, message",
  [
    ({"processes": 2}, "--coordinator is missing"),
    ({"coordinator": "host:1", "processes": 2}, "--process is missing"),
    ({"process": 0}, "--coordinator is missing"),
    ({"coordinator": "host", "processes": 2, "process": 0}, "is not HOST:PORT"),
    (
      {"coordinator": "host:1", "processes": 2, "process": 2},
      "and below --processes=2",
    ),
  ],
)
def test_what_is_missing_or_wrong_is_named(given, message, monkeypatch):
  for names in ranks.VARIABLES.values():
    for name in names:
      monkeypatch.delenv(name, raising=False)
  with pytest.raises(UserError, match=message):
    processes.start(**given)


def test_the_environment_says_it_as_well(monkeypatch):
  """Variables, those of an indexed job of Kubernetes, and clusters that JAX knows itself."""
  asked = []
  monkeypatch.setattr(
    processes.jax.distributed, "initialize", lambda *args, **_: asked.append(args)
  )
  monkeypatch.setattr(processes.jax.config, "update", lambda *_: None)
  processes.start()
  assert not asked
  monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "job-0.service:1234")
  monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
  monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
  processes.start()
  assert asked.pop() == ("job-0.service:1234", 4, 3)
  processes.start("localhost:1", 2, 1)  # what is given comes first
  assert asked.pop() == ("localhost:1", 2, 1)
  for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JOB_COMPLETION_INDEX"):
    monkeypatch.delenv(name)
  slurm = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"}
  for name, value in slurm.items():
    monkeypatch.setenv(name, value)
  processes.start()  # a batch script of two tasks, outside srun: one process
  assert not asked
  monkeypatch.setenv("SLURM_STEP_NODELIST", "node[1-2]")
  processes.start()
  assert asked.pop() == (None, None, None)


@pytest.mark.parametrize(
  "seen, words",
  [
    ([{"a": 1, "b": "x"}] * 3, None),
    ([{"a": 1, "b": "x"}, {"a": 1, "b": "x"}, {"a": 1, "b": "y"}], "process 2 has another b than"),
    ([{"a": 1, "b": "x"}, {"a": 2, "b": "x"}, {"a": 1, "b": "y"}], "process 1, 2 has another a, b"),
  ],
)
def test_processes_that_see_different_files_all_say_so(seen, words, monkeypatch):
  sent = []
  monkeypatch.setattr(processes, "several", lambda: True)
  monkeypatch.setattr(
    processes.multihost_utils, "process_allgather", lambda own: sent.append(own) or np.stack([own])
  )
  for own in seen:
    processes.check_same(own)
  assert {x.dtype for x in sent} == {np.dtype(np.uint8)}  # JAX would cut 64 bits
  monkeypatch.setattr(processes.multihost_utils, "process_allgather", lambda own: np.stack(sent))
  for own in seen:
    with pytest.raises(UserError, match=words) if words else contextlib.nullcontext():
      processes.check_same(own)


def test_processes_share_the_gpus():
  found = launch.environments(2, ["0", "1", "2", "3"])
  assert [env["CUDA_VISIBLE_DEVICES"] for env in found] == ["0,1", "2,3"]
  assert [env["JAX_PROCESS_ID"] for env in found] == ["0", "1"]
  assert "CUDA_VISIBLE_DEVICES" not in launch.environments(2, [])[0]
  with pytest.raises(UserError, match="cannot share 3 GPUs"):
    launch.environments(2, ["0", "1", "2"])


@pytest.fixture
def two_hosts():
  """Two network namespaces with a cable between them: hosts of their own, on one machine."""
  names = [f"cnnjax{os.getpid()}{side}" for side in "ab"]
  ip = lambda *words: subprocess.run(["ip", *words], capture_output=True, text=True)
  etc = [pathlib.Path("/etc/netns") / name for name in names]
  if shutil.which("ip") is None or ip("netns", "add", names[0]).returncode:
    pytest.skip("this machine allows no network namespaces")
  try:
    ip("netns", "add", names[1])
    cable = f"link add cable netns {names[0]} type veth peer name cable netns {names[1]}"
    ip(*cable.split())
    for at, name in enumerate(names, 1):
      ip("-n", name, "address", "add", f"10.99.0.{at}/24", "dev", "cable")
      ip("-n", name, "link", "set", "cable", "up")
      ip("-n", name, "link", "set", "lo", "up")
      # Gloo listens where the name of the host leads to; `ip netns exec` shows each its own file.
      etc[at - 1].mkdir(parents=True)
      (etc[at - 1] / "hosts").write_text(f"10.99.0.{at} {socket.gethostname()}\n")
    yield names
  finally:
    for name, folder in zip(names, etc, strict=True):
      ip("netns", "delete", name)
      shutil.rmtree(folder, ignore_errors=True)


def start_on(hosts, workdir, *words):
  """A process on each of the hosts, which find each other over the network."""
  runs = []
  for at, host in enumerate(hosts):
    flags = "--coordinator=10.99.0.1:4321", f"--processes={len(hosts)}", f"--process={at}"
    command = [sys.executable, "-m", "cnnjax.main", *WORDS, f"--workdir={workdir}", *flags, *words]
    runs.append(
      subprocess.Popen(
        ["ip", "netns", "exec", host, *command],
        cwd=ROOT,
        env=compiling.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
      )
    )
  RUNS.extend(runs)
  return runs


@pytest.mark.slow
def test_two_hosts_of_a_network(alone, two_hosts, tmp_path):
  runs = start_on(two_hosts, tmp_path, "--config.epochs=3")
  outputs = [run.communicate(timeout=300)[0] for run in runs]
  assert [run.returncode for run in runs] == [0, 0], outputs
  assert_same(lines_of(tmp_path), alone)


@pytest.mark.slow
def test_a_host_that_vanishes_is_noticed_within_a_minute(two_hosts, tmp_path):
  """The cable is pulled: nobody says goodbye, and no connection is reset."""
  runs = start_on(two_hosts, tmp_path, "--config.epochs=2000")
  wait_for(runs[0], tmp_path, 8, seconds=120)
  subprocess.run(["ip", "-n", two_hosts[1], "link", "set", "cable", "down"], check=True)
  began = time.monotonic()
  for run in runs:
    output, _ = run.communicate(timeout=120)
    assert run.returncode != 0
    assert "is gone" in output or "detected fatal errors" in output, output
  assert time.monotonic() - began < 60
