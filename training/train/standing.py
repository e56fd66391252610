"""What a train is doing, in sentences that hold for its status, phase and step. Pages and API read
them here."""

from __future__ import annotations

from core.text import counted
from jobs.devices.sharing import loaded_on
from training.models import TrainRun

Status = TrainRun.Status

# Before the first step and, where that is another matter, after it.
PHASES = {
    "": ("The engine is starting.", "The engine is starting."),
    "starting": ("The engine is starting.", "The engine is starting."),
    "loading model": ("The base model is being loaded.", "The base model is being loaded."),
    "preparing data": ("The rows are being read and tokenised.",) * 2,
    "answering": (
        "The base model is answering the sample prompts.",
        "The trained model is answering the sample prompts.",
    ),
    "evaluating": (
        "The model is being measured on held-out rows, before its first step.",
        "The model is being measured on held-out rows.",
    ),
    "training": ("The first step is under way.", "It is training."),
    "saving": ("It is being saved.", "It is being saved."),
}


def activity_of(run: TrainRun, reason: str = "") -> str:
    """What the train does now, as one sentence; "" for one that has ended. reason: why it waits,
    see training.work.reasons."""
    if run.ended:
        return ""

    if run.status == Status.QUEUED:
        if reason:
            return reason
        if run.step:
            return f"It waits to resume; step {run.step:,} is done."

        return "It waits for its turn."

    if run.status == Status.STOPPING:
        return stop_effect(run)

    first, later = PHASES.get(run.phase, (f"{run.phase.capitalize()}.",) * 2)
    return later if run.step else first


def beside_of(run: TrainRun) -> str:
    """What else uses the train's devices now, as one sentence; "" for nothing that is known."""
    if run.status not in TrainRun.ACTIVE or run.cluster:
        return ""

    loaded = loaded_on(run.host) & {str(device.get("identity", "")) for device in run.devices}
    if not loaded:
        return ""
    if (run.facts.get("device") or {}).get("kind") == "cuda":
        return (
            "A model is loaded on the same GPU. Its answers take memory and time from this train."
        )

    return "A model is loaded on the same device. It answers in the time that this train leaves."


def stop_effect(run: TrainRun) -> str:
    """What a stop of this running train does, or is doing."""
    if run.discards:
        return "It ends where it is. Nothing more is saved."
    if run.method.is_custom:
        return "Its program has been asked to save and end."
    if not run.step:
        return "It ends before its first step, so there is nothing to save."
    if run.phase == "answering":
        return "It is trained and saved, and ends after its sample answers."

    if 0 < run.total_steps <= run.step:
        return (
            "It has made its last step, and ends once it is saved and has answered the sample "
            "prompts."
        )

    return "It finishes its step, saves a checkpoint and the model, and ends."


def place_of_end(run: TrainRun) -> str:
    """Where a train that did not finish came to."""
    if run.total_steps and run.step:
        return f"At step {run.step:,}"
    if run.step:
        return f"After {counted(run.step, 'step')}"

    return "Before the first step" if run.first_started_at else "In the queue"
