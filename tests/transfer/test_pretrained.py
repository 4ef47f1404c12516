"""A trained network as the beginning of a run: what is taken, adapted, new, and what is refused."""

import dataclasses
import importlib
import json
import pathlib

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

import cnnjax
from cnnjax import build, models, predict, train, trained, transfer
from cnnjax.config import default
from cnnjax.errors import UserError
from cnnjax.tools import probe
from cnnjax.transfer import mapping, preprocessing, recognise

SIZE = 32
RECORD = {"mean": (0.4, 0.5, 0.6), "crop": 0.9, "labels": tuple("abcde")}


def network(name="simple_cnn", classes=5, channels=3, labels=(), **record):
  """A network with random weights, as a file gives it."""
  model = models.create(name, classes)
  images = np.zeros((1, SIZE, SIZE, channels), np.float32)
  variables = jax.device_get(model.init(jax.random.key(7), images, train=False))
  record = preprocessing.Preprocessing(image_size=SIZE, classes=labels, **record)
  return transfer.Pretrained(name, {}, classes, variables, record, "weights of a test")


def adapted(pretrained, classes=5, channels=3, head="auto", names=None):
  model = models.create(pretrained.name, classes)
  shape = (SIZE, SIZE, channels)
  shapes = mapping.shapes_of(model, pretrained.name, shape)
  names = names or [f"c{i}" for i in range(classes)]
  return transfer.adapt(pretrained, shapes, shape, model, names, head)


def flat(tree):
  return flatten_dict(tree, sep="/")


def test_all_but_the_head_is_taken_as_it_is():
  one = network()
  start = adapted(one, classes=3)
  before, now = flat(one.variables), flat(start.variables)
  head = {"params/head/kernel", "params/head/bias"}
  for path in before.keys() - head:
    np.testing.assert_array_equal(now[path], before[path])
  assert all(not now[path].any() for path in head)
  assert now["params/head/bias"].shape == (3,)
  assert "new: the head for 3 classes, which begins at 0" in start.summary["loaded"]
  assert "unused: params/head/bias, params/head/kernel" in start.summary["loaded"]


def test_the_head_is_kept_for_the_same_classes_alone():
  names = ("a", "b", "c", "d", "e")
  one = network(labels=names)
  kernel = lambda **given: flat(adapted(one, **given).variables)["params/head/kernel"]
  assert kernel(names=names).any() and kernel(names=names, head="keep").any()
  assert not kernel(names=names, head="new").any()
  assert not kernel(names=("b", "a", "c", "d", "e")).any()
  assert not flat(adapted(network(), names=names).variables)["params/head/kernel"].any()
  with pytest.raises(UserError, match=r"init\.head=keep: .* \('a' there is 'b' here\)"):
    adapted(one, names=("b", "a", "c", "d", "e"), head="keep")
  with pytest.raises(
    UserError, match=r"init\.head=keep: the weights have 5 classes, and the data\s+3"
  ):
    adapted(one, classes=3, head="keep")


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels(channels):
  """A grey image gives what its copies gave; equal channels give what equal colours gave."""
  one = network()
  path = transfer.pretrained.first_kernel(one.model, (SIZE, SIZE, 3))
  before = flatten_dict(one.variables["params"])[path]
  after = flatten_dict(adapted(one, channels=channels).variables["params"])[path]
  assert after.shape == (*before.shape[:2], channels, before.shape[3])
  np.testing.assert_allclose(after.sum(2), before.sum(2), rtol=1e-5, atol=1e-6)


def test_another_network_is_refused():
  with pytest.raises(UserError, match=r"the weights of a test do not fit the model: .* differ"):
    one = network()
    wrong = dataclasses.replace(one, variables=network("resnet20").variables)
    adapted(wrong)


def folder_of_photos(root, rng, classes=("x", "y")):
  from PIL import Image

  for name in classes:
    (root / name).mkdir(parents=True)
    for i in range(10):
      Image.fromarray(rng.integers(0, 255, (40, 36, 3)).astype(np.uint8)).save(
        root / name / f"{i}.png"
      )
  return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  return folder_of_photos(tmp_path_factory.mktemp("photos"), np.random.default_rng(0))


