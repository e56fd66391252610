"""The trainer's other options that recipes offer: those of each recipe, as its entry in
engine.schema.registry names them, are at the end. An option that is missing here is refused.

Each entry holds what the trainer's own field does not say: our help text, bounds, and choices that
need no further library."""

from __future__ import annotations

from typing import Any

Entries = dict[str, dict[str, Any]]

EVERY_TRAINER: Entries = {
    "optim": {
        "help": "The rule by which gradients move the weights.",
        "choices": ["adamw_torch_fused", "adamw_torch", "adafactor", "sgd", "adagrad", "rmsprop"],
    },
    "adam_beta1": {"help": "How long AdamW remembers gradients.", "minimum": 0, "maximum": 0.9999},
    "adam_beta2": {
        "help": "How long AdamW remembers squared gradients.",
        "minimum": 0,
        "maximum": 0.99999,
    },
    "adam_epsilon": {"help": "Keeps AdamW from dividing by zero.", "minimum": 0, "maximum": 0.01},
    "lr_scheduler_type": {
        "help": "Schedules beyond those of the field Schedule, which this replaces.",
        "choices": [
            "linear",
            "cosine",
            "cosine_with_restarts",
            "cosine_with_min_lr",
            "polynomial",
            "constant",
            "constant_with_warmup",
            "inverse_sqrt",
            "warmup_stable_decay",
        ],
    },
    "lr_scheduler_kwargs": {
        "help": 'What the schedule takes besides, such as {"num_cycles": 2} or {"min_lr_rate": '
        "0.1}."
    },
    "warmup_steps": {
        "help": "Steps over which the learning rate climbs, in place of Warm-up. Below 1 it is a "
        "share.",
        "minimum": 0,
        "maximum": 10_000_000,
    },
    "per_device_eval_batch_size": {
        "help": "Rows at once while measuring. Blank: as while training.",
        "default": None,
        "minimum": 1,
        "maximum": 4096,
    },
    "data_seed": {
        "help": "A seed of its own for the trainer's sampling strategies. Blank: the seed.",
        "minimum": 0,
        "maximum": 2**32 - 1,
    },
    "full_determinism": {"help": "On a GPU too, the same seed gives the same train. Slower."},
    "dataloader_drop_last": {"help": "Leave out a last batch that is not full."},
    "dataloader_num_workers": {
        "help": "Processes that prepare batches. 0: none.",
        "minimum": 0,
        "maximum": 16,
    },
    "dataloader_pin_memory": {"help": "Hold batches where a GPU fetches them faster."},
    "torch_compile": {
        "help": "Compile the model before training. Takes minutes, then each step is faster."
    },
    "torch_compile_mode": {
        "help": "How long the compiler looks for faster code.",
        "choices": ["default", "reduce-overhead", "max-autotune"],
    },
    "torch_empty_cache_steps": {
        "help": "Give the GPU's unused memory back after this many steps. Blank: never.",
        "minimum": 1,
        "maximum": 1_000_000,
    },
    "tf32": {
        "help": "Whether the GPU may multiply fp32 with fewer digits. Blank: as it is set up."
    },
}

ROWS: Entries = {
    "activation_offloading": {
        "help": "Hold what the backward pass needs in main memory, to save the GPU's."
    },
    "router_aux_loss_coef": {
        "help": "For mixtures of experts: how strongly to keep all experts busy. Blank: as the "
        "model says.",
        "minimum": 0,
        "maximum": 1,
    },
}

ROW_LOSS: Entries = {
    "loss_type": {
        "help": "nll is the usual loss. dft weighs each token by how likely the model already "
        "finds it.",
        "choices": ["nll", "dft"],
    },
    "label_smoothing_factor": {
        "help": "Takes this share of certainty from the right token and spreads it over all "
        "others.",
        "minimum": 0,
        "maximum": 0.9,
    },
    "packing_strategy": {
        "help": "bfd fits short rows together and cuts long ones, bfd_split splits them, wrapped "
        "ignores row ends.",
        "choices": ["bfd", "bfd_split", "wrapped"],
    },
    "eval_packing": {"help": "Whether held-out rows are packed. Blank: as the training rows."},
    "pad_to_multiple_of": {
        "help": "Pads batches to a multiple of this length, which some GPUs compute faster.",
        "type": "int",
        "default": None,
        "minimum": 1,
        "maximum": 4096,
    },
    "train_sampling_strategy": {
        "help": "The order of rows. Blank: random, with rows of like length in one batch.",
        "default": None,
        "choices": ["random", "sequential", "group_by_length"],
    },
}

