"""Parts that one family alone has: see `parts`."""

from dataclasses import dataclass
from typing import Any

from hermes.interop.huggingface.draft import Draft, View
from hermes.interop.huggingface.fields import Fields
from hermes.interop.huggingface.parts import Config, Unfit

__all__ = [
    "AttentionMultiplier",
    "EmbeddingNorm",
    "FalconHeads",
    "GroupedQueries",
    "LocalLayers",
    "MiniCpmScales",
    "MptAttention",
    "ParallelShared",
    "QwenSizes",
]


@dataclass(frozen=True)
class EmbeddingNorm:
    """Bloom's norm of embeddings, which is as the others."""

    def read(self, fields: Fields, draft: Draft) -> None:
        """Set it; the norm must have been read."""
        draft["embeddings.norm"] = draft["norm"]

    def write(self, view: View) -> Config:
        """Write nothing."""
        return {}


@dataclass(frozen=True)
class AttentionMultiplier:
    """Granite's factor of scores, which is 1 in the class."""

    name: str = "attention_multiplier"

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read it; None in MAL where it is the usual 1 / sqrt(D)."""
        value = fields.take_number(self.name)
        scale = 1.0 if value is None else value
        draft["attention.scale"] = None if scale == draft.head_size**-0.5 else scale

    def write(self, view: View) -> Config:
        """Write it."""
        return {self.name: view.block.attention.score_scale}


@dataclass(frozen=True)
class LocalLayers:
    """GPT-Neo's attention_types: global layers, and local ones with a window."""

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read the kinds and expand them."""
        types, window = fields.take("attention_types"), fields.take_size("window_size", 256)
        fields.take("attention_layers")  # the same, expanded
        kinds: list[str] = []
        usual: Any = [[["global", "local"], 12]]
        try:
            for names, times in usual if types is None else types:
                kinds += list(names) * int(times)
        except (TypeError, ValueError):
            fields.refuse("attention_types", types)
        if len(kinds) != draft["num_layers"] or set(kinds) - {"global", "local"}:
            fields.refuse("attention_types", types)
        draft.windows = [window if kind == "local" else None for kind in kinds]

    def write(self, view: View) -> Config:
        """Write the kinds of all layers as one entry."""
        kinds = ["global" if window is None else "local" for window in view.windows]
        return {
            "attention_types": [[kinds, 1]],
            "attention_layers": kinds,
            "window_size": view.window or 256,
        }


@dataclass(frozen=True)
class FalconHeads:
    """Falcon's two architectures: key/value heads, and the norms of parallel blocks."""

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read the flags."""
        heads = draft["attention.num_heads"]
        given = fields.take_size("num_kv_heads", heads)
        new = fields.take_flag("new_decoder_architecture", False)
        single = fields.take_flag("multi_query", True) and not new
        parallel = fields.take_flag("parallel_attn", True)
        norms = fields.take_size("num_ln_in_parallel_attn", 2 if new else 1)
        if new and not parallel:
            fields.refuse("parallel_attn", parallel)
        if norms > 2 or (norms == 2 and not new):
            fields.refuse("num_ln_in_parallel_attn", norms)
        draft["attention.num_kv_heads"] = 1 if single else given
        draft["block.parallel"] = parallel
        draft["block.shared_norm"] = parallel and norms == 1

    def write(self, view: View) -> Config:
        """Write the flags; two norms of a parallel block are of the new architecture."""
        block, heads = view.block, view.block.attention.num_heads
        keys, two = block.attention.kv_heads, block.parallel and not block.shared_norm
        new = two or keys not in (1, heads)
        config: Config = {
            "num_kv_heads": keys,
            "multi_query": keys == 1,
            "new_decoder_architecture": new,
            "parallel_attn": block.parallel,
        }
        return config | ({"num_ln_in_parallel_attn": 2 if two else 1} if new else {})


@dataclass(frozen=True)
class ParallelShared:
    """A flag of parallel blocks, both of whose sublayers read one norm."""

    name: str

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read the flag."""
        draft["block.parallel"] = fields.take_flag(self.name, False)
        draft["block.shared_norm"] = draft["block.parallel"]

    def write(self, view: View) -> Config:
        """Write the flag."""
        return {self.name: view.block.parallel}


@dataclass(frozen=True)
class MiniCpmScales:
    """MiniCPM's three factors: of embeddings, of what sublayers add, and of the head's input."""

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read them; the numbers of layers and of channels must have been read."""
        embedding, depth = fields.take_number("scale_emb"), fields.take_number("scale_depth")
        base = fields.take_number("dim_model_base")
        draft["embeddings.scale"] = embedding
        if depth is not None:
            draft["block.residual_scale"] = depth / draft["num_layers"] ** 0.5
        if base is not None:
            draft["output.scale"] = base / draft["hidden_size"]

    def write(self, view: View) -> Config:
        """Refuse: no release of other tools writes this class."""
        raise Unfit("MiniCPM is read only")


@dataclass(frozen=True)
class QwenSizes:
    """Qwen 1's: the length up to which nothing of its attention changes, and halves of a network.

    Beyond seq_length use_dynamic_ntk and use_logn_attn change it; intermediate_size counts both
    matrices of the gated network.
    """

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read them; the hidden size and the number of heads must have been read."""
        draft["max_seq_len"] = fields.take_size("seq_length", 2048)
        for name in ("max_position_embeddings", "use_dynamic_ntk", "use_logn_attn"):
            fields.take(name)
        both = fields.take_size("intermediate_size", 22_016)
        if both % 2:
            fields.refuse("intermediate_size", both)
        draft["ffn.hidden_dim"] = both // 2
        fields.allow_only("kv_channels", draft.head_size)

    def write(self, view: View) -> Config:
        """Refuse: transformers has no such class, and Qwen 2's computes the same."""
        raise Unfit("Qwen 1 is read only")


@dataclass(frozen=True)
class MptAttention:
    """MPT's attn_config."""

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read what its class uses, and refuse what it does not have."""
        inner = fields.open_nested(fields.take_object("attn_config"), "attn_config")
        inner.allow_only("attn_type", "multihead_attention")
        for name in ("prefix_lm", "qk_ln", "attn_uses_sequence_id"):
            inner.allow_only(name, False)
        inner.allow_only("alibi", True)
        inner.allow_only("alibi_bias_max", 8)
        draft["attention.clip_qkv"] = inner.take_number("clip_qkv")
        draft["attention.scale"] = inner.take_number("softmax_scale")
        inner.take_number("attn_pdrop")
        inner.finish(("attn_impl",))

    def write(self, view: View) -> Config:
        """Write it."""
        return {
            "attn_config": {
                "model_type": "",
                "attn_type": "multihead_attention",
                "alibi": True,
                "alibi_bias_max": 8,
                "clip_qkv": view["attention.clip_qkv"],
                "softmax_scale": view["attention.scale"],
            }
        }


@dataclass(frozen=True)
class GroupedQueries:
    """ChatGLM's key/value heads: their number counts where its flag is set."""

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read both; the number of heads must have been read."""
        grouped = fields.take_flag("multi_query_attention", False)
        groups = fields.take_size("multi_query_group_num", 1)
        draft["attention.num_kv_heads"] = groups if grouped else None

    def write(self, view: View) -> Config:
        """Refuse: GLM's class, which transformers has, computes the same."""
        raise Unfit("ChatGLM is read only")
