"""Whether a model that was written still is the model that was trained.

questions.py   what to ask: the train's held-out rows, as tokens
evidence.py    what a model answers: greedy answers, log-probabilities, scores
checks.py      the comparisons, each with a verdict and its figures in words
__main__.py    the program
"""
