"""Counts of parameters and multiply-accumulates by hand, and the listing that prints them."""

import jax.numpy as jnp
import pytest
from flax import linen as nn

from cnnjax import errors, models
from cnnjax.models import __main__ as listing
from cnnjax.models import layers


class GroupedConv(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    conv = layers.conv(6, 3, strides=2, padding=1, groups=2, dtype=x.dtype, train=train)
    return conv(x)


class Dense(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    return layers.dense(7, dtype=x.dtype)(x.reshape(x.shape[0], -1))


class Attention(nn.Module):
  """Softmax(q k) v of the pixels, without weights, for 2 heads."""

  @nn.compact
  def __call__(self, x, *, train):
    x = x.reshape(x.shape[0], -1, 2, x.shape[-1] // 2)
    weights = nn.softmax(jnp.einsum("bqhc,bkhc->bhqk", x, x))
    self.param("unused", nn.initializers.zeros, (1,))
    return jnp.einsum("bhqk,bkhc->bqhc", weights, x)


class Scanned(nn.Module):
  """A pixel-wise dense layer, and three more as a loop, recomputed or not."""

  remat: bool = False

  @nn.compact
  def __call__(self, x, *, train):
    x = layers.dense(5, dtype=x.dtype)(x)
    return layers.scan_blocks(Inner(), x, train=train, remat=self.remat, drop_path=(0.0,) * 3)


class Inner(nn.Module):
  @nn.compact
  def __call__(self, x, *, train, drop_path):
    return layers.dense(5, dtype=x.dtype)(x)


@pytest.mark.parametrize(
  "model, shape, parameters, macs",
  [
    # 5x7 pixels come out; each of 6 outputs sees 3x3 pixels of 4 / 2 channels.
    (GroupedConv(), (9, 13, 4), 3 * 3 * 2 * 6, 5 * 7 * 6 * 9 * 2),
    (Dense(), (2, 3, 4), 24 * 7 + 7, 24 * 7),
    # 12 pixels see 12 pixels, twice, over 8 channels in all.
    (Attention(), (3, 4, 8), 1, 2 * 12 * 12 * 8),
    (Scanned(), (2, 3, 4), 4 * 5 + 5 + 3 * (25 + 5), 6 * (4 * 5 + 3 * 25)),
    (Scanned(remat=True), (2, 3, 4), 4 * 5 + 5 + 3 * (25 + 5), 6 * (4 * 5 + 3 * 25)),
  ],
  ids=["grouped convolution", "dense", "attention", "scan", "scan and remat"],
)
def test_by_hand(model, shape, parameters, macs):
  assert models.summarize(model, shape) == (parameters, 0, macs)


def test_statistics_and_a_scanned_network():
  options = dict(stage_sizes=(3, 4), features=8, stem_features=8)
  plain, scanned = (models.create("resnet20", 10, **options, scan=scan) for scan in (False, True))
  counted = models.summarize(plain, (32, 32, 3))
  assert models.summarize(scanned, (32, 32, 3)) == counted
  # A mean and a variance for each channel of a norm: the stem, then two a block.
  assert counted.statistics == 2 * (8 + 2 * 3 * 8 + 2 * 4 * 16)


def test_depthwise_is_counted_as_one_convolution():
  """Whatever the platform makes of it: 3x3 pixels of the one channel."""

  class Depthwise(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
      return layers.conv(4, 3, padding=1, groups=4, dtype=x.dtype, train=train)(x)

  assert models.summarize(Depthwise(), (8, 8, 4)).macs == 8 * 8 * 4 * 9


def run(monkeypatch, *args):
  monkeypatch.setattr("sys.argv", ["models", *args])
  return errors.run(listing.main)


def test_the_listing(monkeypatch, capsys):
  monkeypatch.setenv("COLUMNS", "60")  # narrower than a row: rows are not wrapped
  assert run(monkeypatch, "resnet[12]8") in (0, None)
  rows = [line.split() for line in capsys.readouterr().out.splitlines() if line]
  assert ["model", "parameters", "MACs", "input", "reference"] in rows
  row = next(row for row in rows if row[0] == "resnet18")
  assert row == [
    "resnet18",
    "11,689,512",
    "1.81",
    "G",
    "224x224x3",
    "arXiv:1512.03385",
    "table",
    "1",
  ]
  assert not any(row[0].startswith(("resnet20", "wide")) for row in rows)


def test_the_listing_of_small_images(monkeypatch, capsys):
  """At 10 classes, and in millions."""
  assert run(monkeypatch, "resnet20") in (0, None)
  assert "269,722    40.6 M  32x32x3" in capsys.readouterr().out


def test_a_pattern_that_matches_nothing(monkeypatch, capsys):
  assert run(monkeypatch, "resnext5000*")
  captured = capsys.readouterr()
  text = captured.out + captured.err
  assert text.count("\n") <= 1 and "unknown model 'resnext5000*'" in text
  assert "resnext50_32x4d" in text and "squeezenet" not in text  # the near ones
