"""Fast paths of training. Each computes what the plain path computes; tests compare the two.

choose.py       which paths a train takes, and what its log says about them
adapter.py      a LoRA layer as one autograd function
norm.py         RMS norm as one autograd function
attention.py    variable-length attention over rows that lie end to end (packing, padding-free)
causal.py       its half-precision attention on a CPU
packing.py      whether a model keeps such rows apart
head.py         log-probabilities of the targets, with their gradient in the forward pass
generation.py   generation with a KV cache: prefill and decode_step
fallback.py     the plain path takes over where a fast one fails
"""
