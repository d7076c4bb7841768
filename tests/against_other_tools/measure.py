"""Measures one published configuration, built small: other tools' logits and greedy text are ours.

`python -m tests.against_other_tools.measure` measures all and writes the table of specs/interop.md.
"""

import json
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hermes.errors import HermesError
from hermes.inference.decoding import generate_tokens
from hermes.inference.sampling import Sampling
from hermes.interface import Options, find_backend
from hermes.interop.companions import open_tokenizer
from hermes.interop.convert import convert
from hermes.interop.huggingface.families import find_family
from hermes.interop.huggingface.reader_support import judge_readers
from hermes.interop.open_model import open_model
from tests.against_other_tools.small_models import (
    CONFIGURATIONS,
    PROMPT,
    TOKENS,
    WIDTH,
    randomize,
    shrink,
)
from tests.against_other_tools.support import distance
from tests.finetuning.support import small_tokenizer

PAGE = Path(__file__).parents[2] / "specs" / "interop.md"
BEGIN, END = "<!-- made by tests/against_other_tools/measure.py -->", "<!-- end -->"
CONTINUED = 32

# model_types of code in the models' repositories, and where the same function is to be had: a class
# of transformers with these fields, or mlx-lm.
STAND_INS = {
    "internlm": {"model_type": "llama", "attention_bias": True},
    "orion": {"model_type": "stablelm", "partial_rotary_factor": 1.0, "layer_norm_eps": 1e-5},
    "internlm3": {"model_type": "llama"},
    "internlm2": "mlx-lm",
    "exaone": "mlx-lm",
    "minicpm": "mlx-lm",
    "qwen": "mlx-lm",
    "phi-msft": {"model_type": "phi", "intermediate_size": 4 * WIDTH, "hidden_act": "gelu_new"},
    "baichuan": {"model_type": "llama"},
    "chatglm": {"model_type": "glm", "partial_rotary_factor": 0.5},
}
# Names that the stand-in has for fields.
FIELDS = {
    "phi-msft": {
        "n_embd": "hidden_size",
        "n_head": "num_attention_heads",
        "n_layer": "num_hidden_layers",
        "n_positions": "max_position_embeddings",
        "layer_norm_epsilon": "layer_norm_eps",
    },
    "chatglm": {
        "num_layers": "num_hidden_layers",
        "padded_vocab_size": "vocab_size",
        "seq_length": "max_position_embeddings",
        "ffn_hidden_size": "intermediate_size",
        "kv_channels": "head_dim",
        "layernorm_epsilon": "rms_norm_eps",
        "multi_query_group_num": "num_key_value_heads",
        "add_qkv_bias": "attention_bias",
    },
}
# Names in the files, to the stand-in's: several are one matrix, one after another.
STORED = {
    "phi-msft": {
        "transformer.embd.wte": "model.embed_tokens",
        "transformer.h.{i}.ln": "model.layers.{i}.input_layernorm",
        "transformer.h.{i}.mixer.Wqkv": "model.layers.{i}.self_attn.q_proj "
        "model.layers.{i}.self_attn.k_proj model.layers.{i}.self_attn.v_proj",
        "transformer.h.{i}.mixer.out_proj": "model.layers.{i}.self_attn.dense",
        "transformer.h.{i}.mlp.fc1": "model.layers.{i}.mlp.fc1",
        "transformer.h.{i}.mlp.fc2": "model.layers.{i}.mlp.fc2",
        "lm_head.ln": "model.final_layernorm",
        "lm_head.linear": "lm_head",
    },
    "chatglm": {
        "transformer.embedding.word_embeddings": "model.embed_tokens",
        **{
            f"transformer.encoder.layers.{{i}}.{theirs}": f"model.layers.{{i}}.{ours}"
            for theirs, ours in (
                ("input_layernorm", "input_layernorm"),
                ("post_attention_layernorm", "post_attention_layernorm"),
                ("self_attention.dense", "self_attn.o_proj"),
                ("mlp.dense_h_to_4h", "mlp.gate_up_proj"),
                ("mlp.dense_4h_to_h", "mlp.down_proj"),
            )
        },
        "transformer.encoder.layers.{i}.self_attention.query_key_value": " ".join(
            f"model.layers.{{i}}.self_attn.{name}_proj" for name in "qkv"
        ),
        "transformer.encoder.final_layernorm": "model.norm",
        "transformer.output_layer": "lm_head",
    },
    "baichuan": {
        "model.layers.{i}.self_attn.W_pack": "model.layers.{i}.self_attn.q_proj "
        "model.layers.{i}.self_attn.k_proj model.layers.{i}.self_attn.v_proj",
    },
}


