"""ShuffleNets of torchvision."""

from cnnjax.transfer.mapping import Rules

_BRANCHES = {  # by branch of a block: the place of each convolution, which its norm follows
  "branch1": {0: "shortcut_depthwise", 2: "shortcut_conv"},
  "branch2": {0: "conv1", 3: "depthwise", 5: "conv2"},
}
_TORCHVISION = (
  (r"^conv1\.0\.", "conv_stem/conv/"),
  (r"^conv1\.1\.", "conv_stem/norm/"),
  (r"^conv5\.0\.", "conv_head/conv/"),
  (r"^conv5\.1\.", "conv_head/norm/"),
  (r"^stage(\d)\.(\d+)\.", "stage<1-1>_block<2+1>/"),
  *(
    (rf"/{branch}\.{place + offset}\.", f"/{layer}/{part}/")
    for branch, places in _BRANCHES.items()
    for place, layer in places.items()
    for offset, part in enumerate(("conv", "norm"))
  ),
  (r"^fc\.", "head/"),
)

RULES = [Rules("torchvision", "shufflenet_v2_*", _TORCHVISION)]
