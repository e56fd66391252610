"""What the suite does with transformers 4 and 5 alike; every function runs under both.

    python -m tests.interoperability.reader

answers requests on standard input, one JSON object a line: {"task": name of a function, …} gives
{"result": …} or {"error": traceback}.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors import safe_open
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

Json = dict[str, Any]

# Small enough to make a model of any family in a moment; a family takes those that its config has.
SMALL = {
    "vocab_size": 320,
    "hidden_size": 32,
    "n_embd": 32,
    "d_model": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "n_positions": 128,
    "max_seq_len": 128,
    "num_local_experts": 4,
    "num_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_top_k": 2,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "first_k_dense_replace": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sliding_window": 32,
    "ffn_dim": 48,
    "word_embed_proj_dim": 32,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 320,
    "num_kv_shared_layers": 0,
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_conv": 4,
    "state_size": 8,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "use_mamba_kernels": False,
    "mamba_dt_rank": 4,
    "time_step_rank": 4,
    "lru_width": 32,
}


HALVED = {"halved": True}


def versions() -> Json:
    return {"transformers": transformers.__version__, "peft": peft.__version__}


def kinds() -> list[str]:
    """Model types of all causal language models."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def configs_make(kind: str, wanted: dict[str, Json]) -> list[str]:
    """Write default configs of a family with other values, {folder: values}; returns the folders
    that were written.

    The family must have each of the values, and take it. HALVED instead of values: every number
    that is no whole one.
    """
    maker, made = CONFIG_MAPPING[kind], []
    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
    try:
        plain = maker()
        for folder, given in wanted.items():
            values = _halved(maker, plain) if given == HALVED else given
            if all(hasattr(plain, name) for name in values):
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    config = maker(**values)
                    config.architectures = [names if isinstance(names, str) else names[0]]
                    config.dtype = "bfloat16"
                    config.save_pretrained(folder)
                    made.append(folder)
    except Exception:
        # What a family refuses, or cannot write, is its own affair.
        return made
    return made


def _halved(maker: Any, plain: Any) -> Json:
    found = {}
    for name in inspect.signature(maker.__init__).parameters:
        value = getattr(plain, name, None)
        if isinstance(value, float):
            found[name] = value / 2 or 0.25
    return found


def config_read(folder: str) -> Json:
    """The config as this version understands it."""
    config = AutoConfig.from_pretrained(folder).to_dict()
    for name in ("transformers_version", "_name_or_path"):
        config.pop(name, None)
    return json.loads(json.dumps(config, default=str))


def configs_read(folders: list[str]) -> list[Json]:
    """{"error": …} for one that cannot be read."""
    found = []
    for folder in folders:
        try:
            found.append(config_read(folder))
        except Exception as error:
            found.append({"error": f"{type(error).__name__}: {str(error)[:300]}"})
    return found


def model_make(
    kind: str, folder: str, given: Json, tokenizer: str = "", dtype: str = "float32"
) -> str:
    """A tiny random model as a hub has it, written by this version; returns why there is none, or
    "".

    `tokenizer`: a folder whose tokenizer.json and chat template it gets.
    """
    try:
        maker = CONFIG_MAPPING[kind]
        plain = maker()
        values = {name: value for name, value in SMALL.items() if hasattr(plain, name)}
        values = {name: value for name, value in values.items() if not _is_fixed(maker, name)}
        if layers := getattr(plain, "layer_types", None):
            # One of each kind.
            values["layer_types"] = (list(dict.fromkeys(layers)) * 2)[:2]
        config = maker(**values | given)
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config)
        count = sum(weight.numel() for weight in model.parameters())
        if count > 3_000_000:
            return f"it has {count:,} weights"
        with torch.no_grad():
            # Those that begin as zeros or ones must differ too, or nobody would notice that they
            # are lost.
            for weight in model.parameters():
                weight.add_(0.02 * torch.randn(weight.shape))
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        if tokenizer:
            _tokenizer_make(Path(tokenizer), folder)
        else:
            logits(folder)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return ""


