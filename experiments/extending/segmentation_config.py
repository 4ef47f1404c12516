"""Presets of segmentation.py on made-up shapes."""

from cnnjax.config import default, pick


def shapes(c):
  pass


def get_config(preset: str = "shapes"):
  config = default()
  config.imports = ("experiments.extending.shapes", "experiments.extending.segmentation")
  config.data.source = "shapes"
  config.data.validation = "validation"
  config.model.name = "resnet20"
  config.task.name = "segmentation"
  config.task.head = "top_down"
  config.monitor = "validation/miou"
  config.batch_size = 16
  config.epochs = 60
  config.augment = "flip | rotate(15) | random_resized_crop((0.7, 1.0))"
  config.optim.name = "adamw"
  config.optim.learning_rate = 3e-3
  config.optim.weight_decay = 1e-2
  config.optim.schedule.warmup = 1
  return pick(preset, {"shapes": shapes}, config)
