"""The training program: build, restore, loop, evaluate, report."""

import contextlib
import functools
import signal
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cnnjax import checkpoints, data, writers
from cnnjax.build import build, validate
from cnnjax.checkpoints import trained_on
from cnnjax.checkpoints import workdir as workdirs
from cnnjax.errors import Stopped, UserError
from cnnjax.evaluate import evaluate, measured
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
  """What the functions below work with."""

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
) -> tuple[state.TrainState, dict[str, float], signal.Signals | None]:
  """Trains what `config` says in `workdir`, going on where a run in it stopped.

  Without a `workdir` the run gets a fresh one under runs/. `splits` are those of
  `data.from_arrays`; they replace the data of `config.data`. `teacher` is a model to learn from,
  which `Teacher.of` makes; it replaces `config.distill.workdir`.

  Returns:
    The last state, the newest value of every metric, and the signal that stopped it, if one did.

  Raises:
    UserError: something in the config, the data or the workdir is wrong, or the loss diverged.
  """
  workdir = None if workdir is None else to_path(workdir)
  config = data.with_given(config, splits)
  validate(config)
  config, kept = workdirs.as_begun(workdir, config) if workdir else (config, {})
  if workdir:
    workdirs.check(workdir, config)
  clock = compiling.use_cache(config.compilation_cache)
  trained_before = bool(workdir) and checkpoints.last_step(workdir) is not None
  before = trained_on.read(workdir) if trained_before else None
  epochs = workdirs.load_config(workdir).epochs if trained_before else None
  processes.check_same({"--workdir": (trained_before, kept, before and before.as_json())})
  program = build(config, splits, teacher, before)
  inputs = program.inputs
  history, remarks = inputs.history(before)
  if workdir and (reached := checkpoints.last_step(workdir) or 0) > inputs.length.total:
    raise UserError(
      f"the run in {workdir} is at step {reached:,} already, and epochs={config.epochs!r} ends at "
      f"step {inputs.length.total:,}; give it more"
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
    if processes.is_first():  # a run that is finished trains on nothing new
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
  """Steps from `now` to the end, or to the first signal; writes, evaluates and saves on the way.

  `meta`: what was saved beside `now`, if it was.
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
      # It waits: a queue of steps would stand between a signal and its save.
      now = program.train_step(now, feed, n)
    step += n
    out.progress(step, functools.partial(program.training_metrics, now))
    out.name_unreadable(inputs.skipped)

    last = step == inputs.length.total
    due = {name: last or step % steps == 0 for name, steps in program.every.items()}
    measured = due["eval"] or step % per_epoch == 0
    due["log"] |= measured or step == 1  # the first: the loss before anything was learnt
    if not any(due.values()):
      continue
    diagnose.check_finite(program, now, saved)
    if due["log"]:
      found = program.training_metrics(now, of_epoch=measured)
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
  if stop() or program.finished(now):  # whenever it came; a step that is saved is left alone
    diagnose.check_finite(program, now, saved)
    save(run, now)
  return now


def save(run: Run, now: state.TrainState, *due: str) -> None:
  """Saves `now` at once: statistics that take batches to measure are noted as not measured.

  `due`: what the run that goes on has to do first.
  """
  meta = {**run.program.inputs.meta, **dict.fromkeys(due, True)}
  meta[checkpoints.UNMEASURED] = run.program.to_measure(now)
  run.saved.save(run.program.with_optimizer_averages(now), meta, {})


@contextlib.contextmanager
def saved_on_failure(run: Run, now: state.TrainState, *due: str) -> Iterator[None]:
  """Saves `now` if the work inside fails, as for images that cannot be read."""
  try:
    yield
  except UserError:
    # One process of several cannot save alone; the last checkpoint stands, and all end.
    if now.steps_done and not processes.several():
      save(run, now, *due)
    raise


def checkpoint(run: Run, now: state.TrainState) -> state.TrainState:
  """Saves `now` with all that whoever reads it needs, and returns it so.

  Where measuring that has to be broken off, it is done when the run goes on.
  """
  try:
    with saved_on_failure(run, now, STATISTICS_DUE):
      after = run.program.measured(now, run.stop)
  except Stopped:
    run.check_lock()
    save(run, now, STATISTICS_DUE)
    return now
  run.check_lock()
  save_measured(run, after, {})
  return after


def save_measured(run: Run, now: state.TrainState, metrics: dict[str, float]) -> None:
  """Saves what `Program.measured` gave, in place of what was saved because it was broken off."""
  meta = {**run.program.inputs.meta, checkpoints.UNMEASURED: []}
  run.saved.save(now, meta, metrics, replace=True)


def assess(run: Run, now: state.TrainState, *, keep: bool) -> state.TrainState:
  """`now` after an evaluation, saved if it is to be kept, or so that the best one can be.

  Where that has to be broken off, `now` is saved, and evaluated when the run goes on.
  """
  program = run.program
  try:
    with saved_on_failure(run, now, DUE):
      after = program.measured(now, run.stop)
    # The test split stands in where there is no validation split, to be seen, not to choose by.
    split = next(iter(program.inputs.evaluations))
    measured = measure(run, after, split)
  except Stopped:
    run.check_lock()
    save(run, now, DUE)
    return now
  after = program.watched(after, measured)
  if keep or program.config.monitor in measured:
    run.check_lock()
    save_measured(run, after, measured)
  return after


def conclude(run: Run, now: state.TrainState) -> state.TrainState:
  """Evaluates the state that is the result on all splits, unless that is done; returns it.

  It is the last one; where early stopping restores the best, the best one.
  """
  program, saved, out, _, _ = run
  result, stopping = now, program.config.early_stopping
  if stopping.patience is not None and stopping.restore_best:
    saved.wait()
    if saved.find("best") != now.steps_done:
      result = resuming.restored(program, saved, "best")
  # What was measured on the way is of the last step, and the test split comes last.
  concluded = out.has(now.steps_done, "test")
  with contextlib.suppress(Stopped):  # the rest is done when the run is started once more
    for split in program.inputs.evaluations:
      if not (concluded or (result is now and out.has(now.steps_done, split))):
        measure(run, result, split, at=now.steps_done)
  return result


def measure(run: Run, now: state.TrainState, split: str, at: int | None = None) -> dict[str, float]:
  """The metrics of a split, of the weights and their averages, written as of step `at`."""
  program, inputs, step = run.program, run.program.inputs, now.steps_done
  sums, pictures = {}, {}
  for weights, variables in program.weights(now).items():
    failures = named_failures(program.config, evaluating=True)
    with failures, saved_on_failure(run, now, DUE):
      batches, size = inputs.evaluations[split], program.config.eval_batch_size
      sums[weights] = evaluate(program.eval_step, variables, batches, size, run.stop)
      pictures[weights] = program.pictures.taken(variables, now.seed, split)
  found = {}
  for weights, summed in sums.items():  # all of them or none, also where it was broken off
    run.out.write_pictures(at or step, split, weights, pictures[weights])
    metrics = measured(program.task, program.members, summed)
    found |= run.out.write_evaluation(at or step, split, weights, metrics, of=step)
  return found
