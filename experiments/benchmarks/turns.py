"""Peers in processes of their own that take turns, round after round, and ratios of their times.

What else the machine does falls on all alike, so a ratio means something where a time does not.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable


def serve(
  build: Callable[[], tuple[Callable[[int], None], Callable[[], dict]]], drain: int = 0
) -> None:
  """Serves a peer: `build` returns (run, facts); runs as much as each line of stdin asks for.

  Before each, `drain` steps are not timed: those that were prepared while others had their turn.
  """
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # what frameworks print goes to stderr
  run, facts = build()
  say = lambda answer: print(json.dumps(answer), file=answers, flush=True)
  run(1)
  say("ready")
  for line in sys.stdin:
    if line.strip() == "facts":
      say(facts())
      continue
    run(drain)
    began = time.perf_counter()
    run(int(line))
    say((time.perf_counter() - began) / int(line))


class Worker:
  """A peer's process, seen from the other side; `launch_s` is the time until its first result.

  It and those that it starts stand still but when they are asked: pipelines run ahead.
  """

  def __init__(self, script: str, **arguments):
    began = time.perf_counter()
    self.process = subprocess.Popen(
      [sys.executable, script, "--work", json.dumps(arguments)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE if not os.environ.get("VERBOSE") else None,
      text=True,
      start_new_session=True,
    )
    self._answer()
    self.launch_s = time.perf_counter() - began
    self._all(signal.SIGSTOP)

  def _all(self, number: signal.Signals) -> None:
    os.killpg(self.process.pid, number)

  def _answer(self):
    line = self.process.stdout.readline()
    if not line:
      errors = self.process.stderr.read() if self.process.stderr else ""
      raise RuntimeError(errors.strip().splitlines()[-1] if errors.strip() else "it died")
    return json.loads(line)

  def _ask(self, what: str):
    self._all(signal.SIGCONT)
    print(what, file=self.process.stdin, flush=True)
    answer = self._answer()
    self._all(signal.SIGSTOP)
    return answer

  def time(self, steps: int) -> float:
    """Seconds of a step, over `steps` of them."""
    return self._ask(str(steps))

  @property
  def facts(self) -> dict:
    return self._ask("facts")

  def stop(self) -> None:
    self._all(signal.SIGKILL)
    self.process.wait()


def start(script: str, wanted: dict[str, dict]) -> tuple[dict[str, Worker], dict[str, str]]:
  """Returns (workers, the reasons why others do not run); "ours" must run."""
  workers, failed = {}, {}
  for label, arguments in wanted.items():
    try:
      workers[label] = Worker(script, **arguments)
    except RuntimeError as e:
      failed[label] = str(e)
  if "ours" not in workers:
    raise SystemExit(f"ours does not run: {failed['ours']}")
  return workers, failed


def measure(workers: dict[str, Worker], rounds: int, seconds: float) -> dict[str, list[float]]:
  """Times of a step of each, by round; each has about `seconds` in it."""
  steps = {label: max(1, round(seconds / worker.time(3))) for label, worker in workers.items()}
  times = {label: [] for label in workers}
  for _ in range(rounds):
    for label, worker in workers.items():
      times[label].append(worker.time(steps[label]))
  return times


def ratios(times: dict[str, list[float]]) -> dict[str, list[float]]:
  """Times of others over ours, above 1 where ours is faster: median, and the middle 80 %."""
  found = {}
  for label in times.keys() - {"ours"}:
    each = sorted(t / o for t, o in zip(times[label], times["ours"], strict=True))
    edge = max(0, len(each) // 10)
    found[label] = [round(x, 3) for x in (statistics.median(each), each[edge], each[-1 - edge])]
  return {label: found[label] for label in times if label in found}


def cell(ratio: list[float] | None) -> str:
  """Returns a ratio in words."""
  return f"{ratio[0]:.2f} ({ratio[1]:.2f}-{ratio[2]:.2f})" if ratio else ""
