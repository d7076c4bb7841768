"""Faults of adapters: LoRA, DoRA and trained rows of tokens."""

from dataclasses import replace

from hermes.recipe import Lora
from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import Function, Patcher

DERIVATIVES = "L1/derivatives"


def _change_lora(change: Function) -> Plant:
    """Build adapters from change(lora)."""

    def plant(patcher: Patcher) -> None:
        def wrap(original):
            def faulty(self, base, lora, site):
                original(self, base, lora, site)
                self.lora = change(self.lora)

            return faulty

        patcher.wrap_method("lora", "LoraLinear", "__init__", wrap)

    return plant


def _leave_out_first(patcher: Patcher) -> None:
    """The first adapter, which stands for one of the targets, adds nothing."""
    first = patcher.load_module("lora").FIRST_SITE

    def wrap(original):
        def faulty(self, base, lora, site):
            original(self, base, lora if site > first else replace(lora, alpha=1e-30), site)

        return faulty

    patcher.wrap_method("lora", "LoraLinear", "__init__", wrap)


def _follow_lengths(patcher: Patcher) -> None:
    """DoRA's lengths of rows get a gradient."""

    def wrap(original):
        def faulty(self):
            w = self.weight + self.lora.scale * (self.lora_B.weight @ self.lora_A.weight)
            return (w * w).sum(1) ** 0.5

        return faulty

    patcher.wrap_method("lora", "LoraLinear", "measure_rows", wrap)


def _divide_by_no_length(patcher: Patcher) -> None:
    """The length of a row of zeros is 0, by which DoRA divides."""

    def wrap(original):
        def faulty(self):
            w = self.weight + self.lora.scale * (self.lora_B.weight @ self.lora_A.weight)
            lengths = original(self)
            return lengths * ((w * w).sum(1) > 0)

        return faulty

    patcher.wrap_method("lora", "LoraLinear", "measure_rows", wrap)


def _leave_token_logits(patcher: Patcher) -> None:
    """The head keeps its own rows of the tokens whose rows are trained."""
    original = patcher.load_module("chunked_loss").project
    patcher.wrap_function(
        original, lambda _: lambda head, x, weight, bias, rows: head.project(x, weight, bias)
    )


def _leave_token_embeddings(patcher: Patcher) -> None:
    """The embedding keeps its own rows of the tokens whose rows are trained."""
    module = patcher.load_module("lora").TokenEmbedding
    name = "forward" if hasattr(module, "forward") else "__call__"
    plain = getattr(patcher.load_module("model").Embedding, name)
    patcher.wrap(module, name, lambda _: plain)


def _make_fault(name: str, case: str, plant: Plant) -> Fault:
    return Fault(name, "adapters", DERIVATIVES, case, plant)


FAULTS = (
    _make_fault(
        "adapters are scaled by alpha alone",
        "lora.every matrix/hot",
        _change_lora(lambda lora: Lora(1, lora.alpha, lora.dropout, lora.targets)),
    ),
    _make_fault(
        "adapters drop nothing",
        "lora.dropout/hot",
        _change_lora(lambda lora: replace(lora, dropout=0.0)),
    ),
    _make_fault(
        "the first adapter adds nothing",
        "lora.queries and values/hot",
        _leave_out_first,
    ),
    _make_fault(
        "rank-stabilized adapters are divided by the rank",
        "lora.rslora/hot",
        _change_lora(lambda lora: replace(lora, rslora=False)),
    ),
    _make_fault(
        "the lengths of DoRA's rows have a gradient",
        "lora.dora/hot",
        _follow_lengths,
    ),
    _make_fault(
        "DoRA divides a row of zeros by its length",
        "lora.dora empty rows/empty rows",
        _divide_by_no_length,
    ),
    _make_fault(
        "trained rows of tokens are not those of the head",
        "lora.token rows/hot",
        _leave_token_logits,
    ),
    _make_fault(
        "trained rows of tokens are not those of the embeddings",
        "lora.token rows tied/hot",
        _leave_token_embeddings,
    ),
)
