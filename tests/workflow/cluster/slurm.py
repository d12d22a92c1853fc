"""A real SLURM on one machine, started and stopped for the tests: munged, slurmctld and slurmd in a private folder."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

CONFIGURATION = """
ClusterName=emosafe
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={port}
SlurmdPort={port_d}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=600
MessageTimeout=60
JobRequeue=0
MinJobAge=3600
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


CLIENT_SECONDS = 90

# Jobs lose SLURM_CONF on their way (the Snakemake plugin clears SLURM_*), so their srun looks here.
SYSTEM_CONFIGURATION = Path("/etc/slurm/slurm.conf")


def available() -> bool:
    """Whether SLURM's daemons are installed and may be started: they need root and no cluster configured already."""
    free = SYSTEM_CONFIGURATION.is_symlink() or not SYSTEM_CONFIGURATION.exists()
    return (
        free and os.geteuid() == 0 and all(shutil.which(name) for name in ("munged", "slurmctld", "slurmd", "sbatch"))
    )


def free_port() -> int:
    """A TCP port that is free right now on the loopback address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cluster:
    """Starts on entry, stops on exit; `environment` is what clients need."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        self.daemons: dict[str, subprocess.Popen] = {}

    def __enter__(self):
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        host = socket.gethostname().split(".")[0]
        facts = {"folder": self.folder, "host": host, "cpus": os.cpu_count()}
        text = CONFIGURATION.format(port=free_port(), port_d=free_port(), **facts)
        (self.folder / "slurm.conf").write_text(text)
        SYSTEM_CONFIGURATION.parent.mkdir(exist_ok=True)
        SYSTEM_CONFIGURATION.unlink(missing_ok=True)
        SYSTEM_CONFIGURATION.symlink_to(self.folder / "slurm.conf")
        base = self.folder
        self.start(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            f"--socket={base}/munge.socket",
            f"--pid-file={base}/munged.pid",
            f"--log-file={base}/munged.log",
            f"--seed-file={base}/munged.seed",
        )
        self.wait(lambda: (base / "munge.socket").exists())
        self.start("slurmctld", "-D")
        self.start("slurmd", "-D")
        self.wait(lambda: "idle" in self.client("sinfo", "-h", "-o", "%T"))
        return self

    def __exit__(self, *failure):
        self.client("scancel", "--user=root")
        for name in ("slurmd", "slurmctld", "munged"):
            self.stop(name)
        SYSTEM_CONFIGURATION.unlink(missing_ok=True)

    def start(self, name: str, *arguments: str) -> None:
        """Start one daemon in the foreground of a child process."""
        log = open(self.folder / f"{name}.out", "ab")  # noqa: SIM115  the child keeps it
        self.daemons[name] = subprocess.Popen(
            [shutil.which(name), *arguments], env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )

    def stop(self, name: str) -> None:
        """Stop one daemon and wait for it."""
        daemon = self.daemons.pop(name, None)
        if daemon:
            daemon.terminate()
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def client(self, *command: str) -> str:
        """Run a client command and return what it printed; nothing where SLURM does not answer in time."""
        try:
            done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=CLIENT_SECONDS)
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout + done.stderr

    def jobs(self) -> list[dict]:
        """Every job that the controller knows: number, state, rule and memory in MB as asked for."""
        lines = self.client("squeue", "-h", "--states=all", "-o", "%i|%T|%k|%m").splitlines()
        rows = [line.split("|") for line in lines if line.count("|") == 3]
        return [{"number": a, "state": b, "rule": c, "memory": d} for a, b, c, d in rows]

    def said(self) -> str:
        """The ends of the daemons' logs and the queue, for the message of a test that failed."""
        logs = sorted([*self.folder.glob("slurm*.log"), *self.folder.glob("*.out")])
        ends = [f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in logs]
        return "\n".join([str(self.jobs()), self.client("sinfo", "-N", "-l"), *ends])

    def wait(self, condition, seconds: float = 120) -> None:
        """Poll until the condition holds; RuntimeError otherwise."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                return
            time.sleep(0.3)
        raise RuntimeError(f"SLURM did not come up within {seconds} s: {self.said()}")