def has_unit_head(config):
    """Whether the head has rows of length 1, whatever their length in the file."""
    return config["model_type"] == "baichuan" and config["vocab_size"] == 125_696


def has_alibi(config):
    """Whether it is the Baichuan with ALiBi, of which the stand-in has all the rest."""
    return config["model_type"] == "baichuan" and "max_position_embeddings" not in config


def compute_with_alibi(model, ids, prompt):
    """Logits and greedy ids of a Llama that has Bloom's ALiBi in place of its rotation."""
    import torch
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    def compute(ids):
        rows, length = ids.shape
        heads = model.config.num_attention_heads
        bias = build_alibi_tensor(torch.ones_like(ids), heads, torch.float32)
        future = torch.full((length, length), -1e30).triu(1)
        mask = bias.view(rows, heads, 1, length) + future
        # Where all positions are 0, nothing turns.
        return model(input_ids=ids, attention_mask=mask, position_ids=torch.zeros_like(ids)).logits

    with torch.no_grad():
        logits, made = compute(ids).numpy(), prompt
        for _ in range(CONTINUED):
            made = torch.cat([made, compute(made)[:, -1:].argmax(-1)], dim=1)
    return logits, made[0, prompt.shape[1] :].tolist()


def store_as_published(folder, config):
    """Give the stand-in's tensors the names of the published files."""
    import torch
    from safetensors.torch import load_file, save_file

    own, stored = load_file(folder / "model.safetensors"), {}
    layers = config.get("n_layer") or config.get("num_layers") or config["num_hidden_layers"]
    for name, theirs in STORED[config["model_type"]].items():
        for i in range(layers if "{i}" in name else 1):
            for kind in ("weight", "bias"):
                parts = [f"{part}.{kind}".replace("{i}", str(i)) for part in theirs.split()]
                if parts[0] in own:
                    whole = torch.cat([own.pop(part) for part in parts])
                    stored[f"{name}.{kind}".replace("{i}", str(i))] = whole
    assert not own or config["model_type"] == "baichuan"
    if has_unit_head(config):
        own["lm_head.weight"] *= 0.5 + torch.rand(len(own["lm_head.weight"]), 1)
    save_file(own | stored, folder / "model.safetensors")


@dataclass
class Measured:
    """What came of one configuration. errors: of logits, by backend, against the other tool's."""

    name: str
    family: str = ""
    oracle: str = "transformers"
    refused: str = ""
    errors: dict = field(default_factory=dict)
    same_ids: dict = field(default_factory=dict)
    same_text: dict = field(default_factory=dict)
    written: str = ""
    back: float | None = None
    mlx_lm: str = ""


def read_prompt(folder):
    """Give a folder the small tokenizer; what transformers reads of it, and its ids of the prompt.

    A folder has what hermes writes beside a model: no key of these says how text is read.
    """
    import transformers

    (folder / "tokenizer.json").write_text(small_tokenizer().to_json())
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    return theirs, theirs(PROMPT, add_special_tokens=False)["input_ids"]