def config_of(photos, weights, **settings):
  from cnnjax.config import override

  config = default()
  values = {
    "model.name": "auto", "data.source": "folder", "data.path": str(photos), "batch_size": 8,
    "epochs": "3 steps", "init.from": str(weights), "optim.schedule.warmup": 0,
    "eval_every": "3 steps", "checkpoint_every": "1 steps",
  } | settings  # fmt: skip
  for key, value in values.items():
    override(config, key, value)
  return config


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  path = tmp_path_factory.mktemp("weights") / "x.safetensors"
  transfer.save(network(**RECORD), path)
  return path


def test_what_is_saved_is_read_to_the_bit(file):
  one, read = network(**RECORD), transfer.open_file(file)
  assert (read.name, read.num_classes, read.preprocessing) == (one.name, 5, one.preprocessing)
  jax.tree.map(np.testing.assert_array_equal, read.variables, one.variables)
  with pytest.raises(UserError, match="exists already"):
    transfer.save(one, file)


def test_a_run_begins_with_a_file_and_takes_its_preprocessing(file, photos):
  config, found = trained.with_init(config_of(photos, file))
  assert config.model.name == "simple_cnn"
  assert tuple(config.data["mean"]) == (0.4, 0.5, 0.6)
  assert (config.data.image_size, config.data.eval_crop) == (SIZE, 0.9)
  build.validate(config)
  program = build.build(config, pretrained=found)
  now = program.new_state()
  expected = flat(found.variables)
  for path, value in flat(jax.device_get(now.variables)).items():
    if not path.startswith("params/head"):
      np.testing.assert_array_equal(value, expected[path])
    else:
      assert not value.any()
  assert program.summary["images"].startswith("as the weights take them: 32 pixels, crop 0.9")
  program.inputs.train.close()


def test_keys_of_the_data_go_before_the_record(file, photos):
  config, _ = trained.with_init(config_of(photos, file, **{"data.image_size": 48}))
  assert (config.data.image_size, config.data.eval_crop) == (48, 0.9)
  plain, _ = trained.with_init(config_of(photos, file, **{"init.preprocessing": "data"}))
  assert (plain.data.image_size, plain.data["mean"], plain.data.eval_crop) == (None, None, 1.0)


def test_a_run_resumes_without_the_file(file, photos, tmp_path):
  """What the file decided stands in the config of the run."""
  gone = tmp_path / "gone.safetensors"
  gone.write_bytes(file.read_bytes())
  same = lambda one, other: jax.tree.map(
    np.testing.assert_array_equal, *jax.device_get((one, other))
  )
  settings = {"optim.schedule.name": "constant", "eval_every": "1 steps"}
  straight, *_ = train.train(config_of(photos, gone, **settings), tmp_path / "straight")
  config = config_of(photos, gone, **settings, epochs="2 steps")
  train.train(config, tmp_path / "run")
  gone.unlink()
  config.epochs = "3 steps"
  end, *_ = train.train(config, tmp_path / "run")
  same(end.variables, straight.variables)
  # Its workdir is a file of weights to another run, with the same preprocessing.
  other, found = trained.with_init(config_of(photos, tmp_path / "run"))
  assert (other.model.name, other.data.image_size) == ("simple_cnn", SIZE)
  assert (found.preprocessing.crop, found.preprocessing.classes) == (0.9, ("x", "y"))
  same(dict(found.variables), end.variables)


