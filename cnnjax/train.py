"""Trains a run: builds it, restores its newest checkpoint, loops, evaluates and reports."""

import contextlib
import functools
import signal
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cnnjax import checkpoints, data, trained, transfer, writers
from cnnjax.build import build, validate
from cnnjax.checkpoints import trained_on
from cnnjax.checkpoints import workdir as workdirs
from cnnjax.errors import Stopped, UserError
from cnnjax.evaluate import compute_metrics, evaluate
from cnnjax.runtime import compiling, processes
from cnnjax.runtime.paths import PathLike, to_path
from cnnjax.runtime.signals import catch_signals
from cnnjax.training import diagnose, resuming, state
from cnnjax.training.failures import named_failures
from cnnjax.training.program import Program
from cnnjax.training.teacher import Teacher

# Keys of checkpoint metadata that name interrupted work; the resumed run does it first.
DUE = "evaluation_due"
STATISTICS_DUE = "statistics_due"


class Run(NamedTuple):
  """The objects that the functions below share."""

  program: Program
  saved: checkpoints.Checkpoints
  out: writers.Writers
  stop: Callable[[], signal.Signals | None]  # the signal to stop for, once there is one
  check_lock: Callable[[], None]  # raises UserError once another run has taken the workdir


def train(
  config: ConfigDict,
  workdir: PathLike | None = None,
  splits: dict[str, data.Split] | None = None,
  teacher: Teacher | None = None,
  init: transfer.Pretrained | None = None,
) -> tuple[state.TrainState, dict[str, float], signal.Signals | None]:
  """Trains a model as `config` says, and resumes the run in `workdir` if there is one.

  Without a `workdir` the run gets a fresh one under runs/. `splits` are those of
  `data.from_arrays`; they replace the data of `config.data`. `teacher` is a model to learn from,
  which `Teacher.of` makes; it replaces `config.distill.workdir`. `init` is a trained network to
  begin with, from `transfer.open_file`; it replaces the file of `config.init`.

  Returns:
    The last state, the newest value of every metric, and the signal that stopped it, if one did.

  Raises:
    UserError: something in the config, the data or the workdir is wrong, or the loss diverged.
  """
  workdir = None if workdir is None else to_path(workdir)
  config, init = trained.with_init(data.with_given(config, splits), workdir, init)
  validate(config)
  config, kept = workdirs.as_begun(workdir, config) if workdir else (config, {})
  if workdir:
    workdirs.check(workdir, config)
  clock = compiling.use_cache(config.compilation_cache)
  trained_before = bool(workdir) and checkpoints.last_step(workdir) is not None
  before = trained_on.read(workdir) if trained_before else None
  epochs = workdirs.load_config(workdir).epochs if trained_before else None
  processes.check_same({"--workdir": (trained_before, kept, before and before.as_json())})
  program = build(config, splits, teacher or trained.teacher(config), before, init)
  inputs = program.inputs
  history, remarks = inputs.history(before)
  if workdir and (reached := checkpoints.last_step(workdir) or 0) > inputs.length.total:
    raise UserError(
      f"the run in {workdir} is at step {reached:,} already, and epochs={config.epochs!r} ends at "
      f"step {inputs.length.total:,}; raise epochs"
    )
  workdir = processes.made_by_first(lambda: workdirs.make(workdir, config))
  with (
    workdirs.lock(workdir, config) as check_lock,
    contextlib.closing(inputs.train),
    contextlib.closing(resuming.open_checkpoints(program, workdir)) as saved,
  ):
    now, meta = resuming.begin(program, saved)
    if not now.steps_done:
      program.pictures.check_values(now)
    if processes.is_first():  # a finished run trains on nothing new
      trained_on.write(workdir, before if program.finished(now) else history)
    with (
      catch_signals() as caught,
      writers.Writers.of(program, workdir, now.steps_done, clock) as out,
      processes.one_for_all(),
    ):
      saved.say = out.say
      going_on = {**remarks, **kept, **resuming.going_on(program, now, meta, epochs, out.latest)}
      summary = {**program.summary, **going_on, "workdir": str(workdir)}
      out.block(summary, finished=program.finished(now))
      stop = functools.partial(processes.asked_to_stop, caught)
      run = Run(program, saved, out, stop, check_lock)
      try:
        now = loop(run, now, meta)
        result = conclude(run, now) if program.finished(now) and not stop() else now
      finally:
        out.name_unreadable(inputs.skipped)
      saved.wait()
      best, by = saved.step("best"), stop()
      restored = None if result is now else result.steps_done
      out.report(workdir, now.steps_done, best, by, restored=restored, arrays=splits is not None)
      return result, out.latest, by


