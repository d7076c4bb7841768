"""Rows of the table of families: GPT-2 and its relatives, with LayerNorm and a plain feed-forward
network, whose fields and tensors have names of their own."""

import dataclasses
from dataclasses import dataclass

from hermes.interop.huggingface import tensor_modules as names
from hermes.interop.huggingface.block_parts import Activation, KvHeads, take_layer_norm
from hermes.interop.huggingface.draft import Draft, View
from hermes.interop.huggingface.family import Family
from hermes.interop.huggingface.fields import Fields
from hermes.interop.huggingface.llama_like import list_rates, list_shape
from hermes.interop.huggingface.parts import (
    Always,
    Biases,
    Choice,
    Config,
    Layers,
    Only,
    Part,
    Rate,
    Size,
    Unfit,
    Unread,
)
from hermes.interop.huggingface.rope import RopeOf
from hermes.interop.huggingface.windows import WindowForAll
from hermes.spec import LayerNorm, Learned, ModelSpec

__all__ = ["FFN_BIAS", "GPT_LIKE", "LearnedOf", "list_gpt2_parts"]


@dataclass(frozen=True)
class LearnedOf:
    """Learned positions, whose number is the length of the model. default: of the class.

    same: a field that says the same once more.
    """

    name: str
    default: int
    same: str = ""

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read their number."""
        length = draft["max_seq_len"] = fields.take_size(self.name, self.default)
        if self.same:
            fields.allow_only(self.same, length)
        draft.positions = [Learned()] * draft["num_layers"]

    def write(self, view: View) -> Config:
        """Write their number."""
        if not all(isinstance(position, Learned) for position in view.positions):
            raise Unfit("positions are not learned")
        length = view.spec.learned_positions
        return {self.name: length} | ({self.same: length} if self.same else {})


@dataclass(frozen=True)
class SameSize:
    """A field that must say the hidden size once more."""

    name: str

    def read(self, fields: Fields, draft: Draft) -> None:
        """Refuse another size."""
        fields.allow_only(self.name, draft["hidden_size"])

    def write(self, view: View) -> Config:
        """Write it."""
        return {self.name: view.spec.hidden_size}


@dataclass(frozen=True)
class MultiQuery:
    """GPTBigCode's flag: one key/value head, or one for every query head."""

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read the flag."""
        single = fields.take_flag("multi_query", True)
        draft["attention.num_kv_heads"] = 1 if single else None
        # transformers 5 derives and writes it besides.
        fields.allow_only("num_key_value_heads", 1 if single else draft["attention.num_heads"])

    def write(self, view: View) -> Config:
        """Write the flag."""
        return {"multi_query": view.block.attention.kv_heads == 1}


@dataclass(frozen=True)
class RootScaleFlag:
    """A flag, true in its class, of embeddings times sqrt(C)."""

    name: str

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read the flag; the hidden size must have been read."""
        given = fields.take_flag(self.name, True)
        draft["embeddings.scale"] = draft["hidden_size"] ** 0.5 if given else None

    def write(self, view: View) -> Config:
        """Write the flag."""
        return {self.name: view["embeddings.scale"] is not None}


def list_gpt2_parts(act: str, tied: bool) -> tuple[Part, ...]:
    """List the parts that have GPT-2's names of fields. act, tied: the class's defaults."""
    return (
        Layers("n_layer|num_hidden_layers"),
        Size("n_embd|hidden_size", "hidden_size"),
        Size("n_head|num_attention_heads", "attention.num_heads"),
        Size("vocab_size", "vocab_size", 50_257),
        Size("n_inner", "ffn.hidden_dim", lambda draft: 4 * draft["hidden_size"]),
        Activation("activation_function", act, gated=False, gelu_tanh="gelu_new"),
        take_layer_norm("layer_norm_epsilon", 1e-5),
        Rate("attn_pdrop", ("attention.dropout",), 0.1),
        Rate("resid_pdrop", ("block.dropout",), 0.1),
        Rate("embd_pdrop", ("embeddings.dropout",), 0.1),
        Choice("tie_word_embeddings", "embeddings.tie_weights", tied),
        Always("block.norm_position", "pre"),
    )


def _scale_by_layer(fields: Fields, spec: ModelSpec) -> ModelSpec:
    """Divide the scale of layer i by i + 1, for scale_attn_by_inverse_layer_idx."""
    if not fields.take_flag("scale_attn_by_inverse_layer_idx", False):
        return spec

    attention = spec.blocks[0].attention
    assert attention is not None, "every layer of GPT-2 has attention"
    return dataclasses.replace(
        spec,
        blocks=tuple(
            dataclasses.replace(
                spec.blocks[0],
                name=f"layer{i}",
                attention=dataclasses.replace(attention, scale=resolved.score_scale / (i + 1)),
            )
            for i, resolved in enumerate(spec.attentions)
        ),
    )


