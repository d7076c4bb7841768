"""Training loops of others for the same model and batch: those that this machine has.

torch: the loop that nanoGPT has, for a Llama with grouped queries, transformers and litgpt. MLX:
the loop of mlx-lm's trainer around its Llama. A setting says which of them are compiled.
"""

import importlib
import importlib.util

import numpy as np

LR = 3e-4
# The peers of each backend, and the package that each needs.
PEERS = {
    "torch": {"nanoGPT-like": "torch", "transformers": "transformers", "litgpt": "litgpt"},
    "mlx": {"mlx-lm": "mlx_lm"},
}


def make_config(spec):
    """The model as a Llama's config.json has it, for transformers and mlx-lm."""
    attention, ffn = spec.layers[0].attention, spec.layers[0].ffn
    return {
        "hidden_size": spec.hidden_size,
        "num_hidden_layers": spec.num_layers,
        "intermediate_size": ffn.hidden_size,
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_size,
        "rms_norm_eps": 1e-5,
        "vocab_size": spec.vocab_size,
        "max_position_embeddings": spec.max_seq_len,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }


def list_peers(backend, *, installed=True):
    """The names of the peers of a backend that this Python has, or of those that it has not."""
    return [
        name for name, package in PEERS[backend].items()
        if (importlib.util.find_spec(package) is not None) == installed
    ]  # fmt: skip


def make_peer_step(name, setting, spec, batch):
    """A function of a peer that takes one update and waits for its loss."""
    makers = {
        "nanoGPT-like": make_nano_step,
        "transformers": make_transformers_step,
        "litgpt": make_litgpt_step,
        "mlx-lm": make_mlx_lm_step,
    }
    return makers[name](setting, spec, batch)


def compile_peer(setting, name, module):
    """The module, compiled where its own documentation says so, for each shape by itself."""
    import torch

    return torch.compile(module, dynamic=False) if setting.is_compiled(name) else module


def make_torch_step(setting, module, compute_loss):
    """One update of a torch module: autocast, backward, clipping, fused AdamW."""
    import torch

    optimizer = torch.optim.AdamW(module.parameters(), lr=LR, betas=(0.9, 0.95), fused=True)
    kind = torch.device(setting.device).type

    def step():
        with torch.autocast(kind, torch.bfloat16, enabled=setting.precision == "bfloat16"):
            loss = compute_loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def make_nano_step(setting, spec, batch):
    """nanoGPT's loop around a Llama as it is usually written."""
    import torch
    from device_llama import Llama

    device = torch.device(setting.device)
    module = Llama(spec, setting.length).to(device)
    tokens, targets = (
        torch.from_numpy(np.array(x[0])).long().to(device) for x in (batch.tokens, batch.targets)
    )
    compiled = compile_peer(setting, "nanoGPT-like", module)
    return make_torch_step(setting, module, lambda: compiled(tokens, targets))


def make_transformers_step(setting, spec, batch):
    """transformers' own Llama, by its loss."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    device = torch.device(setting.device)
    module = LlamaForCausalLM(LlamaConfig(**make_config(spec))).to(device)
    tokens = torch.from_numpy(np.array(batch.tokens[0])).long().to(device)
    compiled = compile_peer(setting, "transformers", module)
    return make_torch_step(
        setting, module, lambda: compiled(input_ids=tokens, labels=tokens, use_cache=False).loss
    )


def make_litgpt_step(setting, spec, batch):
    """litgpt's own model with a Llama's configuration, and the loss of its pretraining."""
    import torch
    from litgpt.model import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    attention, ffn, device = spec.layers[0].attention, spec.layers[0].ffn, setting.device
    config = Config(
        block_size=setting.length, vocab_size=spec.vocab_size, padded_vocab_size=spec.vocab_size,
        n_layer=spec.num_layers, n_head=attention.num_heads, n_embd=spec.hidden_size,
        n_query_groups=attention.kv_heads, head_size=attention.head_size, rotary_percentage=1.0,
        parallel_residual=False, bias=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP",
        intermediate_size=ffn.hidden_size, norm_eps=1e-5,
    )  # fmt: skip
    module = GPT(config).to(device)
    module.lm_head.weight = module.transformer.wte.weight
    tokens, targets = (
        torch.from_numpy(np.array(x[0])).long().to(device) for x in (batch.tokens, batch.targets)
    )
    compiled = compile_peer(setting, "litgpt", module)
    return make_torch_step(
        setting, module, lambda: chunked_cross_entropy(compiled(tokens), targets, chunk_size=0)
    )


def make_mlx_lm_step(setting, spec, batch):
    """The loop of mlx-lm's trainer: its model in the precision of products, AdamW."""
    importlib.import_module("hermes_mlx")  # first: on Linux both then have the same BLAS
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim
    from mlx_lm.models import llama

    model = llama.Model(llama.ModelArgs(model_type="llama", **make_config(spec)))
    model.set_dtype(getattr(mx, setting.precision))
    optimizer = optim.AdamW(LR, betas=[0.9, 0.95])
    tokens, targets = (mx.array(np.array(x[0])) for x in (batch.tokens, batch.targets))

    def compute_loss(model, tokens, targets):
        logits = model(tokens).astype(mx.float32)
        return nn.losses.cross_entropy(logits, targets).mean()

    state = [model.state, optimizer.state, mx.random.state]

    def update(tokens, targets):
        loss, grads = nn.value_and_grad(model, compute_loss)(model, tokens, targets)
        optimizer.update(model, optim.clip_grad_norm(grads, 1.0)[0])
        return loss

    if setting.is_compiled("mlx-lm"):
        update = mx.compile(update, inputs=state, outputs=state)

    def step():
        with mx.stream(mx.Device(mx.gpu if setting.device == "gpu" else mx.cpu)):
            loss = update(tokens, targets)
            mx.eval(state, loss)
        return loss.item()

    return step
