"""The processes that work together, on one machine or many.  `jaxpu.parallel.joined` joins them; no JAX here."""

import dataclasses

from data_pipeline.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Cluster:
    """How processes that work together find each other.

    Attributes:
        cluster: `auto` for processes that SLURM's srun, Open MPI, Kubernetes or a TPU pod started; for others HOST:PORT of
            process 0, with `processes` and `process`.  By default this process works alone.
        processes: number of processes.
        process: number of this process, from 0.

    Raises:
        ConfigError: these do not fit together.
    """

    cluster: str | None = None
    processes: int | None = None
    process: int | None = None

    def __post_init__(self) -> None:
        numbers = (self.processes, self.process)
        if self.cluster in (None, "auto"):
            if numbers != (None, None):
                raise ConfigError(
                    f"--processes is {self.processes} and --process {self.process}, but --cluster is {self.cluster}: "
                    "the two numbers belong to --cluster HOST:PORT."
                )
            return
        host, _, port = self.cluster.rpartition(":")
        if not host or not port.isdecimal():
            raise ConfigError(f"--cluster is {self.cluster!r}; it must be auto, or HOST:PORT of process 0, such as node1:12345.")
        if self.processes is None or self.process is None or not 0 <= self.process < self.processes:
            raise ConfigError(
                f"--cluster {self.cluster} needs --processes, how many there are (here {self.processes}), and --process, which "
                f"of them this is, from 0 (here {self.process})."
            )
