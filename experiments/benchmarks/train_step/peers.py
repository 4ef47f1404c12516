"""One training step of the same network in each framework: forward, backward, SGD with momentum.

Each function builds its step and returns (run, facts): `run(n)` does n steps and waits for them,
`facts` says what is known of the program. Run by run.py, each peer in a process of its own.
"""

import os

CLASSES = 1000
MOMENTUM, RATE = 0.9, 0.01
# name: (ours, torchvision's, keras.applications'); None: there is none
MODELS = {
  "resnet50": ("resnet50", "resnet50", "ResNet50"),
  "densenet121": ("densenet121", "densenet121", "DenseNet121"),
  "inception_v3": ("inception_v3", "inception_v3", "InceptionV3"),
  "mobilenet_v2": ("mobilenetv2_100", "mobilenet_v2", "MobileNetV2"),
  "efficientnet_b0": ("efficientnet_b0", "efficientnet_b0", "EfficientNetB0"),
  "resnext50": ("resnext50_32x4d", "resnext50_32x4d", None),
  "resnet20": ("resnet20", "torch_resnet20", "keras_resnet20"),  # below, from the paper
}


def batch(size, examples):
  import numpy as np

  rng = np.random.default_rng(0)
  images = rng.normal(size=(examples, size, size, 3)).astype(np.float32)
  return images, rng.integers(CLASSES, size=examples).astype(np.int32)


def ours(name, size, examples, dtype, without=(), overrides=None):
  import jax
  import jax.numpy as jnp
  import optax

  from cnnjax import models
  from cnnjax.models import ops
  from cnnjax.training.state import CPU_INIT_OPTIONS

  model = models.create(name, CLASSES, dtype=dtype, **(overrides or {}))
  images, labels = map(jnp.asarray, batch(size, examples))
  optimizer = optax.sgd(RATE, momentum=MOMENTUM)

  def init():
    variables = model.init(jax.random.key(0), images[:1], train=False)
    return variables, optimizer.init(variables["params"])

  def step(state, key):
    variables, opt_state = state

    def loss_fn(params):
      logits, updated = model.apply(
        {**variables, "params": params},
        images,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": key},
      )
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

    gradients, updated = jax.grad(loss_fn, has_aux=True)(variables["params"])
    updates, opt_state = optimizer.update(gradients, opt_state)
    params = optax.apply_updates(variables["params"], updates)
    return {**updated, "params": params}, opt_state

  quick = CPU_INIT_OPTIONS if jax.default_backend() == "cpu" else None
  state, key = jax.jit(init, compiler_options=quick)(), jax.random.key(1)
  with ops.without(*without):
    options = ops.compiler_options(model, state[0]["params"])
    lowered = jax.jit(step, donate_argnums=0, compiler_options=options).lower(state, key)
  compiled = lowered.compile()
  macs = models.summarize(model, (size, size, 3)).macs
  facts = {
    "flops": compiled.cost_analysis()["flops"],
    "flops_over_6_macs": compiled.cost_analysis()["flops"] / (6 * macs * examples),
    "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
  }

  def run(steps):
    nonlocal state
    for _ in range(steps):
      state = compiled(state, key)
    jax.block_until_ready(state)

  return run, facts


def torch(name, size, examples, dtype, compiled=False):
  import torch
  from torch import nn

  torch.set_num_threads(os.cpu_count())
  device = "cuda" if torch.cuda.is_available() else "cpu"
  model = torch_resnet20() if name == "resnet20" else torch_model(MODELS[name][1])
  model = model.to(device, memory_format=torch.channels_last).train()
  images, labels = batch(size, examples)
  images = torch.tensor(images.transpose(0, 3, 1, 2)).to(device, memory_format=torch.channels_last)
  labels = torch.tensor(labels).long().to(device)
  optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
  loss_fn = nn.CrossEntropyLoss()
  forward = torch.compile(model) if compiled else model

  def run(steps):
    for _ in range(steps):
      optimizer.zero_grad(set_to_none=True)
      with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
        loss = loss_fn(forward(images), labels)
      loss.backward()
      optimizer.step()
    if device == "cuda":
      torch.cuda.synchronize()

  return run, {}


