"""The peers of the input benchmark: each gives (run, facts), where run(n) makes n batches."""

import os
import pathlib

BATCH, SIZE = 128, 224
CORES = len(os.sched_getaffinity(0))


def _facts(size):
  """Returns the memory of this process and its children in MiB, and the shape of a batch."""
  import psutil

  def facts():
    me = psutil.Process()
    total = sum(p.memory_full_info().pss for p in (me, *me.children(recursive=True)))
    return {"mib": round(total / 2**20), "shape": list(size)}

  return facts


def _endless(batches):
  """Returns (run, facts) of an iterator of arrays."""
  iterator, shape = iter(batches), []

  def run(n):
    for _ in range(n):
      shape[:] = next(iterator).shape

  return run, _facts(shape)


# Streaming: JPEG files to random-resized crops, uint8.


def ours(path, workers=0, **_):
  import jax

  from cnnjax import data
  from cnnjax.config import default
  from cnnjax.runtime import sharding

  config = default()
  config.batch_size, config.epochs, config.augment = BATCH, "1e9 steps", None
  config.data.source, config.data.path, config.data.test = "folder", path, 2
  config.data.image_size, config.data.crop, config.data.workers = SIZE, "random_resized", workers
  config.data.mean = config.data.std = (0.5, 0.5, 0.5)
  inputs, step = data.open_inputs(config, sharding.make_mesh(1)), 0

  def batches():
    nonlocal step
    while True:
      yield jax.block_until_ready(inputs.train.feed(step))["image"]
      step += 1

  return _endless(batches())


def tf_data(path, **_):
  """As the ImageNet example of flax: the crop is decoded alone, from what is read of the file."""
  import tensorflow as tf

  files = tf.data.Dataset.list_files(f"{path}/*/*", shuffle=True).cache()

  def image(file):
    encoded = tf.io.read_file(file)
    shape = tf.image.extract_jpeg_shape(encoded)
    begin, size, _ = tf.image.sample_distorted_bounding_box(
      shape,
      tf.constant([0.0, 0.0, 1.0, 1.0], shape=[1, 1, 4]),
      min_object_covered=0.1,
      aspect_ratio_range=(3 / 4, 4 / 3),
      area_range=(0.08, 1.0),
      max_attempts=10,
      use_image_if_no_bounding_boxes=True,
    )
    y, x, _ = tf.unstack(begin)
    height, width, _ = tf.unstack(size)
    pixels = tf.image.decode_and_crop_jpeg(encoded, tf.stack([y, x, height, width]), channels=3)
    return tf.cast(tf.image.resize(pixels, [SIZE, SIZE], "bilinear"), tf.uint8)

  options = tf.data.Options()
  options.threading.private_threadpool_size = CORES
  batches = files.shuffle(4096).repeat().map(image, num_parallel_calls=tf.data.AUTOTUNE)
  batches = batches.batch(BATCH, drop_remainder=True).prefetch(2).with_options(options)
  return _endless(batches.as_numpy_iterator())


def data_loader(path, **_):
  """Runs torch's DataLoader with torchvision's ImageFolder and transforms, a worker per core."""
  import torch
  import torchvision
  from torchvision.transforms import v2

  change = v2.Compose([v2.RandomResizedCrop(SIZE), v2.PILToTensor()])
  folder = torchvision.datasets.ImageFolder(path, change)
  loader = torch.utils.data.DataLoader(
    folder, BATCH, shuffle=True, num_workers=CORES, drop_last=True, persistent_workers=True
  )

  def batches():
    while True:
      for images, _ in loader:
        yield images

  return _endless(batches())


def keras(path, **_):
  """Keras's image_dataset_from_directory: whole images are resized, nothing is cropped."""
  os.environ["KERAS_BACKEND"] = "jax"
  import keras

  folder = keras.utils.image_dataset_from_directory(
    path, batch_size=BATCH, image_size=(SIZE, SIZE), verbose=False
  )
  return _endless(images for images, _ in folder.repeat().as_numpy_iterator())


STREAMING = {"ours": ours, "tf_data": tf_data, "data_loader": data_loader, "keras": keras}

# Resident: CIFAR-10 in memory, padded, cropped and mirrored.


def _cifar():
  """Returns the training images of CIFAR-10 and their labels."""
  from cnnjax import data
  from cnnjax.config import default

  config = default().data
  config.source, config.name = "tfds", "cifar10"
  split = data.load(config, ("train",))["train"]
  return split.images, split.labels


