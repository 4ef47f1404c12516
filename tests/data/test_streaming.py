"""What the streaming pipeline alone has: random crops, threads, processes, memory, an end."""

import multiprocessing
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref

import compiling
import jax
import numpy as np
import pytest
from fakes import Records, photos, png, split_of_files

from cnnjax import checkpoints, data, errors, train, writers
from cnnjax.config import default, override, to_json
from cnnjax.data import folder, stall, streaming
from cnnjax.data.images import UnreadableImage, random_resized_crop
from cnnjax.errors import TransientError, UserError
from cnnjax.runtime import sharding

SIZE, BATCH, SEED, TOTAL = 53, 8, 3, 20
CLOCKS = ("images_per_second", "data_wait")  # metrics that time decides
RANDOM = {"image_size": 6, "crop": "random_resized", "crop_scale": (0.2, 0.9)}


def stream(split, devices=1, *, seed=SEED, batch_size=BATCH, total=TOTAL, **overrides):
  """A pipeline over a split, to train on."""
  config = default()
  for key, value in {"pipeline": "streaming", "threads": 2, **overrides}.items():
    override(config, f"data.{key}", value)
  order = data.Order.of(split, config.data, batch_size, seed).for_run(total)
  skipped = data.Skipped(config.data.max_unreadable)
  return data.Streaming(split, config.data, sharding.make_mesh(devices), skipped, order)


def batches(pipeline, steps):
  found = [jax.device_get(pipeline.feed(step)) for step in steps]
  pipeline.close()
  return found


def same(a, b):
  for x, y in zip(a, b, strict=True):
    for key in ("image", "label"):
      np.testing.assert_array_equal(x[key], y[key])


def pixels(n=SIZE, size=4):
  """A split of small images in memory."""
  images = np.random.default_rng(0).integers(0, 256, (n, size, size, 1), np.uint8)
  return data.Split(
    Records(images, np.arange(n, dtype=np.int32) % 5), tuple("abcde"), images.shape[1:]
  )


def test_the_rows_of_a_process_may_hold_no_example():
  """As of the last evaluated batch on two processes, where the first one has all that are left."""
  split = pixels(3)
  crop, arrays = lambda example, *_: example, lambda step: {"image": ((4, 4, 1), "uint8")}
  indices = lambda step: np.array([0, 1, 2, -1, -1, -1])
  chunks = streaming._Chunks(
    split, indices, np.arange(3, 6), crop, arrays, range(1), replace=False, limit=0, what="batch"
  )
  found = chunks[0]
  assert found["mask"].tolist() == [False] * 3 and not found["arrays"]["image"].any()


def left_over():
  """Threads of Grain that do not end."""
  for _ in range(100):
    alive = [t.name for t in threading.enumerate() if t.name.startswith("grain")]
    if not alive:
      break
    time.sleep(0.05)
  return alive


@pytest.fixture(scope="module")
def files():
  return split_of_files(SIZE)


# Batches


@pytest.mark.smoke
def test_random_crops_are_those_of_seed_step_and_row(files):
  """One line of NumPy's generator says which; a repeated example has another crop each time."""
  pipeline = stream(files, repeats=4, **RANDOM)
  steps = [0, 1, 7, 13, 1]
  found = batches(pipeline, steps)
  for step, batch in zip(steps, found, strict=True):
    rows = pipeline.order.at(step)
    assert (rows[0] == rows[:4]).all()
    assert len({image.tobytes() for image in batch["image"][:4]}) == 4
    for row, (index, image) in enumerate(zip(rows, batch["image"], strict=True)):
      rng = np.random.default_rng((SEED, step, row))
      expected = random_resized_crop(files[index]["image"], 6, 3, rng, (0.2, 0.9))
      np.testing.assert_array_equal(image, expected)


def test_random_crops_differ_between_epochs_and_seeds(files):
  """The same example, wherever it stands."""
  crops = []
  for seed in (0, 1):
    pipeline = stream(files, seed=seed, remainder="pad", **RANDOM)
    for step, batch in zip(range(14), batches(pipeline, range(14)), strict=True):
      at = np.flatnonzero(pipeline.order.at(step) == 5)
      crops += [batch["image"][i].tobytes() for i in at]
  assert len(crops) >= 4 and len(set(crops)) == len(crops)


