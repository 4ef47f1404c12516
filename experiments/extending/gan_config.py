"""gan.py on the embedded digits: Adam for both networks, after arXiv:1511.06434, section 4."""

from cnnjax.config import default, pick


def digits(c):
  pass


def get_config(preset: str = "digits"):
  config = default()
  config.imports = ("experiments.extending.gan",)
  config.model.name = "dcgan_critic"
  config.step.name = "gan"
  config.task.name = "gan"
  config.monitor = "validation/loss"
  config.batch_size = 64
  config.epochs = 120
  config.eval_every = 20
  config.optim.name = "adam"
  config.optim.learning_rate = 5e-4
  config.optim.b1 = 0.5
  config.optim.weight_decay = 0.0
  config.optim.schedule.name = "constant"
  # The generator moves in every step, the critic in every second.
  config.optimizers = (("critic", {"params": "^critic/", "every": 2, "learning_rate": 1e-3}),)
  return pick(preset, {"digits": digits}, config)
