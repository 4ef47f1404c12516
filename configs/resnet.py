from cnnjax.config import default, pick


def digits(c):
  c.model.name = "resnet20"
  c.batch_size = 64
  c.epochs = 20
  c.augment = "pad_crop(1)"
  c.optim.weight_decay = 5e-4
  c.optim.schedule.warmup = 1


PRESETS = {"digits": digits}


def get_config(preset="digits"):
  return pick(preset, PRESETS, default())
