"""Files of weights, read without the library that wrote them, and what is no such file."""

import json
import os
import pickle
import zipfile

import h5py
import numpy as np
import parity
import pytest
from safetensors import numpy as safe

from cnnjax.errors import UserError
from cnnjax.transfer import files

RNG = np.random.default_rng(0)
WEIGHTS = {"conv.weight": RNG.normal(size=(4, 3, 3, 3)), "fc.bias": RNG.normal(size=5)}
WEIGHTS = {name: value.astype(np.float32) for name, value in WEIGHTS.items()}


def same(found, expected=WEIGHTS):
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(np.asarray(found[name], np.float32), value)


def test_safetensors(tmp_path):
  safe.save_file(WEIGHTS, tmp_path / "x.bin", {"format": "pt"})  # the ending says nothing
  found = files.read(tmp_path / "x.bin")
  same(found.weights)
  assert (found.kind, found.metadata) == ("safetensors", {"format": "pt"})


def test_npz(tmp_path):
  np.savez(tmp_path / "x.npz", **WEIGHTS)
  same(files.read(tmp_path / "x.npz").weights)


def keras_2(path):
  """The layout of Keras 1 and 2: a group for each layer, with names as attributes."""
  with h5py.File(path, "w") as file:
    file.attrs["layer_names"] = [b"conv1", b"empty"]
    file.create_group("empty").attrs["weight_names"] = []
    layer = file.create_group("conv1")
    layer.attrs["weight_names"] = [b"conv1_W_1:0", b"conv1/bias:0"]
    layer["conv1_W_1:0"] = WEIGHTS["conv.weight"]
    layer["conv1/bias:0"] = WEIGHTS["fc.bias"]


def test_keras_2(tmp_path):
  keras_2(tmp_path / "x.h5")
  expected = {"conv1/kernel": WEIGHTS["conv.weight"], "conv1/bias": WEIGHTS["fc.bias"]}
  same(files.read(tmp_path / "x.h5").weights, expected)


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_that_is_cut_is_damaged(tmp_path, whole):
  for name, write in {
    "a.safetensors": lambda path: safe.save_file(WEIGHTS, path),
    "a.npz": lambda path: np.savez(path, **WEIGHTS),
    "a.h5": keras_2,
  }.items():
    path = tmp_path / name
    write(path)
    if whole:
      files.read(path)
      continue
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"{name} is damaged"):
      files.read(path)


@pytest.mark.parametrize(
  "content, words",
  [
    (b"", "is no file of weights"),
    (b"hello, I am a text that is longer", "is no file of weights"),
    (b"version https://git-lfs.github.com/spec/v1", "was downloaded instead of the weights"),
    (b"<!DOCTYPE html><html>", "was downloaded instead of the weights"),
  ],
)
def test_what_is_no_weights(tmp_path, content, words):
  (tmp_path / "x.pth").write_bytes(content)
  with pytest.raises(UserError, match=words):
    files.read(tmp_path / "x.pth")
  with pytest.raises(UserError, match=r"cannot read .*nowhere: No such file"):
    files.read(tmp_path / "nowhere")


class Evil:
  """Its pickle makes a folder where it is loaded."""

  def __init__(self, folder):
    self.folder = str(folder)

  def __reduce__(self):
    return os.mkdir, (self.folder,)


def zipped(path, content):
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
    archive.writestr("archive/version", "3")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, legacy):
  path, folder = tmp_path / "x.pth", tmp_path / "made"
  if legacy:
    path.write_bytes(pickle.dumps(Evil(folder), protocol=2))
  else:
    zipped(path, {"state_dict": Evil(folder)})
  with pytest.raises(UserError, match=r"names posix\.mkdir, and no code of a file is run"):
    files.read(path)
  assert not folder.exists()


def test_a_file_without_weights_says_what_it_holds(tmp_path):
  zipped(tmp_path / "x.pth", {"epoch": 3, "best": 0.5})
  with pytest.raises(UserError, match="holds a dict of best, epoch, and no weights by name"):
    files.read(tmp_path / "x.pth")


@pytest.mark.parity
@pytest.mark.parametrize("zip_layout", [True, False])
def test_files_of_torch(tmp_path, zip_layout):
  """Both layouts; wrapped, with a prefix, averages first, in half precision, views and settings."""
  import argparse

  torch = parity.torch()
  tensors = {name: torch.tensor(value) for name, value in WEIGHTS.items()}
  path = tmp_path / "x.pth"

  def written(held):
    torch.save(held, path, _use_new_zipfile_serialization=zip_layout)
    return files.read(path)

  same(written(tensors).weights)
  parameters = {f"module.{name}": torch.nn.Parameter(value) for name, value in tensors.items()}
  found = written({"state_dict": parameters, "epoch": 3, "args": argparse.Namespace(lr=0.1)})
  same(found.weights)
  assert found.notes == ("its weights are in 'state_dict'", "every name began with 'module.'")
  other = {name: value + 1 for name, value in tensors.items()}
  found = written({"model": other, "model_ema": tensors})
  same(found.weights)
  assert found.notes == ("its weights are in 'model_ema', beside model",)
  turned = {name: value.transpose(0, -1) for name, value in tensors.items()}  # views
  same(written(turned).weights, {name: np.swapaxes(v, 0, -1) for name, v in WEIGHTS.items()})
  halves = {name: value.to(torch.bfloat16) for name, value in tensors.items()}
  same(written(halves).weights, {name: v.float().numpy() for name, v in halves.items()})


@pytest.mark.parity
def test_a_file_of_torch_that_is_cut_is_damaged(tmp_path):
  torch = parity.torch()
  torch.save({name: torch.tensor(value) for name, value in WEIGHTS.items()}, tmp_path / "x.pth")
  content = (tmp_path / "x.pth").read_bytes()
  for size in range(20, len(content), len(content) // 15):
    (tmp_path / "cut.pth").write_bytes(content[:size])
    with pytest.raises(UserError, match=r"cut\.pth is damaged"):
      files.read(tmp_path / "cut.pth")


@pytest.mark.parity
@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_files_of_keras_3(tmp_path, ending):
  import keras

  layers = keras.layers
  model = keras.Sequential(
    [
      layers.Input((8, 8, 3)), layers.Conv2D(4, 3, name="first"),
      layers.BatchNormalization(name="norm"), layers.DepthwiseConv2D(3, name="deep"),
      layers.Flatten(), layers.Dense(2, name="last"),
    ]
  )  # fmt: skip
  (model.save_weights if ending == ".weights.h5" else model.save)(tmp_path / f"x{ending}")
  expected = {"/".join(w.path.split("/")[-2:]): np.asarray(w.value) for w in model.weights}
  found = files.read(tmp_path / f"x{ending}").weights
  found = {name.replace("deep/kernel", "deep/depthwise_kernel"): v for name, v in found.items()}
  expected = {n.replace("deep/kernel", "deep/depthwise_kernel"): v for n, v in expected.items()}
  same(found, expected)


def test_a_json_beside_it_is_no_weights(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet50"}))
  with pytest.raises(UserError, match="is no file of weights"):
    files.read(tmp_path / "config.json")
