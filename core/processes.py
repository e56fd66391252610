"""Processes of this machine: an identity that is not reused (pid and start time), processes that end
with their parent, and the environment that a program may see."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from engine.process import isolation

SUPERVISED = "DEEPEXTENSION_SUPERVISED"
ADMIN_PASSWORD = "DEEPEXTENSION_ADMIN_PASSWORD"  # noqa: S105 - the name of a variable

JUDGE = ("DEEPEXTENSION_JUDGE_URL", "DEEPEXTENSION_JUDGE_MODEL", "DEEPEXTENSION_JUDGE_KEY")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")

# What a program of ours needs to find its libraries, its device, its temporary files and the
# machine's certificates.
HARMLESS = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "PWD",
        "TERM",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "TEMP",
        "TMP",
        "PYTHONPATH",
        "PYTHONHASHSEED",
        "PYTHONUNBUFFERED",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONUTF8",
        "PYTHONIOENCODING",
        "PYTHONWARNINGS",
        "VIRTUAL_ENV",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "HF_ENDPOINT",
        "HF_HUB_OFFLINE",
        "HF_HUB_ETAG_TIMEOUT",
        "HF_HUB_DOWNLOAD_TIMEOUT",
        "DEEPEXTENSION_HOME",
        "DEEPEXTENSION_WORKER_SLOT",
        "DEEPEXTENSION_SUPERVISED",
        "PORT",
    }
)
HARMLESS_PREFIXES = (
    "LC_",
    "XDG_",
    "OMP_",
    "GOMP_",
    "MKL_",
    "KMP_",
    "OPENBLAS_",
    "MALLOC_",
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "TORCH",
    "PYTORCH_",
    "TRITON_",
    "TOKENIZERS_",
)


def process_mark(pid: int) -> str:
    """The identity of a process: "pid:start" with its start in clock ticks since boot, "pid" where
    there is no /proc, "" for a process that has ended.

    The pid alone is reused, after a reboot at once: a dead process would seem to be alive.
    """
    try:
        # The second field is the command in brackets and may hold anything, so count from its end.
        stat = Path(f"/proc/{pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
    except FileNotFoundError:
        return "" if Path("/proc/self/stat").exists() else _plain_mark(pid)
    except OSError:
        return ""

    state = fields[0]
    start = fields[19]

    return "" if state == "Z" else f"{pid}:{start}"


def _plain_mark(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass

    return str(pid)


def process_is_alive(mark: str) -> bool:
    pid = mark.partition(":")[0]
    return pid.isdigit() and process_mark(int(pid)) == mark


def die_with_supervisor() -> None:
    """For the platform's own processes: they end with the supervisor that `serve` started, however
    that ends."""
    if os.environ.get(SUPERVISED):
        isolation.die_with_parent(os.getppid(), signal.SIGTERM)


def seal_process() -> None:
    """For the platform's own processes, before anything else: no other process of this user can
    read their secrets."""
    isolation.seal(is_harmless)


def is_harmless(name: str) -> bool:
    """Whether programs that strangers can influence may see this environment variable."""
    return name in HARMLESS or name.startswith(HARMLESS_PREFIXES)


def clean_environment(**more: str) -> dict[str, str]:
    """The environment of every program that the platform starts and that runs or reads what people
    bring: datasets, models, rewards.

    An allow-list, so that a new secret is kept back without being named here.
    """
    harmless = {name: value for name, value in os.environ.items() if is_harmless(name)}
    return harmless | more


def proxy_environment() -> dict[str, str]:
    """For programs that use the network. Not for others: the address of a proxy may hold its
    password."""
    return {name: value for name, value in os.environ.items() if name.lower() in PROXIES}


def judge_environment() -> dict[str, str]:
    """For rewards that ask the operator's judge (engine.rewards.judge)."""
    judge = {name: value for name, value in os.environ.items() if name in JUDGE}
    return judge | proxy_environment()


def confined(*limits: Callable[[], object], with_parent: bool = True) -> Callable[[], None]:
    """For `preexec_fn` of such a program: it ends with this process (`with_parent`), cannot inspect
    others, and has `limits`."""
    parent = os.getpid()

    def apply() -> None:
        if with_parent:
            isolation.die_with_parent(parent, signal.SIGKILL)

        isolation.confine()
        for limit in limits:
            limit()

    return apply