REFERENCE: Entries = {
    "disable_dropout": {
        "help": "Switch dropout off, so that the model and its reference are compared alike."
    },
    "sync_ref_model": {
        "help": "Move the reference model along with the trained one. Not with a LoRA adapter."
    },
    "ref_model_mixup_alpha": {
        "help": "How much of the old reference stays at each such move.",
        "minimum": 0,
        "maximum": 1,
    },
    "ref_model_sync_steps": {
        "help": "Steps between two such moves.",
        "minimum": 1,
        "maximum": 10_000_000,
    },
}

PRECOMPUTE: Entries = {
    "precompute_ref_log_probs": {
        "help": "Compute the reference model's answers once, before the train: saves time where "
        "epochs are many."
    },
}

PAIR_LOSS: Entries = {
    "ld_alpha": {
        "help": "Weight of the tokens beyond the shorter answer's length, against a liking for "
        "long answers. Blank: 1.",
        "minimum": 0,
        "maximum": 1,
    },
    "f_divergence_type": {
        "help": "How distance from the reference model is measured.",
        "choices": ["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"],
    },
    "f_alpha_divergence_coef": {"help": "Alpha of alpha_divergence.", "minimum": 0, "maximum": 10},
    "use_weighting": {"help": "Weigh pairs by how likely the model itself would write them (WPO)."},
}

ROLLOUTS: Entries = {
    "top_k": {
        "help": "Choose only among this many likeliest words. 0: all.",
        "minimum": 0,
        "maximum": 1_000_000,
    },
    "min_p": {
        "help": "Choose only words that are at least this likely, as a share of the likeliest.",
        "minimum": 0,
        "maximum": 1,
    },
    "repetition_penalty": {
        "help": "Above 1 the model is kept from saying words again.",
        "minimum": 0.1,
        "maximum": 10,
    },
    "shuffle_dataset": {"help": "Take the prompts in random order."},
    "cast_lm_head_to_fp32": {
        "help": "Compute the output layer in fp32, for steadier probabilities."
    },
    "entropy_coef": {
        "help": "Rewards the model for staying undecided.",
        "minimum": 0,
        "maximum": 1,
    },
}

GROUPS: Entries = {
    "epsilon_high": {
        "help": "The upper clip range, where it differs from the lower.",
        "minimum": 0.01,
        "maximum": 10,
    },
    "delta": {
        "help": "An upper bound for the ratio of probabilities (two-sided clipping).",
        "minimum": 1,
        "maximum": 100,
    },
    "importance_sampling_level": {
        "help": "Whether probabilities are compared by token or by whole answer (GSPO).",
        "choices": ["token", "sequence"],
    },
    "multi_objective_aggregation": {
        "help": "Several rewards: added up and then normalised, or the other way round (GDPO).",
        "choices": ["sum_then_normalize", "normalize_then_sum"],
    },
    "top_entropy_quantile": {
        "help": "Learn only from this share of tokens, the least certain ones.",
        "minimum": 0.01,
        "maximum": 1,
    },
    "num_generations_eval": {
        "help": "Answers to each prompt while measuring. Blank: as while training.",
        "minimum": 1,
        "maximum": 128,
    },
}

SFT: Entries = EVERY_TRAINER | ROWS | ROW_LOSS
DPO: Entries = EVERY_TRAINER | ROWS | REFERENCE | PRECOMPUTE | PAIR_LOSS
KTO: Entries = EVERY_TRAINER | ROWS | REFERENCE | PRECOMPUTE
REWARD: Entries = EVERY_TRAINER | {
    "activation_offloading": ROWS["activation_offloading"],
    "disable_dropout": REFERENCE["disable_dropout"],
}
GRPO: Entries = EVERY_TRAINER | REFERENCE | ROLLOUTS | GROUPS
PPO: Entries = EVERY_TRAINER | REFERENCE | ROLLOUTS

# The trainer's names for what the platform has as parameters of its own.
PARAMETERS_INSTEAD = {
    "per_device_train_batch_size": "batch_size",
    "num_train_epochs": "epochs",
    "max_length": "max_tokens",
    "max_seq_length": "max_tokens",
    "max_completion_length": "max_completion_tokens",
    "max_prompt_length": "max_prompt_tokens",
    "reward_weights": "rewards",
    "warmup_ratio": "warmup_ratio",
    "assistant_only_loss": "answers_only",
    "completion_only_loss": "answers_only",
    "save_steps": "save_every",
    "eval_steps": "evaluation_every",
    "bf16": "precision",
    "fp16": "precision",
}
