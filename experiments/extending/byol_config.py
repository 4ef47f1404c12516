"""byol.py on the embedded digits, and mean teacher (arXiv:1703.01780), which needs keys alone."""

from cnnjax.config import default, pick


def digits(c):
  c.imports = ("experiments.extending.byol",)
  c.task.name = "byol"
  c.monitor = "validation/knn"
  c.distill.weight = 1.0
  c.epochs = 120
  c.augment = "random_resized_crop((0.6, 1.0)) | rotate(10) | brightness(0.3)"
  c.optim.learning_rate = 5e-4
  # A predictor that lags behind lets the embedding collapse: with one rate for all, the accuracy of
  # neighbours ends at 27 %.
  c.optimizers = (("predictor", {"params": "^predictor/", "learning_rate": 1e-2}),)


def mean_teacher(c):
  c.optim.learning_rate = 2e-3
  c.distill.weight = 0.5
  c.distill.temperature = 1.0
  c.epochs = 20
  c.augment = "pad_crop(1) | rotate(10)"


def get_config(preset: str = "digits"):
  config = default()
  config.model.name = "simple_cnn"
  config.model.batch_norm = True
  config.data.validation = 0.2
  config.batch_size = 128
  config.average.ema = 0.99
  config.distill.teacher = "ema"
  config.optim.name = "adamw"
  config.optim.weight_decay = 1e-4
  config.optim.schedule.warmup = 2
  return pick(preset, {"digits": digits, "mean_teacher": mean_teacher}, config)
