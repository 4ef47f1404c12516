"""The suite runs on CPU, as eight simulated devices; a config's mesh.data says how many it uses."""

import contextlib
import gc
import os
import signal
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import compiling
import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from cnnjax import registry
from cnnjax.config import default, override
from cnnjax.writers import Writers


def pytest_collection_finish():
  """Spares the garbage collector what stays: it took a tenth of the time of tracing."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(100_000, 20, 50)


@pytest.hookimpl(tryfirst=True)  # before the fixtures of a module, which compile as well
def pytest_runtest_setup(item):
  """Has XLA do less, but for what is marked `optimised`; also in processes that tests start."""
  compiling.quickly = item.get_closest_marker("optimised") is None
  os.environ["XLA_FLAGS"] = compiling.environment(compiling.DEVICES)["XLA_FLAGS"]


@contextlib.contextmanager
def forgetting():
  """What is registered inside is forgotten after it, and its modules can be imported anew."""
  registry.keys()
  with pytest.MonkeyPatch.context() as patch:  # of its own: a test may undo its changes
    for table in ("_KEYS", "_KIND_OF", "_OWNERS", "_STARTS", "_PARTS"):
      patch.setattr(registry, table, dict(getattr(registry, table)))
    before = {*registry._PARTS}
    yield
    for key in registry._PARTS.keys() - before:
      module = registry._PARTS[key].module
      if not module.startswith(("cnnjax.", "test_")):
        sys.modules.pop(module, None)


@pytest.fixture
def own_registry():
  with forgetting():
    yield


@pytest.fixture(scope="module")
def registry_of_file():
  with forgetting():
    yield


@pytest.fixture(scope="session")
def compiled_here(tmp_path_factory):
  """Where this process of the suite keeps what it compiled, and those that its tests start."""
  folder = str(tmp_path_factory.mktemp("xla"))
  os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
  return folder


@pytest.fixture(autouse=True)
def compiled(compiled_here):
  """What one test compiled, the next one reads: a third of the time of those that train."""
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  if jax.config.jax_compilation_cache_dir != compiled_here:
    jax.config.update("jax_compilation_cache_dir", compiled_here)
    compilation_cache.reset_cache()  # JAX opens a folder once


@pytest.fixture(autouse=True)
def torch_is_ready(request):
  """Lets a test of parity import torchvision and timm, whichever tests its process ran before."""
  if request.node.get_closest_marker("parity"):
    import parity

    parity.torch()


@pytest.fixture(scope="session")
def tiny():
  """A function from overrides to a config that trains in seconds: a small CNN on small images."""

  def make(**overrides):
    config = default()
    settings = {
      "model": {
        "name": "simple_cnn",
        "conv_features": (4,),
        "dense_features": (8,),
        "batch_norm": True,
      },
      "data.source": "synthetic",
      "data.synthetic.train_examples": 101,
      "data.synthetic.test_examples": 37,
      "data.synthetic.image_size": 8,
      "data.synthetic.channels": 1,
      "batch_size": 16,
      "epochs": 3,
      "mesh.data": 1,
      "log_every": "4 steps",
      "augment": "pad_crop(1) | flip",
      "optim.weight_decay": 1e-4,
      "optim.schedule.warmup": "2 steps",
    }
    config.model = settings.pop("model")
    for key, value in {**settings, **overrides}.items():
      override(config, key, value)
    return config

  return make


@pytest.fixture
def stop_at():
  """A function: `with stop_at(step):` a run that is inside gets SIGTERM after that step."""

  @contextlib.contextmanager
  def stop(last):
    progress = Writers.progress

    def interrupted(self, step, *args):
      progress(self, step, *args)
      if step == last:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(Writers, "progress", interrupted)
      yield

  return stop


@pytest.fixture(scope="module", autouse=True)
def forget():
  """Programs of one file are of no use to the next."""
  yield
  jax.clear_caches()
