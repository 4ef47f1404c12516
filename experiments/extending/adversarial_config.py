"""adversarial.py on the embedded digits, and the same training without it to compare with."""

from cnnjax.config import default, pick


def plain(c):
  pass


def fgsm(c):
  c.imports = ("experiments.extending.adversarial",)
  c.step.name = "fgsm"


def get_config(preset: str = "fgsm"):
  config = default()
  config.model = {"name": "simple_cnn", "conv_features": (32, 64), "dense_features": (128,)}
  config.batch_size = 64
  config.epochs = 15
  config.optim.learning_rate = 0.05
  config.optim.nesterov = True
  config.optim.schedule.warmup = 1
  return pick(preset, {"plain": plain, "fgsm": fgsm}, config)