def ours_resident(**_):
  import jax

  from cnnjax import augment, data, tasks
  from cnnjax.config import default
  from cnnjax.runtime import sharding
  from cnnjax.training import passes

  config = default()
  config.batch_size, config.data.source, config.data.name = BATCH, "tfds", "cifar10"
  config.augment = "pad_crop(4) | flip"
  inputs = data.open_inputs(config, sharding.make_mesh(1))
  task = tasks.create(config.task, len(inputs.classes))
  operations = augment.create(config.augment)

  @jax.jit
  def take(feed, step):
    return passes.augmented(task, operations, 0, step, inputs.train.take(feed, step))[0]

  def batches():
    step = 0
    while True:
      yield jax.block_until_ready(take(inputs.train.feed(step), step))
      step += 1

  return _endless(batches())


def tf_data_resident(**_):
  import tensorflow as tf

  images, labels = _cifar()

  def change(image, label):
    padded = tf.pad(image, [[4, 4], [4, 4], [0, 0]])
    crop = tf.image.random_flip_left_right(tf.image.random_crop(padded, [32, 32, 3]))
    return tf.cast(crop, tf.float32) / 255, label

  batches = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(50_000).repeat()
  batches = batches.map(change, num_parallel_calls=tf.data.AUTOTUNE)
  batches = batches.batch(BATCH, drop_remainder=True).prefetch(2)
  return _endless(images for images, _ in batches.as_numpy_iterator())


def data_loader_resident(**_):
  import torch
  from PIL import Image
  from torchvision.transforms import v2

  images, labels = _cifar()
  to_float = v2.ToDtype(torch.float32, scale=True)
  change = v2.Compose(
    [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ToImage(), to_float]
  )

  class Images(torch.utils.data.Dataset):
    def __len__(self):
      return len(images)

    def __getitem__(self, i):
      return change(Image.fromarray(images[i])), labels[i]

  loader = torch.utils.data.DataLoader(
    Images(), BATCH, shuffle=True, num_workers=CORES, drop_last=True, persistent_workers=True
  )

  def batches():
    while True:
      for images, _ in loader:
        yield images

  return _endless(batches())


RESIDENT = {
  "ours": ours_resident,
  "tf_data": tf_data_resident,
  "data_loader": data_loader_resident,
}

# A training step of ResNet-20 on CIFAR-10, with its input and augmentation, and without.


def step(augmented=True, **_):
  import jax

  from cnnjax import build
  from cnnjax import config as configs

  config = configs.default()
  config.data.source, config.data.name, config.mesh.data = "tfds", "cifar10", 1
  config.optim.learning_rate = 0.01
  config.augment = "pad_crop(4) | flip | cutout(16) | mixup(0.2)" if augmented else None
  program = build.build(config)
  train, now = program.inputs.train, program.new_state()
  feed = train.feed(0)
  if not augmented:  # the same batch again and again
    feed = jax.jit(train.take)(feed, 0)
    train.take = lambda batch, at: batch

  def run(n):
    nonlocal now
    for _ in range(n):
      now = program.train_step(now, feed, 1)

  return run, _facts([])


STEP = {"ours": step, "without": lambda **_: step(augmented=False)}


def photos(source, out, number=600):
  """Makes `number` JPEG files of 500x375 and quality 90 of the photos below `source`, in `out`.

  Where there are fewer photos, each gives several parts of 4/5 of it.
  """
  import numpy as np
  from PIL import Image, ImageOps

  out, rng = pathlib.Path(out), np.random.default_rng(0)
  files = sorted(f for f in pathlib.Path(source).expanduser().rglob("*") if f.is_file())
  sizes = []
  for i in range(number):
    with Image.open(files[i % len(files)]) as image:
      part = [round(0.8 * n) for n in image.size]
      x, y = (int(rng.integers(n - p + 1)) for n, p in zip(image.size, part, strict=True))
      cut = image.convert("RGB").crop((x, y, x + part[0], y + part[1]))
    file = out / f"class{i % 2}" / f"{i}.jpg"
    file.parent.mkdir(parents=True, exist_ok=True)
    ImageOps.fit(cut, (500, 375)).save(file, quality=90)
    sizes.append(file.stat().st_size)
  return {"photos": number, "of": len(files), "kib": round(sum(sizes) / number / 1024)}
