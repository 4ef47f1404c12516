"""simclr.py on the embedded digits, whose labels are read to judge the features alone."""

from cnnjax.config import default, pick


def digits(c):
  pass


def get_config(preset: str = "digits"):
  config = default()
  config.imports = ("experiments.extending.simclr",)
  config.task.name = "simclr"
  config.monitor = "validation/knn"
  config.model.name = "simple_cnn"
  config.model.batch_norm = True
  config.data.validation = 0.2
  config.batch_size = 256
  config.epochs = 60
  config.augment = "random_resized_crop((0.5, 1.0)) | rotate(15) | brightness(0.3) | contrast(0.5)"
  config.optim.name = "adamw"
  config.optim.learning_rate = 2e-3
  config.optim.weight_decay = 1e-4
  config.optim.schedule.warmup = 2
  return pick(preset, {"digits": digits}, config)
