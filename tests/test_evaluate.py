"""Every example counts once: for any batch size and any number of devices."""

import jax
import numpy as np
import pytest

from cnnjax import data, evaluate, models, sharding, state, steps, tasks, train
from cnnjax.config import default
from cnnjax.errors import UserError


@pytest.fixture(scope="module")
def pieces():
  """A model with random statistics, and a split of 101 examples, a prime."""
  config = default()
  config.data.source = "synthetic"
  config.data.synthetic.test_examples, config.data.synthetic.image_size = 101, 8
  split = data.load(config.data, ("test",))["test"]
  model = models.create("resnet20", 10)
  mesh = sharding.make_mesh(1)
  shape = state.abstract_variables(model, split.images.shape[1:], mesh)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda x: np.abs(rng.normal(0.1, 0.1, x.shape)).astype(np.float32), shape
  )
  task = tasks.create(config.task, 10)
  return split, variables, steps.eval_step(model, task, steps.normalizer((0.5,) * 3, (0.2,) * 3))


def test_same_for_every_batch_size_and_device_count(pieces):
  split, variables, step = pieces
  results = {}
  for devices in (1, 8):
    mesh = sharding.make_mesh(devices)
    pipeline = data.Resident(split, mesh, max_gib=1.0)
    placed = sharding.put(variables, sharding.replicated(mesh))
    for batch_size in (7, 64, 1000):
      results[devices, batch_size] = evaluate.evaluate(jax.jit(step), placed, pipeline, batch_size)
  # The reference knows no batches: one example at a time, added up in float64.
  single = jax.jit(step)
  losses, correct = [], []
  for image, label in zip(split.images, split.labels, strict=True):
    one = single(variables, {"image": image[None], "label": label[None]}, np.ones(1, bool))
    losses.append(float(one.loss.total))
    correct.append(float(one.accuracy.total))
  for key, result in results.items():
    assert result["accuracy"] == float(f"{np.float32(sum(correct) / 101):.7g}"), key
    assert result["loss"] == pytest.approx(np.mean(losses, dtype=np.float64), rel=1e-5), key


@pytest.mark.smoke
def test_checkpoint_gives_what_training_reported(tiny, tmp_path):
  config = tiny(**{"data.validation": 0.2, "epochs": 4})
  _, metrics, _ = train.train(config, tmp_path)
  for batch_size in (7, 1000):
    step, examples, found = evaluate.evaluate_checkpoint(
      tmp_path, "test", eval_batch_size=batch_size
    )
    assert (step, examples) == (20, 37)
    assert found["accuracy"] == metrics["test/accuracy"]
    assert found["loss"] == pytest.approx(metrics["test/loss"], rel=1e-5)
  step, examples, found = evaluate.evaluate_checkpoint(tmp_path, "validation", "best")
  assert examples == 21 and found["accuracy"] >= metrics["validation/accuracy"]
  assert evaluate.evaluate_checkpoint(tmp_path, "train")[1] == 80


def test_wrong_input_is_named(tiny, tmp_path):
  with pytest.raises(UserError, match="holds no run"):
    evaluate.evaluate_checkpoint(tmp_path / "nowhere")
  train.train(tiny(epochs=1), tmp_path)
  with pytest.raises(UserError, match="Did you mean 'test'"):
    evaluate.evaluate_checkpoint(tmp_path, "tets")
  with pytest.raises(UserError, match="no validation split"):
    evaluate.evaluate_checkpoint(tmp_path, "validation")
  with pytest.raises(UserError, match=r"holds no best checkpoint.*data.validation"):
    evaluate.evaluate_checkpoint(tmp_path, checkpoint="best")


def test_command_prints_the_result(tiny, tmp_path, capsys):
  _, metrics, _ = train.train(tiny(epochs=1), tmp_path)
  capsys.readouterr()
  assert evaluate.main([f"--workdir={tmp_path}", "--batch_size=10"]) == 0
  assert f"accuracy {metrics['test/accuracy']:.2%} of 37 examples" in capsys.readouterr().out