def build_with_transformers(config, folder):
    """Their model of a configuration, saved with loud weights; its logits and greedy ids."""
    import torch
    import transformers

    stand_in = STAND_INS.get(config["model_type"])
    renamed = FIELDS.get(config["model_type"], {})
    seen = {renamed.get(name, name): value for name, value in config.items() if name != "auto_map"}
    (folder / "theirs").mkdir()
    (folder / "theirs" / "config.json").write_text(json.dumps(seen | (stand_in or {})))
    theirs = transformers.AutoConfig.from_pretrained(folder / "theirs")
    if getattr(theirs, "text_config", None) is not None and "text_config" in config:
        model = getattr(transformers, config["architectures"][0])(theirs)
    else:
        model = transformers.AutoModelForCausalLM.from_config(theirs)
    randomize(model, torch).set_attn_implementation("eager")
    if has_unit_head(config):
        weight = model.lm_head.weight
        weight.data = torch.nn.functional.normalize(weight.data)
    model.save_pretrained(folder / "theirs")
    if config["model_type"] in STORED:
        store_as_published(folder / "theirs", config)
    ids, prompt = torch.tensor(TOKENS), torch.tensor([read_prompt(folder / "theirs")[1]])
    if has_alibi(config):
        return compute_with_alibi(model, ids, prompt)
    with torch.no_grad():
        logits = model(input_ids=ids).logits.numpy()
        model.generation_config.eos_token_id = None
        made = model.generate(
            input_ids=prompt, max_new_tokens=CONTINUED, do_sample=False, pad_token_id=0
        )
    return logits, made[0, prompt.shape[1] :].tolist()


def build_with_mlx_lm(config, folder):
    """The same with mlx-lm, for classes that transformers lacks."""
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map
    from mlx_lm.utils import _get_classes

    classes, arguments = _get_classes(config)
    (folder / "theirs").mkdir()
    with mx.stream(mx.cpu):
        mx.random.seed(0)
        # MiniCPM's own code rotates with 10,000 where its config names no theta; mlx-lm does not.
        model = classes(arguments.from_dict({"rope_theta": 10_000.0} | config))
        model.update(tree_map(lambda w: w + mx.random.normal(w.shape) * 0.25, model.parameters()))
        weights = dict(tree_flatten(model.parameters()))
        mx.save_safetensors(str(folder / "theirs" / "model.safetensors"), weights)
        logits = np.array(model(mx.array(TOKENS)).astype(mx.float32))
        if config["model_type"] == "minicpm" and config.get("tie_word_embeddings"):
            # MiniCPM's own code has this factor here, too; mlx-lm leaves it out.
            logits = logits * config["dim_model_base"] / config["hidden_size"]
        prompt = read_prompt(folder / "theirs")[1]
        ids = list(prompt)
        for _ in range(CONTINUED):
            ids.append(int(np.array(model(mx.array([ids]))[0, -1].astype(mx.float32)).argmax()))
    return logits, ids[len(prompt) :]


def measure_backends(found, source, params, logits, ids, theirs):
    """Logits, and the prompt's continuation as ids and as text, each by its own tokenizer."""
    spec, tokenizer = source.spec, open_tokenizer(source.files, source.ids, source.path)
    for name in ("numpy", "torch", "mlx"):
        precision = "float64" if name == "numpy" else "float32"
        model = find_backend(name).build(spec, params, Options(device="cpu", precision=precision))
        found.errors[name] = distance(model.logits(TOKENS), logits)
        if name != "numpy":
            made = generate_tokens(
                model,
                tokenizer.encode(PROMPT),
                max_tokens=CONTINUED,
                sampling=Sampling(0.0, 0, 1.0, 0.0),
                seed=0,
                completion=0,
                stop=frozenset(),
                vocab_size=spec.vocab_size,
            )
            made = list(made)
            found.same_ids[name] = made == ids
            # Baichuan 2 has more rows than the tokenizer tokens.
            said = theirs.decode([i for i in ids if i < len(theirs)], skip_special_tokens=False)
            known = [i for i in made if i < tokenizer.vocab_size]
            found.same_text[name] = tokenizer.decode(known, skip_special=False) == said


