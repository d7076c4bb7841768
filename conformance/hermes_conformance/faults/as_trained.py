"""Faults that only models of trained sizes have: long rows, large heads, fast kernels, waits."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.kernels import scale_gradient
from hermes_conformance.faults.patcher import FAST_TABLES, Patcher
from hermes_conformance.faults.tf32 import emulate_tf32

CAUSAL, WINDOW, PACKED = (
    f"small.{name}/hot" for name in ("15x64 causal", "32x128 window", "15x64 documents")
)
LONG_ROW, LARGE_HEAD = 128, 64


def _change_long_attention(change: Any) -> Plant:
    """Attention of the fast tables over long rows of large heads is change(patcher, q, k, v)."""

    def plant(patcher: Patcher) -> None:
        def wrap(attention):
            def faulty(q, k, v, *rest):
                if q.shape[2] >= LONG_ROW and q.shape[3] >= LARGE_HEAD:
                    q, k, v = change(patcher, q, k, v)
                return attention(q, k, v, *rest)

            return faulty

        patcher.wrap_table("attention", wrap, FAST_TABLES)

    return plant


def _scale_queries(patcher, q, k, v):
    return 1.02 * q, k, v


def _double_value_gradients(patcher, q, k, v):
    return q, k, scale_gradient(patcher, 2.0, v)


def _scale_queries_much(patcher, q, k, v):
    return 1.2 * q, k, v


def _write_attention_out(patcher: Patcher) -> None:
    """The fast table has the exact table's attention, which keeps (B, H, T, S)."""
    exact = patcher.load_module("ops").attention_exact
    patcher.wrap_table("attention", lambda attention: exact, FAST_TABLES)


def _give_no_reason(patcher: Patcher) -> None:
    """hermes_mlx writes attention out on CPUs, which it may, and does not say why."""
    patcher.replace(patcher.load_module("work_counts"), "ON_CPU", "")


def _read_loss_in_update(patcher: Patcher) -> None:
    """A step waits for its loss and its norm before it returns, so a run waits thrice."""

    def wrap(original):
        def faulty(self, batch, lr):
            report = original(self, batch, lr)
            float(report.loss)
            float(report.grad_norm)
            return report

        return faulty

    patcher.wrap_method("learner", "Learner", "step", wrap)


def _read_tokens_back(patcher: Patcher) -> None:
    """A decoder waits for the device once more: it reads its own tokens."""

    def wrap(original):
        def faulty(self, tokens):
            self._runtime.to_numpy(self._runtime.to_device(tokens))
            return original(self, tokens)

        return faulty

    patcher.wrap_method("inference", "Decoder", "advance", wrap)


def _place_later_reads_early(patcher: Patcher) -> None:
    """A read of several tokens behind a long prefix is rotated as if it began a place earlier."""

    def wrap(original):
        def faulty(self, spec, T):
            cos, sin = original(self, spec, T)
            if not (self.cache and self.offset >= LARGE_HEAD and T > 1):
                return cos, sin
            tables = self.tables.get_angles(spec, self.cache.capacity)
            return tuple(table[self.offset - 1 : self.offset - 1 + T] for table in tables)

        return faulty

    patcher.wrap_method("context", "Context", "angles", wrap)


def _miss_first_keys(patcher: Patcher) -> None:
    """Blocks of queries behind the first do not read the first of their keys."""

    def wrap(original):
        def faulty(length, window):
            return [
                block._replace(first=block.first + (block.start > 0))
                for block in original(length, window)
            ]

        return faulty

    patcher.wrap(patcher.load_module("ops"), "list_query_blocks", wrap)


def _halve_rate(when: Callable[[Any], bool]) -> Plant:
    """Every update of learners with such options is half as large."""

    def plant(patcher: Patcher) -> None:
        def wrap(original):
            def faulty(self, batch, lr):
                return original(self, batch, lr / 2 if when(self.runtime.options) else lr)

            return faulty

        patcher.wrap_method("learner", "Learner", "step", wrap)

    return plant


def _halve_rate_in(precision: str) -> Plant:
    return _halve_rate(lambda options: options.precision == precision)


def _halve_compiled_rate_in(precision: str) -> Plant:
    return _halve_rate(lambda options: options.precision == precision and options.compile is True)


def _forget_compiled(patcher: Patcher) -> None:
    """torch begins with no graph: it compiles a function a limited number of times in a process."""
    if patcher.name == "torch":
        import_module("torch").compiler.reset()


def _accept_tf32(patcher: Patcher) -> None:
    """hermes_torch takes tf32 on any device, where it is float32: kernels and graphs stay."""
    _forget_compiled(patcher)
    patcher.replace(patcher.load_module("runtime"), "has_tf32", lambda device: True)


def _drop_documents_of_long_rows(patcher: Patcher) -> None:
    """Long rows of production's formats attend across their documents."""

    def wrap(original):
        def faulty(self, segments):
            fast = self.options.precision != "float64"
            is_long = segments is not None and segments.shape[-1] >= LONG_ROW
            return original(self, None if fast and is_long else segments)

        return faulty

    patcher.wrap_method("runtime", "Runtime", "load_segments", wrap)


def _break_graph(patcher: Patcher) -> None:
    def wrap(original):
        def faulty(self, tokens, targets, *rest):
            import_module("torch._dynamo").graph_break()
            return original(self, tokens, targets, *rest)

        return faulty

    patcher.wrap_method("learner", "Objective", "forward", wrap)


