"""Runs many processes as one: they find each other, agree, and notice that one is gone.

A process trains on its devices and reads its rows of each batch; only the first one writes logs.
JAX's own distributed engine carries it: https://docs.jax.dev/en/latest/multi_process.html
"""

import contextlib
import functools
import hashlib
import os
import pathlib
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from cnnjax import errors
from cnnjax.errors import TransientError, UserError, listed
from cnnjax.runtime import ranks

HEARTBEAT = 20  # seconds without a sign of life after which a process counts as gone
JOINING = 600  # seconds to wait for all to come: pods and hosts may start minutes apart


def start(
  coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
  """Joins the other processes, if there are any. Call it before JAX looks for devices.

  Args:
    coordinator: HOST:PORT where the first process listens; None reads the environment, as for the
      other two.
    processes: the number of processes.
    process: the index of this one, from 0.

  Raises:
    UserError: one of them is missing or wrong, or the other processes cannot be reached.
  """
  flags, asked = ranks.with_environment(coordinator, processes, process)
  if not asked and ranks.rank_in_cluster(os.environ) is None:
    return
  flags = _checked(flags) if asked else flags
  if flags["processes"] == 1:
    return
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  # JAX handles no signals: signals.py and `asked_to_stop` do.
  jax.config.update("jax_enable_preemption_service", False)
  with _ended_by_signals():  # while it waits for the others, Python's handlers would not run
    try:
      jax.distributed.initialize(
        flags["coordinator"],
        flags["processes"],
        flags["process"],
        cluster_detection_method="deactivate" if asked else None,
        initialization_timeout=JOINING,
        heartbeat_timeout_seconds=HEARTBEAT,
        shutdown_timeout_seconds=HEARTBEAT,
      )
    except (RuntimeError, ValueError) as e:
      reason = (str(e).strip() or type(e).__name__).splitlines()[0]
      raise TransientError(
        f"process {flags['process']} of {flags['processes']} could not join the others at "
        f"{flags['coordinator']}: {reason}"
      ) from e


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
  """Lets signals end the process at once in the body, as without handlers."""
  names = ("SIGINT", "SIGTERM", "SIGHUP")
  numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
  before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
  for number in before:
    signal.signal(number, signal.SIG_DFL)
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _checked(flags: dict[str, Any]) -> dict[str, Any]:
  """Returns the arguments as numbers; UserError where one is missing or wrong."""
  for name in ranks.VARIABLES:
    if flags[name] is None:
      raise UserError(
        f"--{name} is missing: many processes take --coordinator=HOST:PORT --processes=N "
        f"--process=I, or {', '.join(names[0] for names in ranks.VARIABLES.values())}"
      )
  try:
    processes, process = int(flags["processes"]), int(flags["process"])
  except ValueError as e:
    raise UserError(f"--processes and --process are numbers: {e}") from e
  if processes < 1 or not 0 <= process < processes:
    raise UserError(f"--process={process} must be at least 0 and below --processes={processes}")
  host, _, port = str(flags["coordinator"]).rpartition(":")
  if not host or not port.isdigit():
    raise UserError(f"--coordinator={flags['coordinator']} is not HOST:PORT, such as 10.0.0.1:1234")
  return {"coordinator": flags["coordinator"], "processes": processes, "process": process}


def several() -> bool:
  """Returns whether the run has more than one process."""
  return jax.process_count() > 1


def is_first() -> bool:
  """Returns whether this is the process that writes logs."""
  return jax.process_index() == 0


def barrier() -> None:
  """Returns when all processes have called it."""
  max_over_processes(0)


def broadcast_from_first(value: Any) -> Any:
  """Returns the first process's value, a number or a tree of numbers. All processes call it."""
  if not several():
    return value
  first = multihost_utils.broadcast_one_to_all(value)
  return jax.tree.map(lambda x: np.asarray(x).item(), first)


def made_by_first(make: Callable[[], pathlib.Path]) -> pathlib.Path:
  """Returns the path that the first process makes; the others wait for it."""
  if not several():
    return make()
  barrier()  # makes it once all have come here
  text = np.zeros(4096, np.uint8)  # as long as a path may be
  if is_first():
    raw = str(make()).encode()
    text[: len(raw)] = np.frombuffer(raw, np.uint8)
  received = np.asarray(multihost_utils.broadcast_one_to_all(text))
  return pathlib.Path(bytes(received).rstrip(b"\0").decode())


def asked_to_stop(caught: list[signal.Signals]) -> signal.Signals | None:
  """Returns the signal that any process caught, or None. All processes call it."""
  number = max_over_processes(max(caught, default=0))
  return signal.Signals(number) if number else None


def max_over_processes(number: int) -> int:
  """Returns the largest `number` of all processes. All processes call it."""
  if not several():
    return number
  return int(multihost_utils.process_allgather(np.int32(number)).max())


def check_same(seen: Mapping[str, Any]) -> None:
  """Compares the `repr` of each named value over the processes. All processes call it.

  Raises:
    UserError: a value differs; raised in all processes.
  """
  if not several():
    return
  digest = lambda value: hashlib.blake2b(repr(value).encode(), digest_size=8).digest()
  digests = np.frombuffer(b"".join(map(digest, seen.values())), np.uint8).reshape(len(seen), 8)
  differ = multihost_utils.process_allgather(digests)  # [processes, names, 8]
  differ = (differ != differ[:1]).any(-1)
  if differ.any():
    names = listed([name for name, differs in zip(seen, differ.any(0), strict=True) if differs])
    others = listed([str(process) for process in np.flatnonzero(differ.any(1))])
    raise UserError(
      f"give all processes the same files: process {others} has another {names} than process 0; "
      "data.path and --workdir lie on a disk that all share, or the data are equal copies"
    )


@contextlib.contextmanager
def one_for_all() -> Iterator[None]:
  """Ends this process at once if the body fails, so that the others notice and end too.

  Otherwise JAX would wait for the other processes at the exit, and they for this one. Once it has
  ended, they see a failed connection; JAX notices a machine that vanished after HEARTBEAT seconds,
  and ends the process. Does nothing in a run of one process.
  """
  try:
    yield
  except Exception as e:
    if not several():
      raise
    if (broken := _of_another(e)) is not None:
      reason = " ".join(str(broken).split())[:200]
      e = TransientError(
        f"process {jax.process_index()}: another process of this run is gone, or a device failed "
        f"({reason}). The same command on all of them goes on from the last checkpoint"
      )
    code = 1
    try:
      code = errors.run(functools.partial(_fail, e))
    except Exception:
      errors.tell(traceback.format_exc())
    os._exit(code)


def _of_another(error: BaseException | None) -> BaseException | None:
  """Returns the error below `error` that says that another process or a device is gone, or None.

  It may come up wherever the processes need each other: in a step, a save or an evaluation.
  """
  while error is not None:
    text = str(error)
    kinds = jax.errors.JaxRuntimeError, TimeoutError
    # jax 0.10 raises errors of Gloo as other kinds too.
    remote = isinstance(error, kinds) or "Gloo" in text
    if remote and "RESOURCE_EXHAUSTED" not in text and "emory" not in text:
      return error
    error = error.__cause__ or error.__context__
  return None


def _fail(error: Exception) -> NoReturn:
  raise error
