"""Finds out which of several processes this is, by flags and the environment. No JAX."""

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
  """Returns the flags, from the environment where None, and whether they ask for several processes.

  The index of a process alone does not say so: a job may number runs of one process each.
  """
  found = {"coordinator": coordinator, "processes": processes, "process": process}
  for name, variables in VARIABLES.items():
    values = [os.environ[v] for v in variables if os.environ.get(v)]
    if found[name] is None and values:
      found[name] = values[0]
  asked = any(value is not None for value in (coordinator, processes, process))
  asked |= found["coordinator"] is not None or found["processes"] is not None
  return found, asked


def rank_in_cluster(environ: Mapping[str, str]) -> str | None:
  """Returns the rank under SLURM, Open MPI or on a TPU pod with several processes, else None.

  JAX finds the rest by itself.
  """
  several = lambda name: environ.get(name, "1").isdigit() and int(environ.get(name, "1")) > 1
  if several("SLURM_NTASKS") and "SLURM_STEP_NODELIST" in environ and "SLURM_PROCID" in environ:
    return environ["SLURM_PROCID"]
  if several("OMPI_COMM_WORLD_SIZE") and "OMPI_MCA_orte_hnp_uri" in environ:
    return environ.get("OMPI_COMM_WORLD_RANK", "0")
  if "," in environ.get("TPU_WORKER_HOSTNAMES", ""):
    return environ.get("TPU_WORKER_ID", "0")
  return None


def may_be_first(coordinator: str | None, processes: int | None, process: int | None) -> bool:
  """Whether this is the first or only process, as far as the environment tells without JAX."""
  found, asked = with_environment(coordinator, processes, process)
  rank = found["process"] if asked else rank_in_cluster(os.environ)
  return rank is None or str(rank) == "0"