def _compile_at_each_step(patcher: Patcher) -> None:
    """The compiled loss of a learner is dropped after each step, and compiled again at the next."""

    def wrap(original):
        def faulty(self, batch, lr):
            if patcher.name == "torch":
                module = patcher.load_module("learner")
                import_module("torch").compiler.reset()
                self._compiled = module.compile_function(self._objective)
            else:
                mx = import_module("mlx.core")
                compile_function = patcher.load_module("learner").compile_function
                self._summed_loss = compile_function(mx.value_and_grad(self._compute_loss))
            return original(self, batch, lr)

        return faulty

    patcher.wrap_method("learner", "Learner", "step", wrap)


def _make_fault(
    name: str,
    law: str,
    case: str,
    plant: Plant,
    only: str | None = None,
    under: Plant = _forget_compiled,
) -> Fault:
    return Fault(name, "as trained", f"L6/{law}", case, plant, only, under)


def _make_tf32_fault(
    name: str, law: str, case: str, plant: Plant, under: Plant = emulate_tf32
) -> Fault:
    return _make_fault(f"{name}, in tf32", f"{law}-tf32", case, plant, "torch", under)


def _make_short_faults(precision: str) -> tuple[Fault, ...]:
    """A fault for each law of a format of 16 bits."""
    faults = (
        (
            "long rows of large heads are scaled by a fifth too much",
            "logits",
            CAUSAL,
            _change_long_attention(_scale_queries_much),
        ),
        (
            "a later read of a long row is a place early",
            "decoding",
            CAUSAL,
            _place_later_reads_early,
        ),
        (
            "values of long rows have twice their gradient",
            "gradients",
            PACKED,
            _change_long_attention(_double_value_gradients),
        ),
        ("updates are half as large", "updates", CAUSAL, _halve_rate_in(precision)),
        (
            "updates of compiled learners are half as large",
            "compiled",
            CAUSAL,
            _halve_compiled_rate_in(precision),
        ),
        ("an update waits for its numbers", "kernels", CAUSAL, _read_loss_in_update),
        ("a learner compiles at each step", "graphs", CAUSAL, _compile_at_each_step),
    )
    return tuple(
        _make_fault(f"{name}, in {precision}", f"{law}-{precision}", case, plant)
        for name, law, case, plant in faults
    )


FAULTS = (
    _make_fault(
        "long rows of large heads are scaled by a fiftieth too much",
        "logits-float32",
        WINDOW,
        _change_long_attention(_scale_queries),
    ),
    _make_fault(
        "values of long rows have twice their gradient",
        "gradients-float32",
        WINDOW,
        _change_long_attention(_double_value_gradients),
    ),
    _make_fault(
        "long rows attend across documents", "logits-float32", PACKED, _drop_documents_of_long_rows
    ),
    _make_fault(
        "a later read of a long row is a place early",
        "decoding-float32",
        CAUSAL,
        _place_later_reads_early,
    ),
    _make_fault("blocks of queries miss a key", "logits-float32", CAUSAL, _miss_first_keys, "mlx"),
    _make_fault(
        "attention is written out where a kernel is",
        "kernels-float32",
        CAUSAL,
        _write_attention_out,
        "torch",
    ),
    _make_fault(
        "attention is written out without a reason",
        "kernels-float32",
        CAUSAL,
        _give_no_reason,
        "mlx",
    ),
    _make_fault("an update waits for its numbers", "kernels-float32", CAUSAL, _read_loss_in_update),
    _make_fault("a decoder waits twice", "kernels-float32", CAUSAL, _read_tokens_back),
    _make_fault(
        "a compiled loss leaves its graph", "graphs-float32", CAUSAL, _break_graph, "torch"
    ),
    _make_fault("a learner compiles at each step", "graphs-float32", CAUSAL, _compile_at_each_step),
    _make_fault(
        "updates in float32 are half as large", "updates-float32", CAUSAL, _halve_rate_in("float32")
    ),
    _make_fault(
        "updates of compiled learners are half as large, in float32",
        "compiled-float32",
        CAUSAL,
        _halve_compiled_rate_in("float32"),
    ),
    *_make_short_faults("bfloat16"),
    *_make_short_faults("float16"),
    _make_tf32_fault(
        "long rows of large heads are scaled by a fiftieth too much",
        "logits",
        WINDOW,
        _change_long_attention(_scale_queries),
    ),
    _make_tf32_fault(
        "values of long rows have twice their gradient",
        "gradients",
        WINDOW,
        _change_long_attention(_double_value_gradients),
    ),
    _make_tf32_fault(
        "a later read of a long row is a place early", "decoding", CAUSAL, _place_later_reads_early
    ),
    _make_tf32_fault("updates are half as large", "updates", CAUSAL, _halve_rate_in("tf32")),
    _make_tf32_fault(
        "updates of compiled learners are half as large",
        "compiled",
        CAUSAL,
        _halve_compiled_rate_in("tf32"),
        _accept_tf32,
    ),
    _make_tf32_fault(
        "an update waits for its numbers", "kernels", CAUSAL, _read_loss_in_update, _accept_tf32
    ),
    _make_tf32_fault(
        "a learner compiles at each step", "graphs", CAUSAL, _compile_at_each_step, _accept_tf32
    ),
)
