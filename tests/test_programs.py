"""What a config comes to, where no run has to be trained to see it."""

import jax
import jax.numpy as jnp
import pytest

from cnnjax import members, programs, state
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


def test_a_run_goes_on_with_what_was_saved_beside_its_state(tiny):
  """Of the step that was restored, where the last one could not be read."""
  program = programs.build(tiny())

  class Saved:
    any = staticmethod(lambda: True)
    step = staticmethod(lambda: 12)
    meta = staticmethod(lambda step: {"classes": program.inputs.classes, "of": step})
    restore = staticmethod(lambda abstract: abstract.replace(step=jnp.int32(6)))

  now, meta = program.begin(Saved())
  assert now.steps_done == meta["of"] == 6


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
