"""What a config comes to, where no run has to be trained to see it."""

import jax
import jax.numpy as jnp

from cnnjax import programs, state


def test_the_seed_of_a_run_is_that_of_its_gradient_noise(tiny):
  drawn = []
  for seed in (0, 1):
    program = programs.build(tiny(**{"seed": seed, "optim.noise": 0.1}))
    shapes = state.abstract_variables(program.model, program.inputs.image_shape, program.mesh)
    params = jax.tree.map(lambda x: jnp.ones(x.shape), shapes["params"])
    update, memory = jax.jit(program.optimizer.update), program.optimizer.init(params)
    drawn.append(update(params, memory, params, step=3)[0]["head"]["kernel"])
  assert (drawn[0] != drawn[1]).all()
