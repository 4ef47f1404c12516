"""Transfer: a network that was trained on many images, for photos of your own.

python -m cnnjax.main --config=configs/transfer.py --config.data.path=PHOTOS --config.init.from=FILE

FILE is a file of weights of torchvision, timm, pytorchcv or Keras, the workdir of a run, or
hf://owner/name; python -m cnnjax.transfer inspect FILE says what is in it. PHOTOS are as in
configs/resnet.py:folder.
"""

from cnnjax.config import default, pick


def fine_tune(c):
  """All of the network at a small rate, and a new head that begins at 0: a start, not tuned."""
  c.model.name = "auto"
  c.data.source = "folder"
  c.data.crop = "random_resized"
  c.data.crop_scale = (0.25, 1.0)
  c.batch_size = 32
  c.epochs = 10
  c.augment = "flip"
  c.optim.name = "sgd"
  c.optim.learning_rate = 0.01
  c.optim.nesterov = True
  c.optim.weight_decay = 1e-4
  c.optim.schedule.warmup = 1


PRESETS = (fine_tune,)


def get_config(preset: str = "fine_tune"):
  return pick(preset, {function.__name__: function for function in PRESETS}, default())