@pytest.mark.parametrize("threads, chunk, devices", [(1, 128, 1), (4, 128, 2), (3, 3, 8)])
def test_threads_chunks_and_devices_change_nothing(files, threads, chunk, devices, monkeypatch):
  expected = batches(stream(files, **RANDOM), range(TOTAL))
  monkeypatch.setattr(streaming, "CHUNK", chunk)
  for steps in (range(TOTAL), range(9, TOTAL), [17, 3, 11]):
    found = batches(stream(files, devices, threads=threads, **RANDOM), steps)
    same(found, [expected[step] for step in steps])


@pytest.mark.parametrize("processes", [2, 4])
def test_the_rows_of_all_processes_are_the_batch(files, processes, monkeypatch):
  """Each reads its own alone."""
  expected = batches(stream(files, **RANDOM), range(TOTAL))
  monkeypatch.setattr(sharding, "put_rows", lambda tree, where: tree)
  parts, read = [], []
  for process in range(processes):
    rows = np.arange(BATCH)[process * BATCH // processes :][: BATCH // processes]
    monkeypatch.setattr(sharding, "local_rows", lambda batch_size, mesh, rows=rows: rows)
    records = Records(files.records.images, files.records.labels)
    split = data.Split(records, files.classes, files.shape)
    parts.append(batches(stream(split, total=6, **RANDOM), range(6)))
    read += records.read
  joined = [
    {key: np.concatenate([part[step][key] for part in parts]) for key in ("image", "label")}
    for step in range(6)
  ]
  same(joined, expected[:6])
  assert len(read) == len(set(read)) == 48, "an example was read twice"


def test_a_run_goes_on_anywhere_at_once(files):
  """Only what is needed from there is read; a run of ten million steps is no longer in starting."""
  records = Records(files.records.images, files.records.labels)
  split = data.Split(records, files.classes, files.shape)
  pipeline = stream(split, total=10**7, image_size=6)
  assert not records.read
  began, start = time.monotonic(), 7_654_321
  pipeline.feed(start)
  pipeline.close()
  assert time.monotonic() - began < 5
  ahead = pipeline.images_ahead // BATCH
  soon = np.concatenate([pipeline.order.at(start + i) for i in range(ahead)])
  assert records.read[:BATCH] and len(records.read) <= pipeline.images_ahead
  assert set(records.read) <= set(soon.tolist())


# Memory


class Watch:
  """Counts the images of chunks and batches that are in memory."""

  def __init__(self, monkeypatch):
    self.live = self.most = self.decoded = 0
    self._lock = threading.Lock()
    get, join = streaming._Chunks.__getitem__, streaming._join

    def chunk(chunks, i):
      found = get(chunks, i)
      self.decoded += len(found["arrays"]["image"])
      self.see(found["arrays"]["image"])
      return found

    def joined(chunks):
      batch = join(chunks)
      if len(chunks) > 1:
        self.see(batch["arrays"]["image"])
      return batch

    monkeypatch.setattr(streaming._Chunks, "__getitem__", chunk)
    monkeypatch.setattr(streaming, "_join", joined)

  def see(self, images):
    with self._lock:
      self.live += len(images)
      self.most = max(self.most, self.live)
    weakref.finalize(images, self.forget, len(images))

  def forget(self, n):
    self.live -= n


@pytest.mark.parametrize("threads, chunk", [(1, 128), (4, 128), (2, 4), (8, 3)])
def test_no_more_images_are_in_memory_than_it_says(threads, chunk, monkeypatch):
  watch = Watch(monkeypatch)
  monkeypatch.setattr(streaming, "CHUNK", chunk)
  pipeline = stream(pixels(), threads=threads, total=10**6)
  limit = pipeline.images_ahead
  pipeline.feed(0)
  before = -1
  while watch.decoded != before:  # until they wait for someone to take a batch
    before = watch.decoded
    time.sleep(0.3)
  assert watch.decoded <= limit, "they read on while nobody takes"
  assert limit <= 2 * watch.decoded, "it says far more than it takes"
  for step in range(1, 100):
    pipeline.feed(step)
  pipeline.close()
  assert watch.most <= limit
  assert watch.decoded <= 100 * BATCH + limit


def test_the_memory_in_words(files):
  pipeline = stream(files, threads=2, image_size=1024)
  assert pipeline.images_ahead == 2 * 8 + 8 + 6 * 8  # 3 MiB each
  assert pipeline.describe() == "streaming by 2 threads, at most 216 MiB of images ahead"
  pipeline = stream(files, threads=2, workers=3, image_size=1024)
  assert pipeline.images_ahead == 3 * 7 * 8 + 6 * 8
  assert pipeline.describe().startswith("streaming by 3 processes of 2 threads, at most 648 MiB")


# The end


def test_close_ends_the_threads(files):
  pipeline = stream(files, image_size=6)
  pipeline.close()  # of what never began
  first = jax.device_get(pipeline.feed(0))
  assert any(t.name.startswith("grain") for t in threading.enumerate())
  pipeline.close()
  assert not left_over()
  pipeline.close()
  second, again = batches(pipeline, [1, 0])  # it can go on, and anywhere
  same([again], [first])
  assert not np.array_equal(first["image"], second["image"])
  assert not left_over()


def test_the_last_batch_and_a_jump_end_threads_too(files):
  pipeline = stream(files, total=4, image_size=6)
  for step in (0, 2, 1, 2, 3):
    pipeline.feed(step)
    names = [t.name for t in threading.enumerate() if t.name.startswith("grain-thread")]
    assert len(names) <= 1
  pipeline.close()
  assert not left_over()


@pytest.mark.parametrize("how", ["dropped", "closed", "raised"])
def test_an_evaluation_that_is_broken_off_ends_its_threads(files, how):
  pipeline = stream(files, image_size=6)
  found = pipeline.once(4)
  next(found)
  if how == "closed":
    found.close()
  elif how == "raised":
    with pytest.raises(KeyboardInterrupt):
      found.throw(KeyboardInterrupt)
  del found
  assert not left_over()


class Failing(Records):
  def __getitem__(self, i):
    if i == 30:
      raise OSError("the disk is on fire")
    return super().__getitem__(i)


@pytest.mark.parametrize("name", ["train", "test"])
def test_what_fails_in_a_thread_is_raised_and_ends_all(name):
  split = data.Split(Failing(photos(SIZE), np.arange(SIZE) % 5), tuple("abcde"), (None, None, 3))
  pipeline = stream(split, image_size=6)
  with pytest.raises(OSError, match="the disk is on fire"):
    batches(pipeline, range(TOTAL)) if name == "train" else list(pipeline.once(8))
  pipeline.close()
  assert not left_over()


def test_too_many_unreadable_images_end_all():
  pipeline = stream(split_of_files(SIZE, range(0, SIZE, 3)), image_size=6)
  with pytest.raises(UserError, match="11 images cannot be read"):
    batches(pipeline, range(TOTAL))
  assert not left_over()


# Processes


@pytest.mark.slow
def test_worker_processes_change_nothing_and_leave_nothing():
  """Equal batches, the same images named, the same errors; and their shared memory is freed."""
  memory = lambda: {p.name for p in pathlib.Path("/dev/shm").glob("psm_*")}
  before = memory()
  split = split_of_files(SIZE, (3, 4, 20))
  by_threads = stream(split, **RANDOM)
  expected = batches(by_threads, range(TOTAL))
  pipeline = stream(split, workers=2, **RANDOM)
  for steps in (range(TOTAL), range(9, 12)):
    same(batches(pipeline, steps), [expected[step] for step in steps])
    assert not multiprocessing.active_children()
  assert pipeline._skipped == by_threads._skipped and len(pipeline._skipped) == 3
  pipeline = stream(split, workers=2, max_unreadable=1, **RANDOM)
  with pytest.raises(UserError, match=r"2 images cannot be read, and data\.max_unreadable is 1"):
    batches(pipeline, range(TOTAL))
  records = Failing(photos(SIZE), np.arange(SIZE) % 5)
  failing = stream(data.Split(records, tuple("abcde"), (None, None, 3)), workers=2, **RANDOM)
  with pytest.raises(OSError, match="the disk is on fire"):
    batches(failing, range(TOTAL))
  for each in (pipeline, failing):
    each.close()
  assert not multiprocessing.active_children() and not left_over()
  assert memory() <= before


TRAIN = """
import pathlib, sys, time
import numpy as np
from cnnjax import config, data, errors, train
from grain._src.python.ipc import shared_memory_array

if __name__ == "__main__":
  # Shared memory is freed by a thread, here by a slow one, as on a machine with much to do.
  freed = shared_memory_array._del_shm
  shared_memory_array._del_shm = lambda *args, **kwargs: (time.sleep(0.1), freed(*args, **kwargs))
  settings = config.from_json(pathlib.Path(sys.argv[1]).read_text())
  images = np.random.default_rng(0).integers(0, 256, (101, 12, 12, 1), dtype=np.uint8)
  splits = data.from_arrays((images, np.arange(101) % 5), (images[:37], np.arange(37) % 5))
  stopped = lambda: train.train(settings, pathlib.Path(sys.argv[2]), splits)[2]
  sys.exit(errors.run(lambda: 128 + int(stopped() or -128)))
"""


def start_arrays(config, tmp_path):
  """A run on arrays as a process of its own, in tmp_path/run."""
  script, wanted = tmp_path / "run.py", tmp_path / "wanted.json"
  script.write_text(TRAIN)
  wanted.write_text(to_json(config))
  return subprocess.Popen(
    [sys.executable, script, wanted, tmp_path / "run"],
    env={**compiling.environment(), "PYTHONUNBUFFERED": "1"},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )


def wait_for_lines(process, workdir, n):
  """Returns when metrics.jsonl has n lines, or the process has ended."""
  for _ in range(600):
    if len(writers.read_metrics(workdir)) >= n or process.poll() is not None:
      break
    time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["to the end", "SIGINT", "SIGTERM", "SIGUSR1", "SIGKILL"])
