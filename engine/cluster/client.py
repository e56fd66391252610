"""A train on a Ray cluster as the platform sees it: one process, which ends with the exit code of
engine/contract/rundir.py, hears SIGTERM and the stop file, and writes the last event where no rank
could."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from engine.cluster.api import ApiRefused, ClusterAway, RayApi
from engine.cluster.driver_log import log_entries
from engine.cluster.jobs import (
    SUCCEEDED,
    JobState,
    job_log,
    job_state,
    job_stop,
    job_submit,
    jobs_end,
)
from engine.cluster.lease import (
    LEASE_SECONDS,
    RENEW_SECONDS,
    STORED_LEASE_SECONDS,
    STORED_RENEW_SECONDS,
    Lease,
    lease_object,
    lease_write,
)
from engine.cluster.order import ORDER, Order
from engine.cluster.run_files import LEASE_PATIENCE_SECONDS
from engine.cluster.secrets import seal, secrets_of
from engine.cluster.state import ClusterState, cluster_state, cpus_a_device
from engine.cluster.versions import versions_here
from engine.cluster.worker import can_be_fewer
from engine.contract.rundir import (
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_STOPPED,
    EventWriter,
    checkpoint_is_whole,
    checkpoint_latest,
    checkpoint_step,
    read_events,
    stop_request,
    stop_requested,
)
from engine.messages.failures import KNOWN_FAILURES, Failure, TrainError, explain
from engine.messages.plural import counted
from engine.run.job import Job
from engine.run.main import fail, job_read, stored_events
from engine.storage.errors import StorageError
from engine.storage.inputs import inputs_put
from engine.storage.pull import OutputsPull
from engine.storage.session import session_forget
from engine.storage.store import Store
from engine.storage.trees import SUMS

ADDRESS = "DEEPEXTENSION_RAY_ADDRESS"
SHARE = "DEEPEXTENSION_RAY_CPUS_PER_DEVICE"
RETURN = "DEEPEXTENSION_RAY_RETURN_SECONDS"
LEASE = "DEEPEXTENSION_RAY_LEASE_SECONDS"
KIND = "DEEPEXTENSION_RAY_KIND"
POLICY = "OMP_WAIT_POLICY"
TOKEN = "RAY_AUTH_TOKEN"  # noqa: S105 - a name
# How long a node that was lost may take to come back before the train goes on with fewer.
RETURN_SECONDS = 60.0

# Ray Train's. It asks its workers so often, leaves their output and their folder alone, does not wait
# long for one that is gone, and starts no processes that nobody asks.
TRAIN_VARIABLES = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "3",
}
TICK_SECONDS = 0.5
ASK_SECONDS = 1.0
# What a train on a GPU can use.
MOST_CPUS_A_GPU = 8
# How long an answer may take. Nobody waits for this process.
ANSWER_SECONDS = 20.0
# How long a cluster may be away at the start, and under a train.
ARRIVING_SECONDS = 60.0
AWAY_SECONDS = 300.0
# How long ranks may take to leave after the last event.
LEAVING_SECONDS = 15.0
# After Ray was asked to stop a job.
STOPPING_SECONDS = 30.0
ENDINGS = {"finished": EXIT_FINISHED, "stopped": EXIT_STOPPED, "failed": EXIT_FAILED}
LOG_TAIL = 4000
# How long the end of a train waits for a storage that is away.
OUTPUTS_SECONDS = 600.0


class Interrupted(Exception):
    """The platform wants this process to end at once."""


@dataclass(frozen=True)
class Settings:
    """`share`: processors a device, 0 for as many as the smallest node has. `lease_seconds`: 0 for what
    is usual. `kind`: of the devices that the train was promised, "" for any."""

    address: str
    token: str
    share: int = 0
    return_seconds: float = RETURN_SECONDS
    lease_seconds: float = 0.0
    kind: str = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Raises TrainError."""
        try:
            return cls(
                environment[ADDRESS].strip(),
                environment.get(TOKEN, "").strip(),
                int(environment.get(SHARE) or 0),
                float(environment.get(RETURN) or RETURN_SECONDS),
                float(environment.get(LEASE) or 0),
                environment.get(KIND, ""),
            )
        except (KeyError, ValueError) as error:
            raise TrainError(
                "bad_cluster", f"The setting of the Ray cluster is wrong: {error}.", OPERATOR
            ) from error


