"""Which process this is, before JAX is there to ask."""

import pytest

from cnnjax.runtime import ranks

CLUSTERS = ("SLURM_NTASKS", "SLURM_STEP_NODELIST", "SLURM_PROCID", "OMPI_COMM_WORLD_SIZE",
            "OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_RANK", "TPU_WORKER_HOSTNAMES",
            "TPU_WORKER_ID")  # fmt: skip
SLURM = {"SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "node[1-2]"}
OMPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "there"}
TPU = {"TPU_WORKER_HOSTNAMES": "a,b"}
JAX = {"JAX_COORDINATOR_ADDRESS": "host:1", "JAX_NUM_PROCESSES": "2"}


@pytest.mark.parametrize(
  "flags, environ, first",
  [
    ((None, None, None), {}, True),
    (("host:1", 2, 0), {}, True),
    (("host:1", 2, 1), {}, False),
    (("host:1", 2, 1), {**JAX, "JAX_PROCESS_ID": "0"}, False),  # flags come first
    ((None, None, None), {**JAX, "JAX_PROCESS_ID": "0"}, True),
    ((None, None, None), {**JAX, "JAX_PROCESS_ID": "1"}, False),
    ((None, None, None), {**JAX, "JOB_COMPLETION_INDEX": "3"}, False),
    ((None, None, None), {"JOB_COMPLETION_INDEX": "3"}, True),  # a job of runs of their own
    ((None, None, None), JAX, True),  # an error will say what is missing
    ((None, None, None), {**SLURM, "SLURM_PROCID": "0"}, True),
    ((None, None, None), {**SLURM, "SLURM_PROCID": "1"}, False),
    ((None, None, None), {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"}, True),  # outside srun
    ((None, None, None), {**SLURM, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, True),
    ((None, None, None), {**OMPI, "OMPI_COMM_WORLD_RANK": "0"}, True),
    ((None, None, None), {**OMPI, "OMPI_COMM_WORLD_RANK": "1"}, False),
    ((None, None, None), {**TPU, "TPU_WORKER_ID": "0"}, True),
    ((None, None, None), {**TPU, "TPU_WORKER_ID": "1"}, False),
    ((None, None, None), {"TPU_WORKER_HOSTNAMES": "a", "TPU_WORKER_ID": "1"}, True),
  ],
)
def test_the_first_process_is_known(flags, environ, first, monkeypatch):
  for name in (*CLUSTERS, *(name for names in ranks.VARIABLES.values() for name in names)):
    monkeypatch.delenv(name, raising=False)
  for name, value in environ.items():
    monkeypatch.setenv(name, value)
  assert ranks.may_be_first(*flags) == first