def test_processes_end_with_the_training(tiny, tmp_path, how):
  """Signals go to all of them, as from a terminal; SIGKILL to the one that trains alone."""
  config = tiny(**streamed(**{"data.workers": 2, "epochs": 2 if how == "to the end" else 10**5}))
  process = start_arrays(config, tmp_path)
  if how != "to the end":
    wait_for_lines(process, tmp_path / "run", 3)
    (os.kill if how == "SIGKILL" else os.killpg)(process.pid, getattr(signal, how))
  output, _ = process.communicate(timeout=60)  # which ends when the last of them has ended
  if how == "SIGKILL":
    assert process.returncode == -9
    return
  assert process.returncode == (0 if how == "to the end" else 128 + getattr(signal, how)), output
  assert not any(word in output for word in ("leaked", "Traceback", "Error")), output
  assert ("stopped by" if how != "to the end" else "trained 12 steps") in output


@pytest.mark.slow
def test_a_worker_that_dies_is_named_and_the_run_goes_on(tiny, tmp_path):
  """By kill -9, as of a system without memory; nothing that was trained is lost."""
  config = tiny(**streamed(**{"data.workers": 2, "epochs": 10**4, "checkpoint_every": 10**4}))
  process = start_arrays(config, tmp_path)
  wait_for_lines(process, tmp_path / "run", 5)
  pids = [
    int(f.parent.name)
    for f in pathlib.Path("/proc").glob("[0-9]*/stat")
    if f.read_text().rsplit(")", 1)[1].split()[1] == str(process.pid)
    and b"spawn_main" in (f.parent / "cmdline").read_bytes()
  ]
  assert len(pids) == 2
  os.kill(pids[0], signal.SIGKILL)
  began = time.monotonic()
  output, _ = process.communicate(timeout=60)
  assert time.monotonic() - began < 20
  assert process.returncode == 75 and "Traceback" not in output, output
  words = r"error: a data worker process has ended by SIGKILL.*same command.*data\.workers"
  assert re.search(words, output), output
  reached = checkpoints.last_step(tmp_path / "run")
  assert reached >= writers.read_metrics(tmp_path / "run")[-1]["step"] > 0
  process = start_arrays(config, tmp_path)
  wait_for_lines(process, tmp_path / "run", len(writers.read_metrics(tmp_path / "run")) + 2)
  process.terminate()
  output, _ = process.communicate(timeout=60)
  assert process.returncode == 143 and f"going on from step {reached:,}" in output