def _is_fixed(maker: Any, name: str) -> bool:
    found = getattr(maker, name, None)
    return isinstance(found, property) and found.fset is None


def _tokenizer_make(source: Path, folder: str) -> None:
    made = PreTrainedTokenizerFast(
        tokenizer_file=str(source / "tokenizer.json"),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = (source / "chat_template.jinja").read_text()
    made.save_pretrained(folder)


def tokens(folder: str, texts: list[str]) -> Json:
    """What the folder's tokenizer makes of texts, and of a question by its template."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Ball 7?"}], tokenize=False, add_generation_prompt=True
    )
    return {
        "ids": [tokenizer(text)["input_ids"] for text in texts],
        "asked": asked,
        "asked_ids": tokenizer(asked, add_special_tokens=False)["input_ids"],
        "ends": [tokenizer.eos_token, tokenizer.pad_token],
        "decoded": [
            tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])
            for text in texts
        ],
    }


def load(folder: str, base: str = "", *, scorer: bool = False) -> tuple[Any, list[str]]:
    """(the model of a folder, names of weights that did not fit)."""
    maker = AutoModelForSequenceClassification if scorer else AutoModelForCausalLM
    if not base:
        model, loading = maker.from_pretrained(folder, output_loading_info=True)
        return model.eval(), sorted({*loading["missing_keys"], *loading["unexpected_keys"]})
    options = {"num_labels": 1, "pad_token_id": 0} if scorer else {}
    model = peft.PeftModel.from_pretrained(maker.from_pretrained(base, **options), folder)
    if (Path(folder) / "generation_config.json").exists() and not scorer:
        model.generation_config = GenerationConfig.from_pretrained(folder)
    with safe_open(Path(folder) / "adapter_model.safetensors", "pt") as file:
        written = set(file.keys())
    odd = written ^ set(peft.get_peft_model_state_dict(model, save_embedding_layers=False))
    return model.eval(), sorted(odd)


@torch.no_grad()
def logits(
    folder: str, base: str = "", *, scorer: bool = False, ids: list[int] | None = None
) -> Json:
    """Numbers of the last position, and the weights that did not fit."""
    model, odd = load(folder, base, scorer=scorer)
    given = torch.tensor([ids or list(range(3, 23))])
    found = model(
        input_ids=given, attention_mask=torch.ones_like(given), use_cache=False
    ).logits.float()
    row = found[0] if scorer else found[0, -1]
    return {"logits": row.tolist(), "odd": odd, "dtype": str(next(model.parameters()).dtype)}


def answers(
    folder: str, prompts: list[list[int]], base: str = "", new: int = 24
) -> list[list[int]]:
    """Greedy answers, token by token, with the settings that lie in the folder."""
    model, _ = load(folder, base)
    found = []
    for ids in prompts:
        given = torch.tensor([ids])
        made = model.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=new,
            do_sample=False,
        )
        found.append(made[0, len(ids) :].tolist())
    return found


def generation_settings(folder: str) -> Json:
    """Those that this version knows, as it understands them."""
    return GenerationConfig.from_pretrained(folder).to_dict()


def card_run(folder: str, base: str = "") -> str:
    """Run the first code block of the folder's model card inside the folder; what it prints."""
    card = (Path(folder) / "README.md").read_text()
    code = re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)[0]
    if base:
        assert 'base_path = "path/to/the/base/model"' in code
        code = code.replace("path/to/the/base/model", base)
    before, printed = Path.cwd(), io.StringIO()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    finally:
        os.chdir(before)
    return printed.getvalue()


TASKS = {
    task.__name__: task
    for task in (
        versions,
        kinds,
        configs_make,
        configs_read,
        model_make,
        tokens,
        logits,
        answers,
        generation_settings,
        card_run,
    )
}


def main() -> None:
    transformers.logging.set_verbosity_error()
    # Libraries print now and then; only answers belong on the pipe.
    pipe, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"result": TASKS[request.pop("task")](**request)}
        except BaseException:
            reply = {"error": traceback.format_exc()}
        pipe.write(json.dumps(reply) + "\n")
        pipe.flush()


if __name__ == "__main__":
    main()
