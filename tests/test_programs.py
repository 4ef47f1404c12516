"""What a config comes to, where no run has to be trained to see it."""

import contextlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import members, programs, state, trained
from cnnjax.checkpoints import integrity
from cnnjax.errors import UserError


def test_the_seed_of_a_run_is_that_of_its_gradient_noise(tiny):
  drawn = []
  for seed in (0, 1):
    program = programs.build(tiny(**{"seed": seed, "optim.noise": 0.1}))
    shapes = state.abstract_variables(program.model, program.inputs.image_shape, program.mesh)
    params = jax.tree.map(lambda x: jnp.ones(x.shape), shapes["params"])
    update, memory = jax.jit(program.optimizer.update), program.optimizer.init(params)
    drawn.append(update(params, memory, params, step=3)[0]["head"]["kernel"])
  assert (drawn[0] != drawn[1]).all()


def test_a_run_goes_on_with_what_was_saved_beside_its_state(tiny, tmp_path):
  """Of the step that was restored, where the last one could not be read."""
  program = programs.build(tiny())
  with contextlib.closing(program.open_checkpoints(tmp_path)) as saved:
    for step in (6, 12):
      now = program.new_state().replace(step=jnp.int32(step))
      saved.save(now, {**program.inputs.meta, "of": step}, {})
  damaged = tmp_path / "checkpoints" / "12"
  shutil.rmtree(damaged / "training" / "d")
  (damaged / integrity.MANIFEST).unlink()
  with contextlib.closing(program.open_checkpoints(tmp_path)) as saved:
    now, meta = program.begin(saved)
  assert now.steps_done == meta["of"] == 6


def test_a_teacher_is_asked_what_it_makes_of_the_images(tiny):
  teach = lambda variables, images: variables + images.mean((1, 2, 3))[:, None]
  teacher = trained.Teacher(teach, jnp.arange(10.0), "a mean")
  program = programs.build(tiny(augment=None), teacher=teacher)
  images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
  batch = {"image": jnp.asarray(images), "label": jnp.arange(4)}
  taught = program.prepare(0, 0, batch, program.constants).taught
  expected = np.arange(10) + (images / 255).mean((1, 2, 3))[:, None]
  np.testing.assert_allclose(taught, expected, rtol=1e-6)


@pytest.mark.parametrize(
  "key, value",
  [
    ("optim.noise", 0.1), ("mesh.fsdp", 2), ("health.every", 1), ("health.trace", True),
    ("data.pipeline", "streaming"), ("early_stopping.patience", 2), ("optim.plateau.patience", 2),
  ],
)  # fmt: skip
def test_what_several_runs_cannot_have_is_refused(tiny, key, value):
  members.check(tiny(seeds=2))
  with pytest.raises(UserError, match=f"^{key}.* does not go with several runs in one program"):
    members.check(tiny(**{"seeds": 2, key: value}))