# Waiting


class Slow(Records):
  """Each takes its time; image 30 is held while it is not `ready`."""

  def __init__(self, images, labels, seconds):
    super().__init__(images, labels)
    self.seconds, self.ready = seconds, threading.Event()
    self.ready.set()

  def __getitem__(self, i):
    time.sleep(self.seconds)
    assert i != 30 or self.ready.wait(60)
    return super().__getitem__(i)

  def name(self, i):
    return f"photo {i}"


def slow(seconds):
  labels = np.arange(SIZE, dtype=np.int32) % 5
  return data.Split(Slow(photos(SIZE), labels, seconds), tuple("abcde"), (None, None, 3))


@pytest.mark.parametrize("name", ["train", "test"])
def test_who_waits_for_what_is_said_and_nothing_is_hurt(name, monkeypatch):
  """Image 30 is there once it was said twice that it is waited for."""
  expected = batches(stream(slow(0), image_size=6), range(6))
  split, said = slow(0), []
  pipeline = stream(split, image_size=6, total=6)
  first = next(i for i in range(6) if 30 in pipeline.order.at(i))
  who = f"step {1 + first}" if name == "train" else "an evaluation at batch 4"

  def warn(text):
    said.append(re.match(
      rf"{who} has waited \d+ s for its batch: photo 30 is being read for \d+ s\. "
      r".*data\.threads=2 or data\.workers=0; Ctrl-C twice", text,
    ))  # fmt: skip
    if sum(map(bool, said)) == 2:
      split.records.ready.set()

  monkeypatch.setattr(errors, "warn", warn)
  monkeypatch.setattr(stall, "AFTER", 0.4)
  split.records.ready.clear()
  if name == "train":
    same(batches(pipeline, range(6)), expected)
  else:
    assert sum(int(mask.sum()) for _, mask in pipeline.once(8)) == SIZE
  assert sum(map(bool, said)) >= 2
  assert not [t for t in threading.enumerate() if t.name == "stall-watch"]


