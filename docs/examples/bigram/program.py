"""Learns which character follows which, by counting; writes text with it. No library at all."""

import json
import math
import random
from collections import Counter, defaultdict

from deepextension_run import Run

run = Run()
given = run.parameters
draw = random.Random(given["seed"])

run.phase("preparing data")
texts = []
with open(run.spec["dataset"]["path"], encoding="utf-8") as file:
    for line in file:
        row = json.loads(line)
        texts.append(str(row[run.spec["dataset"]["column_map"].get("text", "text")]))
if len(texts) < 2:
    run.failed("There are fewer than 2 rows.", "Choose a dataset with more rows.")
held_out, texts = texts[: max(1, len(texts) // 10)], texts[max(1, len(texts) // 10) :]
letters = sorted(set("".join(texts + held_out)))

counts = defaultdict(Counter)
steps = given["passes"] * len(texts)
run.started(
    total_steps=steps, steps_per_epoch=len(texts), train_rows=len(texts), eval_rows=len(held_out)
)


def loss_of(text):
    """Mean of minus log-probability over the characters, with every count raised by the
    smoothing."""
    total = 0.0
    for one, other in zip(text, text[1:]):
        seen = counts[one]
        chance = (seen[other] + given["smoothing"]) / (
            sum(seen.values()) + given["smoothing"] * len(letters)
        )
        total -= math.log(chance)

    return total / max(1, len(text) - 1)


def write(start, length=60):
    text = start
    for _ in range(length):
        seen = counts[text[-1]]
        if not seen:
            break

        text += draw.choices(list(seen), list(seen.values()))[0]

    return text


def save():
    table = {one: dict(others) for one, others in counts.items()}
    (run.model_folder / "bigrams.json").write_text(json.dumps(table, ensure_ascii=False))


run.phase("training")
run.sample(0, "before", prompt="T", text=write("T"))
for step in range(1, steps + 1):
    if run.stop_requested:
        save()
        run.stopped(step - 1)
    text = texts[(step - 1) % len(texts)]
    run.metrics(step, epoch=step / len(texts), loss=loss_of(text))
    for one, other in zip(text, text[1:]):
        counts[one][other] += 1
    if step % len(texts) == 0:
        measured = sum(loss_of(text) for text in held_out) / len(held_out)
        run.metrics(step, epoch=step / len(texts), split="eval", eval_loss=measured)

run.phase("saving")
save()
run.sample(0, "after", prompt="T", text=write("T"), step=steps)
print("Counted", sum(sum(others.values()) for others in counts.values()), "pairs of characters.")
run.finished(steps)