OPERATOR = "Ask your operator."
AWAY_ADVICE = (
    "What was saved until then is whole: resume the train when the cluster is back. "
    "Ask your operator."
)


def run(directory: Path) -> int:
    """Train what `directory`/spec.json says on the cluster of the environment, and return the exit code
    of engine/contract/rundir.py."""
    events = EventWriter.resume(directory, stored_events(directory))
    try:
        settings = Settings.from_environment(os.environ)
        return Client(job_read(directory, events), settings).run()
    except Interrupted:
        # As a second SIGTERM ends any engine.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        return EXIT_FAILED
    except Exception as error:
        with contextlib.suppress(OSError):
            if not isinstance(error, (*KNOWN_FAILURES, ClusterAway)):
                traceback.print_exception(error)

        # Ranks have written some meanwhile.
        events = EventWriter.resume(directory, events.seq)
        return fail(explained(error), directory, events)


def explained(error: Exception) -> Failure:
    if isinstance(error, ClusterAway):
        return Failure("cluster_away", error.message, AWAY_ADVICE)
    if isinstance(error, ApiRefused):
        return Failure("cluster_refuses", f"The Ray cluster refuses the train: {error}", OPERATOR)

    return explain(error)


@dataclass
class Client:
    job: Job
    settings: Settings
    heard: int = 0
    is_submitted: bool = False
    is_running: bool = False
    ending: dict[str, Any] = field(default_factory=dict)
    # Bytes of events that were looked through for the last one, and its type.
    events_read: int = 0
    last_event: str = ""
    terms: int = 0
    name: str = ""
    over: threading.Event = field(default_factory=threading.Event)
    outputs: OutputsPull | None = None
    # For the lease: nobody waits long for that.
    lease_store: Store | None = None

    def __post_init__(self) -> None:
        spec = self.job.spec
        self.name = f"train-{spec.run_id}-{spec.attempt}-{uuid.uuid4().hex[:8]}"
        self.api = RayApi(self.settings.address, self.settings.token, ANSWER_SECONDS)

    def run(self) -> int:
        """Raises TrainError, ClusterAway, ApiRefused and Interrupted."""
        signal.signal(signal.SIGTERM, self._terminate)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))

        state = self._await_cluster()
        earlier = jobs_end(self.api, self._train())
        if earlier:
            self.job.say(f"Ended on the cluster: {', '.join(earlier)}, left by an earlier attempt.")

        session = self._put_inputs()
        order = self._order(state, session)
        self._lease(0)
        renewing = threading.Thread(target=self._renew, daemon=True)
        renewing.start()

        try:
            self._submit(order)
            ended = self._watch_to_end()
        finally:
            self.over.set()
            renewing.join()
            if self.outputs is not None:
                self.outputs.close()

        self._bring_outputs()
        return self._end(ended)

    def _submit(self, order: Order) -> None:
        """An answer that was lost on its way is no refusal: the job may be there all the same."""
        self.is_submitted = True
        deadline = time.monotonic() + AWAY_SECONDS
        while True:
            try:
                job_submit(self.api, self.name, self._train(), self._environment(order))
                return
            except (ApiRefused, ClusterAway) as error:
                if self._is_there():
                    return

                # Ray answers 500 also while its own parts are still starting.
                is_final = isinstance(error, ApiRefused) and error.status < 500
                if is_final or time.monotonic() > deadline:
                    raise

            self._check_interrupted()
            time.sleep(ASK_SECONDS)

    def _is_there(self) -> bool:
        with contextlib.suppress(ClusterAway):
            return job_state(self.api, self.name) is not None

        return False

    def _put_inputs(self) -> str:
        """Have the storage what the train needs. Returns the session there; "" where all nodes share
        this machine's folder. Raises StorageError."""
        store = Store.from_environment()
        if store is None:
            return ""

        directory = self.job.directory
        self.job.say(f"Sending what the train needs to the storage at {store.address}.")
        manifest = inputs_put(store, directory, sums=directory.parent / SUMS)
        self.lease_store = store.with_patience(LEASE_PATIENCE_SECONDS)
        self.outputs = OutputsPull(store, manifest.session, directory, log=_print_bytes)
        self.outputs.start()
        return manifest.session

    def _bring_outputs(self) -> None:
        """Raises StorageError and OSError where the rest cannot be brought."""
        if self.outputs is None:
            return

        self.outputs.finish(OUTPUTS_SECONDS)
        with contextlib.suppress(StorageError):
            session_forget(self.outputs.store, self.outputs.session.name)

    def _train(self) -> str:
        """By which an earlier attempt's job is known as one of the same train."""
        return str(self.job.directory)

    def _await_cluster(self) -> ClusterState:
        deadline = time.monotonic() + ARRIVING_SECONDS
        while True:
            try:
                state = cluster_state(
                    self.settings.address,
                    self.settings.token,
                    cpus_per_device=self.settings.share,
                )
                if state.devices and (self.settings.kind != "cuda" or _has_gpus(state)):
                    return state

                # Nodes come back one by one after the head was restarted.
                what = "GPU" if state.devices else "device"
                raise ClusterAway(f"The Ray cluster at {self.settings.address} has no {what} now.")
            except ClusterAway:
                if time.monotonic() > deadline:
                    raise

            self._check_interrupted()
            time.sleep(TICK_SECONDS)

    def _order(self, state: ClusterState, session: str) -> Order:
        parameters = self.job.parameters
        gpu_nodes = [node for node in state.alive if node.gpus]
        cpus = cpus_a_device(state.nodes, self.settings.share)
        if gpu_nodes:
            cpus = min(MOST_CPUS_A_GPU, *(int(node.cpus) // node.gpus for node in gpu_nodes))

        accumulation = int(getattr(parameters, "gradient_accumulation_steps", 1))
        count = counted(len(state.devices), "device")
        self.job.say(f"Ray cluster at {self.settings.address}, {count}")
        return Order(
            job=self.name,
            directory=str(self.job.directory),
            cluster=urlsplit(self.settings.address).netloc.rpartition("@")[2],
            devices=parameters.devices,
            cpus=cpus,
            gpus=bool(gpu_nodes),
            units=can_be_fewer(self.job.spec, accumulation * parameters.devices),
            first_seq=self.job.events.seq,
            versions=versions_here(),
            lease_seconds=self.settings.lease_seconds or self._usual_lease(),
            return_seconds=self.settings.return_seconds,
            resume_from=self._resume_from(),
            session=session,
            sealed=seal(secrets_of(os.environ), self.settings.token),
        )

    def _resume_from(self) -> str:
        """The checkpoint to resume from where the spec's is gone; "" where it is there. An earlier
        attempt may have trained on without its client, and pruned it."""
        asked = self.job.spec.resume_from
        if asked is None or checkpoint_is_whole(Path(asked), hashes=False):
            return ""

        latest = checkpoint_latest(self.job.directory)
        if latest is None or checkpoint_step(latest) < checkpoint_step(Path(asked)):
            return ""

        self.job.say(f"{Path(asked).name} is gone meanwhile; {latest.name} is newer.")
        return str(latest.relative_to(self.job.directory))

    def _environment(self, order: Order) -> dict[str, str]:
        """Of the job and its workers. Ray shows it to whoever has the token."""
        values = {ORDER: order.to_json(), "HF_HUB_OFFLINE": "1"} | TRAIN_VARIABLES
        if POLICY in os.environ:
            values[POLICY] = os.environ[POLICY]

        return values

    def _usual_lease(self) -> float:
        return LEASE_SECONDS if self.outputs is None else STORED_LEASE_SECONDS

    def _renew(self) -> None:
        count = 1
        pause = RENEW_SECONDS if self.outputs is None else STORED_RENEW_SECONDS
        while not self.over.wait(pause):
            # Where it cannot be written now it is by the next try. Nothing may end this thread: the
            # cluster would end the train.
            with contextlib.suppress(Exception):
                self._lease(count)
                count += 1

    def _lease(self, count: int) -> None:
        lease = Lease(self.name, count, time.time())
        if self.outputs is None or self.lease_store is None:
            lease_write(self.job.directory, lease)
        else:
            name = lease_object(self.outputs.session.name)
            self.lease_store.put_bytes(lease.to_bytes(), name)

    def _watch_to_end(self) -> JobState | None:
        """As _watch. A cluster that is gone after the train's last event costs nothing."""
        try:
            return self._watch()
        except (ApiRefused, ClusterAway):
            if not self._last_event():
                raise

            self.job.say("The Ray cluster is away; the train had ended before.")
            return JobState(SUCCEEDED)

    def _watch(self) -> JobState | None:
        """Until the job has ended; None where it was stopped before its ranks had begun."""
        away_since: float | None = None
        over_since: float | None = None
        while True:
            try:
                state = job_state(self.api, self.name)
                self._hear()
                away_since = None
            except ClusterAway as error:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > AWAY_SECONDS:
                    raise ClusterAway(
                        f"{error.message} It did not come back within {AWAY_SECONDS / 60:.0f} minutes."
                    ) from error

                state = JobState("UNKNOWN")

            if state is None:
                raise ClusterAway(
                    f"The Ray cluster at {self.api.address} was restarted while the train ran."
                )
            if state.is_ended:
                return state

            self._check_interrupted()
            if stop_requested(self.job.directory) and not self.is_running:
                self._stop_job()
                return None

            # Ranks that wait for the first one do not see that it stopped before the first step.
            if self._has_all():
                over_since = over_since or time.monotonic()
                if time.monotonic() - over_since > LEAVING_SECONDS:
                    self._stop_job()
                    return JobState(SUCCEEDED)

            time.sleep(ASK_SECONDS)

    def _hear(self) -> None:
        """Pass on what the driver has told. Without it the train goes on all the same."""
        log = ""
        with contextlib.suppress(ClusterAway):
            log = job_log(self.api, self.name)

        lines = list(log_entries(log))
        for line in lines[self.heard :]:
            if text := line.get("say"):
                self.job.say(str(text))
            if phase := line.get("phase"):
                self.is_running = phase == "running"
            if "ending" in line:
                self.ending = line

        self.heard = max(self.heard, len(lines))

    def _end(self, state: JobState | None) -> int:
        kind = self._last_event()
        if kind:
            for path in self.job.directory.glob("rank-*.log"):
                path.unlink(missing_ok=True)

            return ENDINGS[kind]

        events = EventWriter.resume(self.job.directory, self.job.events.seq)
        if state is None:
            latest = checkpoint_latest(self.job.directory)
            self.job.say("Stopped while no device was training.")
            events.write("stopped", step=checkpoint_step(latest) if latest else 0)
            return EXIT_STOPPED

        return fail(self._failure(state), self.job.directory, events)

    def _last_event(self) -> str:
        """The ending that a rank has written; "" where none has. Reads what is new since the last
        call."""
        first = self.job.events.seq
        while True:
            events, end = read_events(self.job.directory, self.events_read)
            for event in events:
                if event["seq"] > first and event["type"] in ENDINGS:
                    self.last_event = event["type"]

            if end == self.events_read:
                return self.last_event

            self.events_read = end

    def _has_all(self) -> bool:
        """Whether the last event is here, and all that it tells of."""
        return bool(self._last_event()) if self.outputs is None else self.outputs.ended

    def _failure(self, state: JobState) -> Failure:
        # Ray keeps the last lines of the log of a job that failed, where the log itself was not to be
        # had at the end.
        for entry in log_entries(state.message):
            self.ending = self.ending or (entry if "ending" in entry else {})

        if self.ending:
            if log := self.ending.get("log"):
                print(f"\nThe end of the log of rank {self.ending['rank']}:\n{log.rstrip()}")

            return Failure(**self.ending["ending"])

        print(f"\nThe end of the job's log:\n{state.message[-LOG_TAIL:]}", flush=True)
        how = "ended without saying why" if state.status == SUCCEEDED else "was ended"
        return Failure(
            "cluster_ended",
            f"The train's job on the Ray cluster {how} ({state.status.lower()}).",
            "What was saved until then is whole: resume the train. The end of the Train Log shows "
            "what Ray says.",
        )

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        """The first asks for a stop, as the stop file does; one after a stop was asked for already ends
        the train at once."""
        self.terms += 1 if not stop_requested(self.job.directory) else 2
        with contextlib.suppress(OSError):
            stop_request(self.job.directory)

        if self.terms > 1 and not self.is_submitted:
            # Nothing on the cluster needs to be ended.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    def _check_interrupted(self) -> None:
        if self.terms < 2:
            return

        with contextlib.suppress(ClusterAway):
            job_stop(self.api, self.name)

        raise Interrupted

    def _stop_job(self) -> None:
        """And wait until it has ended."""
        job_stop(self.api, self.name)
        deadline = time.monotonic() + STOPPING_SECONDS

        while time.monotonic() < deadline:
            state = job_state(self.api, self.name)
            if state is None or state.is_ended:
                return

            time.sleep(TICK_SECONDS)


def _has_gpus(state: ClusterState) -> bool:
    return any(node.gpus for node in state.alive)


def _print_bytes(content: bytes) -> None:
    """The log of the node, into the train's."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()