def torch_model(name):
  import torch

  try:
    import torchvision
  except RuntimeError:  # a CPU build of torch: declare what torchvision's compiled part would
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
      library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch._declared = library
    import torchvision
  options = {"aux_logits": False, "init_weights": False} if name == "inception_v3" else {}
  return getattr(torchvision.models, name)(num_classes=CLASSES, **options)


def torch_resnet20():
  import torch.nn.functional as F
  from torch import nn

  class Block(nn.Module):
    def __init__(self, before, features, strides):
      super().__init__()
      self.conv1 = nn.Conv2d(before, features, 3, strides, 1, bias=False)
      self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
      self.norm1, self.norm2 = nn.BatchNorm2d(features), nn.BatchNorm2d(features)
      self.strides, self.missing = strides, features - before

    def forward(self, x):
      y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
      x = x[:, :, :: self.strides, :: self.strides]
      half = self.missing // 2
      return F.relu(F.pad(x, (0, 0, 0, 0, half, self.missing - half)) + y)

  stages = [(16, 16, 1), *[(16, 16, 1)] * 2, (16, 32, 2), *[(32, 32, 1)] * 2, (32, 64, 2)]
  return nn.Sequential(
    nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
    *(Block(*stage) for stage in [*stages, *[(64, 64, 1)] * 2]),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES),
  )  # fmt: skip


def keras(name, size, examples, dtype):
  os.environ["KERAS_BACKEND"] = "jax"
  import jax
  import jax.numpy as jnp
  import keras

  keras.mixed_precision.set_global_policy("mixed_bfloat16" if dtype == "bfloat16" else dtype)
  if name == "resnet20":
    model = keras_resnet20(size)
  else:
    model = getattr(keras.applications, MODELS[name][2])(
      weights=None, input_shape=(size, size, 3), classes=CLASSES, classifier_activation=None
    )
  images, labels = map(jnp.asarray, batch(size, examples))
  optimizer = keras.optimizers.SGD(RATE, momentum=MOMENTUM)
  optimizer.build(model.trainable_variables)
  loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

  def compute(trainable, fixed):
    logits, fixed = model.stateless_call(trainable, fixed, images, training=True)
    return loss_fn(labels, logits), fixed

  # The fastest way that Keras documents for JAX: one jitted, stateless, donated step.
  def step(state):
    trainable, fixed, slots = state
    (_, fixed), gradients = jax.value_and_grad(compute, has_aux=True)(trainable, fixed)
    trainable, slots = optimizer.stateless_apply(slots, gradients, trainable)
    return trainable, fixed, slots

  values = lambda variables: [v.value for v in variables]
  state = tuple(
    map(values, (model.trainable_variables, model.non_trainable_variables, optimizer.variables))
  )
  compiled = jax.jit(step, donate_argnums=0).lower(state).compile()

  def run(steps):
    nonlocal state
    for _ in range(steps):
      state = compiled(state)
    jax.block_until_ready(state)

  return run, {"flops": compiled.cost_analysis()["flops"]}


def keras_resnet20(size):
  from keras import Model, ops
  from keras import layers as L

  norm = lambda x: L.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
  conv = lambda x, n, s: L.Conv2D(n, 3, s, padding="same", use_bias=False)(x)
  inputs = L.Input((size, size, 3))
  x = L.ReLU()(norm(conv(inputs, 16, 1)))
  for features in (16, 32, 64):
    for i in range(3):
      strides = 2 if features > 16 and i == 0 else 1
      y = norm(conv(L.ReLU()(norm(conv(x, features, strides))), features, 1))
      if strides > 1:
        half = features // 4
        x = ops.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (half, half)))
      x = L.ReLU()(x + y)
  return Model(inputs, L.Dense(CLASSES)(L.GlobalAveragePooling2D()(x)))
