"""Sorts metrics into groups, for tools that show a group together, as TensorBoard does."""

from cnnjax.tasks.metric import OF_RUN

# metrics.jsonl keeps these names without a group: scripts and resumed runs read old files. Groups
# are added on the way to a tool, here and nowhere else.
GROUPS = {
  "optim": ("learning_rate", "grad_norm", "param_norm", "update_ratio", "loss_scale"),
  "speed": ("images_per_second", "data_wait"),
  "health": ("dead_relu",),
}
OF_LAYERS = ("grad_norm", "update_ratio", "dead")  # go to health, as in health/grad_norm/conv1
REST = "run"  # the group of all other metrics, such as restored_step
_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}


def grouped(name: str) -> str:
  """Returns the name of a metric with its group in front.

  A name with a group stays: train/loss. Several runs and the mean of seeds have the groups of one
  run: optim/grad_norm/seed=0, optim/grad_norm_ci95.
  """
  match = OF_RUN.fullmatch(name)
  metric, of_layer, _ = (match[1] if match else name).partition("/")
  if of_layer:
    return f"health/{name}" if metric in OF_LAYERS else name
  metric = metric.removesuffix("_ci95")
  if metric.startswith("learning_rate_"):  # of one optimizer of several
    metric = "learning_rate"
  return f"{_GROUP_OF.get(metric, REST)}/{name}"
