"""Reads and writes the run directory for a custom method, in one file without dependencies. Python
3.8 or newer.

from deepextension_run import Run
run = Run()                          # the directory is the program's argument
run.started(total_steps=100)
run.metrics(step=1, loss=2.3)
if run.stop_requested: ...           # leave soon: save, then run.stopped(step)
run.model_folder                     # write the model here
run.finished(step=100)
"""

import json
import math
import sys
import time
from pathlib import Path


class Run:
    def __init__(self, directory=None):
        self.directory = Path(directory or sys.argv[1])
        self.spec = json.loads((self.directory / "spec.json").read_text(encoding="utf-8"))
        self.parameters = self.spec["parameters"]
        self.seq = 0

    @property
    def stop_requested(self):
        return (self.directory / "stop").exists()

    @property
    def model_folder(self):
        folder = self.directory / "model.tmp"
        folder.mkdir(exist_ok=True)
        return folder

    def emit(self, kind, **values):
        """One event as one whole line: a reader never sees half of it."""
        self.seq += 1
        event = {"v": 1, "seq": self.seq, "time": round(time.time(), 3), "type": kind}
        event.update(values)

        line = json.dumps(event, allow_nan=False) + "\n"
        with (self.directory / "events.jsonl").open("ab", buffering=0) as stream:
            stream.write(line.encode("utf-8"))

    def phase(self, name):
        self.emit("phase", name=name)

    def started(self, total_steps, steps_per_epoch=0, **facts):
        self.emit("started", total_steps=total_steps, steps_per_epoch=steps_per_epoch, **facts)

    def metrics(self, step, epoch=0.0, split="train", **values):
        """Numbers by name; those that are not finite become null. `split`: train, or eval, whose
        names begin with eval_."""
        finite = {}
        for name, value in values.items():
            finite[name] = float(value) if math.isfinite(value) else None

        self.emit("metrics", step=step, epoch=epoch, split=split, values=finite)

    def sample(self, index, stage, prompt, text, step=0, reference=""):
        self.emit(
            "sample",
            index=index,
            stage=stage,
            prompt=prompt,
            text=text,
            step=step,
            reference=reference,
        )

    def finished(self, step, **metrics):
        """The model is whole from here on; the last event."""
        self.model_folder.replace(self.directory / "model")
        self.emit("finished", step=step, metrics=metrics)

    def stopped(self, step):
        """After run.stop_requested; the last event. The program ends with status 3."""
        unfinished = self.directory / "model.tmp"
        if unfinished.exists():
            unfinished.replace(self.directory / "model")

        self.emit("stopped", step=step)
        sys.exit(3)

    def failed(self, message, advice=""):
        """Say why, in words for people; the last event. The program ends with status 1."""
        self.emit("failed", code="custom", message=message, advice=advice)
        sys.exit(1)
