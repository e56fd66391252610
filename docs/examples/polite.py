"""A reward of one's own: polite words, as many as are asked for."""

WORDS = ("please", "thank you", "you are welcome", "sorry")


def reward(prompts, completions, references, rows, *, enough=2, **parameters):
    return [min(1.0, sum(word in text.lower() for word in WORDS) / enough) for text in completions]
