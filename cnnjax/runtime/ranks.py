"""Finds the index of this process in a run of many, by flags and the environment. No JAX."""

import os
from collections.abc import Mapping

VARIABLES = {  # set by a start script or cnnjax.launch, instead of flags
  "coordinator": ("JAX_COORDINATOR_ADDRESS",),
  "processes": ("JAX_NUM_PROCESSES",),
  "process": ("JAX_PROCESS_ID", "JOB_COMPLETION_INDEX"),  # the second by Kubernetes' indexed jobs
}


def with_environment(
  coordinator: str | None, processes: int | None, process: int | None
) -> tuple[dict[str, str | int | None], bool]:
  """Returns the flags, from the environment where None, and whether they ask for many processes.

  The index of a process alone does not ask for it: a job may number runs of one process each.
  """
  flags = {"coordinator": coordinator, "processes": processes, "process": process}
  for name, variables in VARIABLES.items():
    values = [os.environ[v] for v in variables if os.environ.get(v)]
    if flags[name] is None and values:
      flags[name] = values[0]
  asked = any(value is not None for value in (coordinator, processes, process))
  asked |= flags["coordinator"] is not None or flags["processes"] is not None
  return flags, asked


def rank_in_cluster(environ: Mapping[str, str]) -> str | None:
  """Returns the rank under SLURM, Open MPI or on a TPU pod with more processes, else None.

  JAX finds the rest by itself.
  """
  above_1 = lambda name: environ.get(name, "1").isdigit() and int(environ.get(name, "1")) > 1
  if above_1("SLURM_NTASKS") and "SLURM_STEP_NODELIST" in environ and "SLURM_PROCID" in environ:
    return environ["SLURM_PROCID"]
  if above_1("OMPI_COMM_WORLD_SIZE") and "OMPI_MCA_orte_hnp_uri" in environ:
    return environ.get("OMPI_COMM_WORLD_RANK", "0")
  if "," in environ.get("TPU_WORKER_HOSTNAMES", ""):
    return environ.get("TPU_WORKER_ID", "0")
  return None


def may_be_first(coordinator: str | None, processes: int | None, process: int | None) -> bool:
  """Returns whether this is the first or only process, as far as flags and environment tell."""
  flags, asked = with_environment(coordinator, processes, process)
  rank = flags["process"] if asked else rank_in_cluster(os.environ)
  return rank is None or str(rank) == "0"