@pytest.mark.parametrize("seconds, step, least, most", [(0, 0.1, 0.0, 0.3), (0.02, 0, 0.7, 1.0)])
def test_the_share_of_time_that_waits(seconds, step, least, most):
  split = slow(0)
  pipeline = stream(split, image_size=6, threads=1, total=100)
  assert pipeline.waits() == {}
  split.records.seconds = seconds
  pipeline.feed(0)
  assert pipeline.waits() == {}, "the first one has to be waited for"
  for part in (range(1, 8), range(8, 16)):
    for i in part:
      pipeline.feed(i)
      time.sleep(step)
    assert least <= pipeline.waits()["data_wait"] <= most
    time.sleep(0.5)  # an evaluation does not count
  pipeline.close()


def folder_of_photos(root):
  for i, image in enumerate(photos(40)):
    file = root / f"{'ab'[i % 2]}" / f"{i}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(png(image))


@pytest.mark.slow
def test_a_folder_that_is_gone_in_mid_run_is_named_and_what_is_trained_is_kept(
  tiny, tmp_path, monkeypatch
):
  folder_of_photos(tmp_path / "disk" / "photos")
  config = tiny(**streamed(**{
    "data.source": "folder", "data.path": str(tmp_path / "disk" / "photos"), "data.channels": 3,
    "batch_size": 8, "epochs": 5, "data.max_unreadable": 100, "data.test": 8,
  }))  # fmt: skip
  feed = data.Streaming.feed

  def unmounted(self, step):
    if step == 6:
      (tmp_path / "disk").rename(tmp_path / "away")
    return feed(self, step)

  with monkeypatch.context() as patch:
    patch.setattr(data.Streaming, "feed", unmounted)
    with pytest.raises(TransientError, match=rf"^cannot read .*\.png, as {tmp_path}/disk is gone"):
      train.train(config, tmp_path / "run")
  assert checkpoints.last_step(tmp_path / "run") >= 6
  (tmp_path / "away").rename(tmp_path / "disk")
  _, metrics, _ = train.train(config, tmp_path / "run")
  assert metrics["step"] == 20
  assert "data_wait" in metrics


def test_a_file_that_is_gone_is_one_to_skip_and_all_of_them_are_not(tmp_path):
  root = tmp_path / "disk" / "photos"
  folder_of_photos(root)
  names = tuple(f"{root}/{name}" for name in ("c/1.png", "b/1.png"))
  files = folder.Files(names, np.array([0, 1]))
  found = [files[i]["image"] for i in (0, 1)]
  assert isinstance(found[0], UnreadableImage) and isinstance(found[1], bytes)
  split = data.Split(files, ("a", "b"), (None, None, 3))
  (tmp_path / "disk").rename(tmp_path / "away")
  with pytest.raises(TransientError, match=f"^cannot read .*1.png, as {tmp_path}/disk is gone"):
    list(stream(split, image_size=6, total=1, batch_size=2).once(2))


PROCESS = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
rank, port, out = int(sys.argv[2]), sys.argv[3], sys.argv[4]
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
import numpy as np
from fakes import split_of_files
from cnnjax import data
from cnnjax.runtime import sharding
from cnnjax.config import default, override