def measure_back(found, spec, folder, logits):
    """What `convert --to hf` writes, in transformers and in mlx-lm."""
    import torch
    import transformers

    if find_family(spec, renamed=True) == "hermes":
        found.written, found.mlx_lm = "no class", "not expressible"
        return
    done = convert(folder / "theirs", folder / "back", to="hf", backend="numpy")
    found.written = done.architecture
    # Its eager attention adds Falcon's ALiBi twice.
    plain = {} if spec.name == "falcon" else {"attn_implementation": "eager"}
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "back", output_loading_info=True, **plain
    )
    assert {key: value for key, value in info.items() if value} == {}
    with torch.no_grad():
        again = model.eval()(input_ids=torch.tensor(TOKENS)).logits.numpy()
    found.back = distance(again, logits)
    found.mlx_lm = dict(judge_readers(done.source.spec, converted=True))["mlx-lm"]
    if found.mlx_lm == "exact":
        import mlx.core as mx
        from mlx_lm import utils

        with mx.stream(mx.cpu):
            theirs, _ = utils.load_model(folder / "back")
            found.mlx_lm = f"{distance(np.array(theirs(mx.array(TOKENS))), logits):.0e}"


def measure(name):
    """Measure one configuration by its name."""
    config = shrink(CONFIGURATIONS[name])
    found = Measured(name)
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(place)
        (folder / "published").mkdir()
        (folder / "published" / "config.json").write_text(json.dumps(config))
        try:
            open_model(folder / "published")
        except HermesError as error:
            if "has no model.safetensors" not in str(error):
                found.refused = str(error)
                return found
        by_mlx = STAND_INS.get(config["model_type"]) == "mlx-lm"
        found.oracle = "mlx-lm" if by_mlx else "transformers"
        build = build_with_mlx_lm if by_mlx else build_with_transformers
        logits, ids = build(config, folder)
        (folder / "theirs" / "config.json").write_text(json.dumps(config))
        source = open_model(folder / "theirs")
        found.family = source.spec.name
        params = {key: source.params[key] for key in source.params}
        theirs = read_prompt(folder / "theirs")[0]
        measure_backends(found, source, params, logits, ids, theirs)
        measure_back(found, source.spec, folder, logits)
    return found


def render(rows):
    """The table in Markdown."""
    head = "| configuration | reader | against | torch | mlx | text | `--to hf` | back | mlx-lm |"
    lines = [head, "|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        if row.refused:
            why = row.refused.replace("config.json: ", "").split(", so hermes")[0]
            lines.append(f"| {row.name} | refused: {why.replace('|', '/')} | | | | | | | |")
            continue
        text = "equal" if all(row.same_text.values()) else "differs"
        torch, mlx = (f"{row.errors[name]:.0e}" for name in ("torch", "mlx"))
        back = "" if row.back is None else f"{row.back:.0e}"
        theirs = row.mlx_lm.split(":")[0].split(" because")[0]
        lines.append(
            f"| {row.name} | {row.family} | {row.oracle} | {torch} | {mlx} | {text} | "
            f"{row.written.removesuffix('ForCausalLM')} | {back} | {theirs} |"
        )
    return "\n".join(lines)


def main():
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows = []
    for name in sys.argv[1:] or CONFIGURATIONS:
        rows.append(measure(name))
        print(render(rows[-1:]).splitlines()[-1], flush=True)
    page = PAGE.read_text(encoding="utf-8")
    if not sys.argv[1:] and BEGIN in page:
        first, rest = page.split(BEGIN)
        last = rest.split(END)[1]
        PAGE.write_text(f"{first}{BEGIN}\n\n{render(rows)}\n\n{END}{last}", encoding="utf-8")


if __name__ == "__main__":
    main()