PRE, FFN_BIAS = Always("block.norm_position", "pre"), Always("ffn.bias", True)
ALL = Always("attention.bias", "all")
UNSCALED = Choice("scale_attn_weights", "attention.scale", True, 1.0, None)

GPT_LIKE = (
    Family(
        "gpt2",
        "GPT2LMHeadModel",
        (
            *list_gpt2_parts("gelu_new", True),
            *(LearnedOf("n_positions", 1024, same="n_ctx"), UNSCALED, ALL, FFN_BIAS),
            Only("reorder_and_upcast_attn", (False, True)),
        ),
        modules=names.choose_gpt2,
        adapt=_scale_by_layer,
    ),
    Family(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        (
            *list_shape(length=("max_position_embeddings", 2048)),
            Size("intermediate_size", "ffn.hidden_dim"),
            Activation("hidden_act", "gelu", gated=False),
            take_layer_norm("layer_norm_eps", 1e-5),
            Choice("attention_bias", "attention.bias", True, "none", "all"),
            *(PRE, FFN_BIAS, Choice("use_parallel_residual", "block.parallel", True)),
            Rate("attention_dropout", ("attention.dropout",)),
            Rate("hidden_dropout", ("block.dropout", "embeddings.dropout")),
            Choice("tie_word_embeddings", "embeddings.tie_weights", False),
            RopeOf(share=0.25, old_theta="rotary_emb_base", old_share="rotary_pct"),
        ),
        modules=names.GPT_NEOX,
        harmless="hidden_dropout_prob attention_probs_dropout_prob",
    ),
    Family(
        "gpt_bigcode",
        "GPTBigCodeForCausalLM",
        (
            *list_gpt2_parts("gelu_pytorch_tanh", True),
            *(LearnedOf("n_positions", 1024), UNSCALED, ALL, FFN_BIAS, MultiQuery()),
        ),
        modules=names.GPT_BIGCODE,
        harmless="attention_softmax_in_fp32 scale_attention_softmax_in_fp32 inference_runner "
        "validate_runner_input pre_allocate_kv_cache max_sequence_length max_batch_size "
        "attention_type",
    ),
    Family(
        "opt",
        "OPTForCausalLM",
        (
            *list_shape(vocab=("vocab_size", 50_272)),
            Size("ffn_dim", "ffn.hidden_dim"),
            Activation("activation_function", "relu", gated=False, gelu_tanh="gelu_new"),
            *(Always("norm", LayerNorm()), PRE, Biases("enable_bias", True)),
            Rate("attention_dropout", ("attention.dropout",)),
            Rate("dropout", ("block.dropout",), 0.1),
            Choice("tie_word_embeddings", "embeddings.tie_weights", True),
            Only("do_layer_norm_before", (True,)),
            Only("_remove_final_layer_norm", (False,)),
            Only("layer_norm_elementwise_affine", (True,)),
            *(SameSize("word_embed_proj_dim"), LearnedOf("max_position_embeddings", 2048)),
        ),
        modules=names.OPT,
        harmless="activation_dropout layerdrop",
    ),
    Family(
        "biogpt",
        "BioGptForCausalLM",
        (
            *list_shape(vocab=("vocab_size", 42_384)),
            Size("intermediate_size", "ffn.hidden_dim"),
            Activation("hidden_act", "gelu", gated=False),
            # Its class makes norms with the eps that torch has, whatever layer_norm_eps says.
            *(Always("norm", LayerNorm()), Unread("layer_norm_eps"), PRE, ALL, FFN_BIAS),
            *(RootScaleFlag("scale_embedding"), LearnedOf("max_position_embeddings", 1024)),
            Rate("attention_probs_dropout_prob", ("attention.dropout",), 0.1),
            Rate("hidden_dropout_prob", ("block.dropout", "embeddings.dropout"), 0.1),
            Choice("tie_word_embeddings", "embeddings.tie_weights", True),
        ),
        modules=names.BIOGPT,
        harmless="activation_dropout layerdrop",
    ),
    Family(
        "starcoder2",
        "Starcoder2ForCausalLM",
        (
            *list_shape(vocab=("vocab_size", 49_152), length=("max_position_embeddings", 4096)),
            KvHeads(default=2),
            Size("intermediate_size", "ffn.hidden_dim"),
            Activation("hidden_act", "gelu_pytorch_tanh", gated=False),
            *(take_layer_norm("norm_epsilon", 1e-5), PRE, Biases("use_bias", True)),
            Only("mlp_type", ("default",), written=False),
            Only("norm_type", ("layer_norm",), written=False),
            *list_rates("attention_dropout", "residual_dropout", "embedding_dropout"),
            Choice("tie_word_embeddings", "embeddings.tie_weights", True),
            *(WindowForAll(None), RopeOf()),
        ),
        modules=names.STARCODER2,
        # Left over from the class before; the function is hidden_act.
        harmless="activation_function layer_norm_epsilon scale_attn_weights",
    ),
)