def loop(run: Run, now: state.TrainState, meta: dict[str, Any]) -> state.TrainState:
  """Trains from `now` to the end or the first signal; writes, evaluates and saves on the way.

  `meta` is the metadata of the checkpoint that `now` was restored from; empty for a new run.
  """
  program, saved, out, stop, check_lock = run
  inputs, step = program.inputs, now.steps_done
  per_epoch = inputs.length.steps_per_epoch
  events = (*program.every.values(), per_epoch, inputs.length.phase, inputs.length.total)
  if DUE in meta:
    now = assess(run, now, keep=True)
  elif STATISTICS_DUE in meta:
    now = checkpoint(run, now)
  while not program.finished(now) and not stop():
    check_lock()
    to_events = (event - step % event for event in events)
    n = min(program.per_dispatch if step else 1, out.trace.left(step), *to_events)
    with out.trace.of(step, n):
      with saved_on_failure(run, now):
        feed = inputs.train.feed(step)
      # This waits for the steps to end: a queue of steps would delay the save after a signal.
      now = program.train_step(now, feed, n)
    step += n
    out.progress(step, functools.partial(program.training_metrics, now))
    out.name_unreadable(inputs.skipped)

    last = step == inputs.length.total
    due = {name: last or step % steps == 0 for name, steps in program.every.items()}
    of_epoch = due["eval"] or step % per_epoch == 0
    due["log"] |= of_epoch or step == 1  # step 1: the loss before anything is learnt
    if not any(due.values()):
      continue
    diagnose.check_finite(program, now, saved)
    if due["log"]:
      found = program.training_metrics(now, of_epoch=of_epoch)
      out.write_training(step, {**found, **inputs.train.waits()})
      now = now.replace(window=program.no_metrics())
    if due.get("health") and not last:
      out.write(step, diagnose.examine(program, now, feed))
    if due["eval"]:
      now = assess(run, now, keep=due["checkpoint"])
    elif due["checkpoint"]:
      now = checkpoint(run, now)
    out.restart_clock(step)
  check_lock()
  # The signal may come at any step; a saved step is not saved again.
  if stop() or program.finished(now):
    diagnose.check_finite(program, now, saved)
    save(run, now)
  return now


def save(run: Run, now: state.TrainState, *due: str) -> None:
  """Saves `now` at once, and notes which batch statistics are not measured.

  `due` names what the resumed run has to do first: keys of the metadata.
  """
  meta = {**run.program.inputs.meta, **dict.fromkeys(due, True)}
  meta[checkpoints.UNMEASURED] = run.program.to_measure(now)
  run.saved.save(run.program.with_optimizer_averages(now), meta, {})


@contextlib.contextmanager
def saved_on_failure(run: Run, now: state.TrainState, *due: str) -> Iterator[None]:
  """Saves `now` if the body raises UserError, for example because images cannot be read."""
  try:
    yield
  except UserError:
    # One process of several cannot save alone: all end, and the last checkpoint remains.
    if now.steps_done and not processes.several():
      save(run, now, *due)
    raise


def checkpoint(run: Run, now: state.TrainState) -> state.TrainState:
  """Measures the batch statistics of `now`, saves it with them, and returns it.

  If a signal interrupts, `now` is saved as it is, and the resumed run measures them first.
  """
  try:
    with saved_on_failure(run, now, STATISTICS_DUE):
      after = run.program.with_measured_batch_stats(now, run.stop)
  except Stopped:
    run.check_lock()
    save(run, now, STATISTICS_DUE)
    return now
  run.check_lock()
  save_measured(run, after, {})
  return after


def save_measured(run: Run, now: state.TrainState, metrics: dict[str, float]) -> None:
  """Saves a state with measured batch statistics; replaces what an interrupted run saved of it."""
  meta = {**run.program.inputs.meta, checkpoints.UNMEASURED: []}
  run.saved.save(now, meta, metrics, replace=True)


def assess(run: Run, now: state.TrainState, *, keep: bool) -> state.TrainState:
  """Evaluates `now`, and returns it with its monitor updated.

  Saves it if `keep`, or if the monitored metric was evaluated, as it may be the best one. If a
  signal interrupts, `now` is saved as it is, and the resumed run evaluates it first.
  """
  program = run.program
  try:
    with saved_on_failure(run, now, DUE):
      after = program.with_measured_batch_stats(now, run.stop)
    # Without a validation split this is the test split, which is reported but chooses nothing.
    split = next(iter(program.inputs.evaluations))
    metrics = evaluate_split(run, after, split)
  except Stopped:
    run.check_lock()
    save(run, now, DUE)
    return now
  after = program.with_monitor(after, metrics)
  if keep or program.config.monitor in metrics:
    run.check_lock()
    save_measured(run, after, metrics)
  return after


def conclude(run: Run, now: state.TrainState) -> state.TrainState:
  """Evaluates the result of the run on all splits, where that is not done yet, and returns it.

  The result is the last state, or the best one where early stopping restores it.
  """
  program, saved, out, _, _ = run
  result, stopping = now, program.config.early_stopping
  if stopping.patience is not None and stopping.restore_best:
    saved.wait()
    if saved.find("best") != now.steps_done:
      result = resuming.restored(program, saved, "best")
  # The test split is evaluated last: once it is written, all splits are. Splits evaluated during
  # training count only if the result is the last state.
  concluded = out.has(now.steps_done, "test")
  with contextlib.suppress(Stopped):  # the rest is evaluated when the run is started again
    for split in program.inputs.evaluations:
      if not (concluded or (result is now and out.has(now.steps_done, split))):
        evaluate_split(run, result, split, at=now.steps_done)
  return result


def evaluate_split(
  run: Run, now: state.TrainState, split: str, at: int | None = None
) -> dict[str, float]:
  """Returns the metrics of a split, of the weights and their averages; writes them at step `at`."""
  program, inputs, step = run.program, run.program.inputs, now.steps_done
  sums, pictures = {}, {}
  for weights, variables in program.weights(now).items():
    failures = named_failures(program.config, evaluating=True)
    with failures, saved_on_failure(run, now, DUE):
      batches, size = inputs.evaluations[split], program.config.eval_batch_size
      sums[weights] = evaluate(program.eval_step, variables, batches, size, run.stop)
      pictures[weights] = program.pictures.taken(variables, now.seed, split)
  found = {}
  for weights, summed in sums.items():  # an interrupted evaluation writes none of them
    run.out.write_pictures(at or step, split, weights, pictures[weights])
    metrics = compute_metrics(program.task, program.members, summed)
    found |= run.out.write_evaluation(at or step, split, weights, metrics, of=step)
  return found