found = {}
for kind, more in (("resident", {}), ("parts", {"shard_resident": True}), ("streaming", {})):
  config = default()
  keys = {"image_size": 6, "pipeline": "streaming" if kind == "streaming" else "resident", **more}
  for key, value in keys.items():
    override(config, f"data.{key}", value)
  c, mesh, skipped = config.data, sharding.make_mesh(-1), data.Skipped(10)
  given = {"train": split_of_files(53), "test": split_of_files(53, (5,))}
  splits = data.load(c, ("train", "test"), skipped, given)
  order = data.Order.of(splits["train"], c, 8, 3).for_run(20)
  pipeline = data.pipeline(splits["train"], c, mesh, skipped, order)
  take = jax.jit(pipeline.take)
  rows = lambda x: np.concatenate(
    [s.data for s in sorted(x.addressable_shards, key=lambda s: s.index[0].start or 0)]
  )
  for step in (0, 1, 2, 9, 4):
    for key, value in take(pipeline.feed(step), step).items():
      found[f"{kind} {key} {step}"] = rows(value)
  pipeline.close()
  once = data.pipeline(splits["test"], c, mesh, skipped).once(16)
  count = jax.jit(lambda label, mask: ((label * mask).sum(), mask.sum()))
  found[f"{kind} counts"] = np.sum([count(b["label"], m) for b, m in once], axis=0)
np.savez(out, **found)
"""


@pytest.mark.slow
def test_two_processes_read_one_batch(files, tmp_path):
  """For real, over gloo: what each holds is its half of the batch of one process."""
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  script = tmp_path / "process.py"
  script.write_text(PROCESS)
  outs = [tmp_path / f"{rank}.npz" for rank in (0, 1)]
  env = compiling.environment(2)
  here = str(pathlib.Path(__file__).parent)
  processes = [
    subprocess.Popen(
      [sys.executable, script, here, str(rank), str(port), out],
      env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    for rank, out in enumerate(outs)
  ]  # fmt: skip
  outputs = [process.communicate(timeout=300)[0] for process in processes]
  assert all(process.returncode == 0 for process in processes), outputs
  first, second = map(np.load, outs)
  steps = (0, 1, 2, 9, 4)
  expected = batches(stream(files, image_size=6), steps)
  kept = np.setdiff1d(np.arange(SIZE), 5)
  for kind in ("resident", "parts", "streaming"):
    for step, batch in zip(steps, expected, strict=True):
      for key, value in batch.items():
        name = f"{kind} {key} {step}"
        assert len(first[name]) == len(second[name]) == BATCH // 2
        np.testing.assert_array_equal(np.concatenate([first[name], second[name]]), value, name)
    np.testing.assert_array_equal(first[f"{kind} counts"], [(kept % 5).sum(), len(kept)], kind)
    np.testing.assert_array_equal(first[f"{kind} counts"], second[f"{kind} counts"])


# In training


def streamed(**overrides):
  return {
    "data.source": "arrays", "data.pipeline": "streaming", "data.image_size": 8,
    "data.crop": "random_resized", "data.threads": 2, **overrides,
  }  # fmt: skip


@pytest.fixture(scope="module")
def given():
  images = np.random.default_rng(0).integers(0, 256, (101, 12, 12, 1), dtype=np.uint8)
  labels = np.arange(101) % 5
  return data.from_arrays((images, labels), (images[:37], labels[:37]))


@pytest.mark.smoke
def test_stopped_in_mid_epoch_and_resumed_is_bit_identical(tiny, tmp_path, given, monkeypatch):
  config = tiny(**streamed(**{"augment": "pad_crop(1) | mixup(0.2)", "model.dropout": 0.3}))
  whole, _, _ = train.train(config, tmp_path / "whole", given)
  feed = data.Streaming.feed

  def interrupted(self, step):
    if step == 9:  # of 18; an epoch has 6
      os.kill(os.getpid(), signal.SIGTERM)
    return feed(self, step)

  with monkeypatch.context() as patch:
    patch.setattr(data.Streaming, "feed", interrupted)
    stopped, _, by = train.train(config, tmp_path / "run", given)
  assert by == signal.SIGTERM and int(stopped.step) == 10 == checkpoints.last_step(tmp_path / "run")
  resumed, _, _ = train.train(config, tmp_path / "run", given)
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
    np.testing.assert_array_equal(a, b)
  lines = [
    [{k: v for k, v in line.items() if k not in CLOCKS} for line in found]
    for found in (writers.read_metrics(tmp_path / name) for name in ("whole", "run"))
  ]
  assert lines[0] == lines[1]
  assert not left_over()


def test_a_training_that_fails_ends_its_threads(tiny, tmp_path, given, monkeypatch):
  def interrupted(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(train, "evaluate", interrupted)
  with pytest.raises(KeyboardInterrupt):
    train.train(tiny(**streamed()), tmp_path, given)
  assert not left_over()
