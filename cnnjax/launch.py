"""Starts several processes of one run on this machine, for a box of GPUs or to try how it goes.

python -m cnnjax.launch --processes=4 --config=configs/resnet.py --workdir=runs/four

The other words are those of `python -m cnnjax.main`. Each process gets its share of the GPUs, or of
the simulated CPU devices of XLA_FLAGS. Signals reach all of them; when one fails, the others are
ended. The exit code is that of the first process that did not end well.
"""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

from cnnjax import main as program
from cnnjax.errors import ArgumentParser, UserError, run, tell

GRACE = 30.0  # seconds for the others to leave by themselves when one has failed


def environments(processes: int, gpus: list[str]) -> list[dict[str, str]]:
  """Returns the environment of each process; `gpus` are the names that CUDA knows them by.

  Raises:
    UserError: the processes cannot share the GPUs equally.
  """
  if gpus and len(gpus) % processes:
    raise UserError(f"{processes} processes cannot share {len(gpus)} GPUs equally")
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  each = len(gpus) // processes
  return [
    {
      "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
      "JAX_NUM_PROCESSES": str(processes),
      "JAX_PROCESS_ID": str(i),
      **({"CUDA_VISIBLE_DEVICES": ",".join(gpus[i * each : (i + 1) * each])} if each else {}),
    }
    for i in range(processes)
  ]


def visible_gpus() -> list[str]:
  """Returns the NVIDIA GPUs of this machine, or those of CUDA_VISIBLE_DEVICES."""
  if "CUDA_VISIBLE_DEVICES" in os.environ:
    return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
  devices = pathlib.Path("/dev").glob("nvidia[0-9]*")
  return sorted((device.name.removeprefix("nvidia") for device in devices), key=int)


def watch(children: list[subprocess.Popen]) -> int:
  """Waits for all; when one fails, the others have GRACE seconds to leave by themselves."""
  failed, since = 0, 0.0
  while any(child.poll() is None for child in children):
    codes = [child.returncode for child in children if child.returncode]
    if codes and not failed:
      failed, since = codes[0], time.monotonic()
    if failed and time.monotonic() - since > GRACE:
      for child in children:
        child.kill()
    time.sleep(0.1)
  codes = [failed, *(child.returncode for child in children)]
  code = next((code for code in codes if code), 0)
  return code if code >= 0 else 128 - code


def main(argv: list[str] | None = None) -> int:
  parser = ArgumentParser(
    prog="python -m cnnjax.launch",
    description="Starts several processes of one run on this machine.",
    epilog="The other words are those of python -m cnnjax.main.",
    allow_abbrev=False,
  )
  parser.add_argument("--processes", type=int, required=True, help="how many")
  args, rest = parser.parse_known_args(argv)
  if args.processes < 1:
    raise UserError(f"--processes={args.processes}: it takes at least one")
  own, _ = program.parse(rest)  # what is wrong with the words is said once, and nothing is started
  if own.coordinator is not None or own.process is not None:
    raise UserError(
      "--coordinator and --process are what cnnjax.launch gives to each: leave them out"
    )
  command = [sys.executable, "-m", "cnnjax.main", *rest]
  with tempfile.TemporaryDirectory() as folder:
    children, outputs = [], []
    for i, own in enumerate(environments(args.processes, visible_gpus())):
      # The first process speaks; the others are heard when they end badly.
      out = None if i == 0 else (pathlib.Path(folder) / f"{i}.txt").open("w")
      outputs.append(out)
      children.append(subprocess.Popen(command, env={**os.environ, **own}, stdout=out, stderr=out))
    forward = lambda number, _: [child.send_signal(number) for child in children]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
      signal.signal(number, forward)
    code = watch(children)
    for i, child in enumerate(children):
      if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        tell(f"error: process {i} was ended by {name}; the same command goes on")
    for i, (child, out) in enumerate(zip(children, outputs, strict=True)):
      if out:
        out.close()
        if child.returncode:
          lines = pathlib.Path(out.name).read_text("utf-8", errors="replace").splitlines()
          for line in lines[-10:]:
            tell(f"process {i}: {line}")
  return code


if __name__ == "__main__":
  sys.exit(run(main))