@pytest.mark.parametrize(
  "settings, words",
  [
    ({"model.name": "resnet20"}, r"model\.name=resnet20, and the weights are those of simple_cnn"),
    ({"init.from": "nowhere.pth"}, r"cannot read nowhere\.pth: No such file"),
    ({"init.from": "hf://someone/something"}, r"huggingface_hub|cannot fetch"),
    ({"init.weights": "ema"}, "is an average of a run, and .* is a file"),
    ({"init.from": None}, r"model\.name=auto is the model of a trained network: set init\.from"),
    ({"init.from": None, "model.name": "resnet20", "init.head": "new"}, r"init\.head"),
  ],
)
def test_what_cannot_begin_a_run(file, photos, settings, words):
  config = config_of(photos, file, **settings)
  with pytest.raises(UserError, match=words):
    config, _ = trained.with_init(config)
    build.validate(config)


def test_a_file_predicts_and_a_headless_one_does_not(file, photos, tmp_path, capsys):
  image = next(photos.rglob("*.png"))
  model = cnnjax.load(file)
  found = model.predict(image)
  assert found.classes == tuple("abcde") and found.probabilities.shape == (1, 5)
  pixels = model.preprocess(image)[None] / np.float32(255)
  one = transfer.open_file(file)
  normal = (pixels - np.float32(one.preprocessing.mean)) / np.float32(one.preprocessing.std)
  logits = one.model.apply(one.variables, normal, train=False)
  np.testing.assert_allclose(found.probabilities, jax.nn.softmax(logits), rtol=1e-4, atol=1e-6)
  params = {k: v for k, v in flat(dict(one.variables)).items() if "/head/" not in k}
  bare = dataclasses.replace(
    one, num_classes=0, variables=unflatten_dict(params, sep="/"),
    preprocessing=dataclasses.replace(one.preprocessing, classes=()),
  )  # fmt: skip
  transfer.save(bare, tmp_path / "bare.safetensors")
  with pytest.raises(UserError, match="has no last layer, so it predicts no classes"):
    cnnjax.load(tmp_path / "bare.safetensors")


def test_sizes_of_a_few_models_are_as_traced():
  """The table of all is written by write_sizes.py; a key that is missing costs time alone."""
  import write_sizes

  tried = [o for o in recognise.options() if o[1] in ("resnet18", "mobilenetv2_035", "vgg11")]
  assert tried
  for rules, name in tried:
    assert recognise.sizes()[recognise.size_key(rules, name)] == write_sizes.size(rules, name)


def test_every_model_with_rules_has_a_size():
  keys = {recognise.size_key(*option) for option in recognise.options()}
  assert keys == recognise.sizes().keys(), "run tests/transfer/write_sizes.py"


def test_every_record_can_be_read():
  assert len(preprocessing.imagenet_classes()) == len({*preprocessing.imagenet_classes()}) == 1000
  for source in mapping.SOURCES:
    for _, name in recognise.options(source):
      record = preprocessing.known(source, name, input_size=224)
      assert record == preprocessing.Preprocessing.from_json(
        json.loads(json.dumps(record.as_json()))
      )
  of = lambda hint: preprocessing.known("torchvision", "resnet50", hint=hint).crop
  assert (of("resnet50-0676ba61.pth"), of("resnet50-11ad3fa6.pth")) == (0.875, 0.9655)


def test_recognised_by_its_tensors():
  """Renamed back from ours to torch's names; with another head, and without one."""
  rules = mapping.rules_for("squeezenet1_1", "torchvision")
  assert rules.source == "torchvision"
  weights = {"features.0.weight": np.zeros((64, 3, 3, 3), np.float32)}
  with pytest.raises(UserError, match=r"fit no model here exactly\. The nearest are\n") as error:
    recognise.recognise(weights, source="torchvision", name="squeezenet1_1")
  assert len(str(error.value).splitlines()) < 25


def test_predict_on_the_command_line_takes_a_file(file, photos, capsys):
  assert predict.main([str(file), str(next(photos.rglob("*.png"))), "--format=csv"]) == 0
  assert capsys.readouterr().out.splitlines()[0] == "image,rank,class,probability"


