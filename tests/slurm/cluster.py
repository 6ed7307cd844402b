"""A real Slurm on this machine for tests: its own daemons, keys, sockets and database in one folder, on loopback.

    python tests/slurm/cluster.py up DIR [--nodes 4] [--gpus 2] [--no-accounting]     then: export SLURM_CONF=DIR/slurm.conf
    python tests/slurm/cluster.py down DIR

Several slurmd stand for several nodes, each on its own loopback address. Fake GPUs are device files, since slurmd binds
GPUs only to distinct character devices. Nothing under /etc/slurm is read, no systemd is needed.
"""

from __future__ import annotations

import argparse
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurmdbd", "slurm-client", "munge", "mariadb-server")
PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "sbatch")


class Unavailable(RuntimeError):
    """This machine cannot run the cluster; the message says why."""


def install() -> None:
    """Install what is missing; only root on a Debian can."""
    os.environ["PATH"] += os.pathsep + "/usr/sbin"
    if all(shutil.which(p) for p in PROGRAMS):
        return
    if os.getuid() != 0 or not shutil.which("apt-get"):
        raise Unavailable(
            f"Slurm is not installed ({', '.join(PACKAGES)}) and only root on Debian or Ubuntu can install it here"
        )
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for argv in (["apt-get", "update", "-q"], ["apt-get", "install", "-y", "-q", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise Unavailable(f"{' '.join(argv[:2])} failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")


class Cluster:
    """The cluster in ``folder``."""

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 4,
        gpus: int = 2,
        cpus: int = 8,
        accounting: bool = True,
        port: int | None = None,
    ) -> None:
        self.folder, self.nodes, self.gpus, self.cpus, self.accounting = folder, nodes, gpus, cpus, accounting
        self.port = port or _free_ports(nodes + 10)
        self.user = getpass.getuser()
        self.daemons: dict[str, int] = {}

    @property
    def env(self) -> dict[str, str]:
        """What clients need."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def up(self) -> None:
        """Bring everything up; raises `Unavailable` with the daemons' last words where that fails."""
        for name in ("run", "log", "state", "spool", "gpu"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        try:
            self._munge()
            self._devices()
            (self.folder / "slurm.conf").write_text(self._configuration())
            (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
            if self.accounting:
                self._database()
            self._daemon("slurmctld", ["slurmctld", "-c", "-D"])
            for i in range(self.nodes):
                (self.folder / "spool" / f"n{i}").mkdir(exist_ok=True)
                self._daemon(f"slurmd-n{i}", ["slurmd", "-D", "-N", f"n{i}"])
            self._until(
                40,
                "all nodes idle",
                lambda: self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%t").split() == ["idle"] * self.nodes,
            )
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Stop every daemon that `up` started, newest first; the database is thrown away, so it gets no farewell."""
        if self.daemons and "slurmctld" in self.daemons:
            subprocess.run(["scancel", "-u", self.user], env=self._full_env(), capture_output=True, timeout=30)
        for name, pid in reversed(list(self.daemons.items())):
            self.stop(name, number=signal.SIGKILL if name == "mariadbd" else signal.SIGTERM, pid=pid)
        self.daemons.clear()

    def stop(self, name: str, *, number: int = signal.SIGTERM, pid: int | None = None) -> None:
        """Stop one daemon."""
        pid = self.daemons.pop(name, pid) if pid is None else pid
        if pid is None:
            return
        end = time.monotonic() + 10
        try:
            os.kill(pid, number)
            while time.monotonic() < end and _alive(pid):
                time.sleep(0.05)
            if _alive(pid):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass

    def start(self, name: str) -> None:
        """Start a daemon again that `stop` stopped."""
        argv = {"slurmdbd": ["slurmdbd", "-D"], "slurmctld": ["slurmctld", "-D"]}.get(name) or [
            "slurmd",
            "-D",
            "-N",
            name.partition("-")[2],
        ]
        self._daemon(name, argv)

    def run(self, *argv: str) -> str:
        """Output of a client command; empty where it fails."""
        return subprocess.run(argv, env=self._full_env(), capture_output=True, text=True, timeout=60).stdout

    def _full_env(self) -> dict[str, str]:
        return {**os.environ, **self.env}

    def _daemon(self, name: str, argv: list[str]) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as out:
            process = subprocess.Popen(
                argv, env=self._full_env(), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        self.daemons[name] = process.pid
        _CHILDREN.append(process)

    def _until(self, seconds: float, what: str, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                words = [
                    line
                    for log in sorted((self.folder / "log").glob("*"))
                    for line in log.read_text(errors="replace").splitlines()[-2:]
                ]
                raise Unavailable(
                    f"waited {seconds:g} s for {what}: " + " | ".join([self.run("sinfo", "-R").strip(), *words])[-1500:]
                )
            time.sleep(0.1)

    def _munge(self) -> None:
        run = self.folder / "run"
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self._daemon(
            "munged",
            ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={run / 'munge'}", f"--pid-file={run / 'munged.pid'}",
             f"--log-file={self.folder / 'log' / 'munged.log'}", f"--seed-file={run / 'seed'}"],
        )  # fmt: skip
        self._until(15, "munged", (run / "munge").exists)

    def _devices(self) -> None:
        """Distinct character devices named like GPUs; consoles where device files cannot be made."""
        names = []
        for i in range(self.gpus):
            path = self.folder / "gpu" / f"gpu{i}"
            try:
                os.mknod(path, 0o666 | 0o020000, os.makedev(1, 3))
            except PermissionError:
                path = Path(f"/dev/tty{i + 1}")
                if not path.exists():
                    raise Unavailable("fake GPUs need root, or the consoles /dev/tty1..") from None
            names.append(str(path))
        lines = [f"NodeName=n[0-{self.nodes - 1}] Name=gpu Type=fake File={name}" for name in names]
        (self.folder / "gres.conf").write_text("\n".join(lines) + "\n")

    def _database(self) -> None:
        data, sock = self.folder / "mysql", self.folder / "run" / "mysql.sock"
        common = ["--no-defaults", f"--user={self.user}", f"--datadir={data}"]
        made = subprocess.run(
            ["mariadb-install-db", *common, "--skip-test-db", "--auth-root-authentication-method=normal", "--innodb-log-file-size=16M"],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        if made.returncode:
            raise Unavailable(f"mariadb-install-db failed: {made.stderr[-300:]}")
        self._daemon(
            "mariadbd",
            ["mariadbd", *common, f"--socket={sock}", f"--pid-file={self.folder / 'run' / 'mariadb.pid'}", "--bind-address=127.0.0.1",
             f"--port={self.port + 3}", "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin", "--innodb-buffer-pool-size=64M"],
        )  # fmt: skip
        sql = ["mariadb", "--no-defaults", "-u", "root", "-S", str(sock)]
        self._until(
            40, "mariadbd", lambda: subprocess.run([*sql, "-e", "select 1"], capture_output=True).returncode == 0
        )
        grants = "".join(
            f"create user s@'{h}' identified by 's'; grant all on acct.* to s@'{h}';"
            for h in ("localhost", "127.0.0.1")
        )
        subprocess.run([*sql, "-e", f"create database acct; {grants}"], check=True, capture_output=True)
        conf = self.folder / "slurmdbd.conf"
        conf.touch(mode=0o600)
        conf.write_text(
            f"AuthType=auth/munge\nAuthInfo=socket={self.folder}/run/munge\nDbdHost=localhost\nDbdPort={self.port + 2}\nSlurmUser={self.user}\n"
            f"LogFile={self.folder}/log/slurmdbd.log\nPidFile={self.folder}/run/slurmdbd.pid\nStorageType=accounting_storage/mysql\n"
            f"StorageHost=127.0.0.1\nStoragePort={self.port + 3}\nStorageUser=s\nStoragePass=s\nStorageLoc=acct\n"
        )
        self._daemon("slurmdbd", ["slurmdbd", "-D"])
        self._until(
            40,
            "slurmdbd",
            lambda: (
                "mini" in self.run("sacctmgr", "-i", "add", "cluster", "mini")
                or "mini" in self.run("sacctmgr", "-n", "list", "cluster")
            ),
        )
        self.run("sacctmgr", "-i", "add", "account", "lab", "Description=lab", "Organization=lab")
        self.run("sacctmgr", "-i", "add", "user", self.user, "account=lab")

    def _configuration(self) -> str:
        d, p, last = self.folder, self.port, self.nodes - 1
        host = socket.gethostname().partition(".")[0]
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20 // 2
        accounting = "AccountingStorageType=accounting_storage/none\n"
        if self.accounting:
            accounting = (
                f"AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=localhost\nAccountingStoragePort={p + 2}\n"
                f"AccountingStoragePass={d}/run/munge\nAccountingStorageTRES=gres/gpu\nJobAcctGatherType=jobacct_gather/linux\n"
            )
        return f"""ClusterName=mini
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={p}
SlurmUser={self.user}
SlurmdUser={self.user}
AuthType=auth/munge
AuthInfo=socket={d}/run/munge,cred_expire=5
StateSaveLocation={d}/state
SlurmdSpoolDir={d}/spool/%n
SlurmctldPidFile={d}/run/slurmctld.pid
SlurmdPidFile={d}/run/slurmd-%n.pid
SlurmctldLogFile={d}/log/slurmctld.log
SlurmdLogFile={d}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=1
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
KillWait=4
MinJobAge=300
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
GresTypes=gpu
PlugStackConfig=/dev/null
{accounting}NodeName=n[0-{last}] NodeHostname={host} NodeAddr=127.0.0.[21-{21 + last}] Port=[{p + 5}-{p + 5 + last}] CPUs={self.cpus} RealMemory={memory} Gres=gpu:fake:{self.gpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=scavenge Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=8
"""


_CHILDREN: list[subprocess.Popen[bytes]] = []  # kept, so that their ends are not reaped behind our back


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _free_ports(count: int) -> int:
    """First of ``count`` ports in a row that nothing listens on."""
    for first in range(16_800, 30_000, 50):
        taken = False
        for port in range(first, first + count):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    taken = True
                    break
        if not taken:
            return first
    raise Unavailable("no free ports on loopback")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("up", "down"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--no-accounting", action="store_true")
    options = parser.parse_args()
    pids = options.folder / "pids"
    if options.command == "up":
        install()
        cluster = Cluster(
            options.folder.resolve(), nodes=options.nodes, gpus=options.gpus, accounting=not options.no_accounting
        )
        cluster.up()
        pids.write_text("\n".join(f"{name} {pid}" for name, pid in cluster.daemons.items()))
        print(f"export SLURM_CONF={options.folder.resolve() / 'slurm.conf'}")
    elif pids.is_file():
        for line in reversed(pids.read_text().splitlines()):
            try:
                os.kill(int(line.split()[1]), signal.SIGKILL if line.startswith("mariadbd") else signal.SIGTERM)
            except ProcessLookupError:
                continue
        pids.unlink()


if __name__ == "__main__":
    sys.exit(main())
