"""`python -m tests.storage.node SESSION CACHE DIRECTORY`: what a node does for a train of one rank."""

import os
import sys
from dataclasses import replace
from pathlib import Path

from engine.contract.rundir import LOG, checkpoint_latest, write_spec
from engine.run.main import run
from engine.storage.inputs import inputs_fetch, manifest_read
from engine.storage.push import OutputsPush
from engine.storage.store import Store


def main(session: str, cache: Path, directory: Path) -> int:
    store = Store.from_environment()
    assert store is not None
    with inputs_fetch(store, manifest_read(store, session), cache) as inputs:
        push = OutputsPush.begin(store, session, directory)
        spec = inputs.spec(directory)
        latest = checkpoint_latest(directory)
        if latest is not None:
            spec = replace(spec, attempt=spec.attempt + 1, resume_from=str(latest))

        write_spec(directory, spec)
        log = os.open(directory / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)

        push.rounds.pause = push.requests.pause = 0.05
        push.start()
        code = run(directory)
        push.close()
        return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