def test_inspect_and_convert(file, tmp_path, capsys):
  command = importlib.import_module("cnnjax.tools.transfer").main
  out = tmp_path / "out.safetensors"
  assert command(["inspect", str(file)]) == command(["convert", str(file), str(out)]) == 0
  shown = capsys.readouterr().out
  for words in (
    "simple_cnn",
    "5 classes: a, b, c, d, e",
    "mean (0.4, 0.5, 0.6)",
    f"written: {out}",
  ):
    assert words in shown
  jax.tree.map(np.testing.assert_array_equal, *map(variables_of, (file, out)))
  with pytest.raises(UserError, match="exists already"):
    command(["convert", str(file), str(out)])


def variables_of(file):
  return transfer.open_file(file).variables


def test_the_preset_is_whole():
  config = cnnjax.config.load(str(pathlib.Path(__file__).parents[2] / "configs/transfer.py"))
  assert config.model.name == "auto"


def test_a_head_of_the_task_is_drawn_around_the_network(file, photos):
  config, found = trained.with_init(config_of(photos, file, **{"task.head": "mlp"}))
  build.validate(config)
  program = build.build(config, pretrained=found)
  now, expected = flat(jax.device_get(program.new_state().params)), flat(found.variables["params"])
  for path, value in now.items():
    if path.startswith("backbone/"):
      np.testing.assert_array_equal(value, expected[path.removeprefix("backbone/")])
  assert now["hidden1/kernel"].any() and not now["head/kernel"].any()
  assert "new, drawn by seed: params/" in program.summary["loaded"]
  program.inputs.train.close()


def test_features_are_what_the_head_gets_and_a_probe_tells_colours_apart(file, tmp_path):
  from PIL import Image

  rng = np.random.default_rng(0)
  for name, colour in {"red": (200, 30, 30), "green": (30, 200, 30)}.items():
    (tmp_path / "photos" / name).mkdir(parents=True)
    for i in range(8):
      pixels = np.clip(np.array(colour) + rng.normal(0, 20, (40, 40, 3)), 0, 255).astype(np.uint8)
      Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
  (tmp_path / "photos" / "red" / "8.png").write_bytes(b"no image")
  found = probe.features(file, str(tmp_path / "photos"), batch_size=8)
  assert found.classes == ("green", "red") and sorted(found.labels) == [0] * 8 + [1] * 8
  network, model = transfer.open_file(file), cnnjax.load(file)
  params = network.variables["params"]["head"]
  for i in (0, 11):
    assert pathlib.Path(found.names[i]).parent.name == found.classes[found.labels[i]]
    logits = found.values[i] @ params["kernel"] + params["bias"]
    expected = model.predict(tmp_path / "photos" / found.names[i]).probabilities[0]
    np.testing.assert_allclose(jax.nn.softmax(logits), expected, rtol=1e-3, atol=1e-5)
  accuracies = probe.probe(found, folds=4)
  assert accuracies.keys() == {"logistic", "knn", "lda"}
  assert all(folds.shape == (4,) and folds.mean() == 1 for folds in accuracies.values())
  with pytest.raises(UserError, match="--folds=9: each fold needs an image of each class"):
    probe.probe(found, folds=9)
  found.save(tmp_path / "x.npz")
  with np.load(tmp_path / "x.npz") as held:
    np.testing.assert_array_equal(held["features"], found.values)
  with pytest.raises(UserError, match="cannot write"):
    found.save(tmp_path / "x.npz")


def test_copies_are_never_parted(monkeypatch):
  """Each image twice: without groups, neighbours would find the copy of the other fold."""
  monkeypatch.setattr(probe, "NEIGHBOURS", 1)
  rng = np.random.default_rng(0)
  values = np.repeat(rng.normal(size=(40, 8)).astype(np.float32), 2, axis=0)
  labels = np.repeat(rng.integers(0, 2, 40), 2)
  names, classes = tuple(map(str, range(80))), ("a", "b")
  alone = probe.Features(values, labels, np.arange(80), names, classes)
  together = dataclasses.replace(alone, groups=np.repeat(np.arange(40), 2))
  one, other = (probe.probe(x, folds=4)["knn"].mean() for x in (alone, together))
  assert other < 0.7 < one
