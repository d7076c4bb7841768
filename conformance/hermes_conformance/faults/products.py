"""Faults of products in their fastest forms: whole tiles, joined matrices, losses in chunks."""

from importlib import import_module

from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.kernels import scale_gradient
from hermes_conformance.faults.patcher import FAST_TABLES, Function, Patcher

DEFAULT, ADAPTED = "default/hot", "lora.keys and gates/hot"
SLICES, TILE = "slices.next token/hot", "decoding.whole tile/hot"
GRADIENTS, COMPILED = "L2/gradients", "L2/compiled-gradients"


def _suit_borrowed_blas(patcher: Patcher) -> None:
    """Models of MLX that only run have the products of a borrowed BLAS on any machine."""

    def wrap(original):
        def build(self, *arguments, training, **fields):
            original(self, *arguments, training=training, **fields)
            self._is_borrowed = not (training or self.options.exact or self.options.as_trained)

        return build

    patcher.wrap_method("runtime", "Runtime", "__init__", wrap)


def _change_tile(change: Function) -> Plant:
    """Products of whole tiles of single tokens are change(what they should be)."""

    def plant(patcher: Patcher) -> None:
        products = patcher.load_module("products")

        def wrap(original):
            def faulty(x, weight):
                y = original(x, weight)
                is_step = x.ndim == 2 or (x.ndim == 3 and x.shape[1] == 1)
                is_tile = is_step and len(x) % products.TILE == 0
                return change(y) if is_tile else y

            return faulty

        patcher.wrap(products, "_multiply", wrap)

    return plant


def _change_joined(change: Function) -> Plant:
    """What comes of a joined product is change(its parts, the Linears)."""

    def plant(patcher: Patcher) -> None:
        def wrap(original):
            def faulty(x, *linears):
                parts = original(x, *linears)
                return change(parts, linears) if _leads_product(linears[0]) else parts

            return faulty

        patcher.wrap_table("project", wrap, FAST_TABLES)

    return plant


def _leads_product(linear) -> bool:
    """Whether a Linear leads a joined product, in either backend."""
    # MLX's modules are dictionaries of their arrays.
    return linear.get("_joined") is not None if isinstance(linear, dict) else linear.leads_product


def _exchange_last(parts, linears):
    """Keys are values; up stays up, and so do gates."""
    return (parts[0], parts[2], parts[1]) if len(parts) == 3 else parts


def _exchange_gates(parts, linears):
    return parts[::-1] if len(parts) == 2 else parts


def _drop_biases(parts, linears):
    return tuple(
        y if linear.bias is None else y - linear.bias
        for y, linear in zip(parts, linears, strict=True)
    )


def _exchange_gradients(patcher: Patcher) -> None:
    """The matrices of keys and values, which are alike, have each other's gradients."""
    product = patcher.load_module("joined_weights").JoinedProduct

    def wrap(original):
        def backward(ctx, d):
            *rest, k, v = original(ctx, d)
            is_qkv = len(ctx.sizes) == 3
            return (*rest, v, k) if is_qkv else (*rest, k, v)

        return staticmethod(backward)

    patcher.replace(product, "backward", wrap(product.backward))


def _join_adapted(patcher: Patcher) -> None:
    """Adapted matrices are joined as any others, and their adapters left out."""
    joined_weights = patcher.load_module("joined_weights")

    def list_groups(module, linear_class):
        found = []
        for part in module.modules():
            for names in joined_weights.GROUPS:
                members = [getattr(part, name, None) for name in names]
                if all(isinstance(one, linear_class) for one in members):
                    found.append(members)
        return found

    patcher.replace(joined_weights, "list_groups", list_groups)


def _change_sum(change: Function) -> Plant:
    """The head's gradient, to which a chunk's part is added, is change(it) before, in place."""

    def plant(patcher: Patcher) -> None:
        def wrap(original):
            def faulty(total, *rest):
                change(total)
                return original(total, *rest)

            return faulty

        patcher.wrap(patcher.load_module("chunked_loss"), "add_product", wrap)

    return plant


def _align_anywhere(patcher: Patcher) -> None:
    """Compiled logits have rows that begin at cache lines, on any device; all is compiled anew."""
    torch = import_module("torch")
    torch.compiler.reset()

    def wants_aligned_rows(x, weight):
        return torch.compiler.is_compiling() and x.ndim == 2 and not torch.is_grad_enabled()

    patcher.replace(patcher.load_module("ops"), "wants_aligned_rows", wants_aligned_rows)


def _read_aligned_as_dense(patcher: Patcher) -> None:
    """Rows that begin at cache lines are read as if each began where the last one ends."""

    def wrap(original):
        def faulty(x, weight):
            y = original(x, weight)
            return y.as_strided(y.shape, (y.shape[1], 1)) + 0

        return faulty

    patcher.wrap(patcher.load_module("ops"), "multiply_aligned", wrap)


def _use_onednn_anywhere(patcher: Patcher) -> None:
    """Every product with a float32 matrix is oneDNN's, on any processor; all is compiled anew."""
    import_module("torch").compiler.reset()
    products = patcher.load_module("onednn_products")
    patcher.replace(products, "FASTER", True)
    patcher.replace(products, "FEWEST_PRODUCTS", 0)


def _change_onednn_product(name: str, change: Function) -> Plant:
    """What comes of oneDNN's product, called by that name, is change(it)."""

    def plant(patcher: Patcher) -> None:
        module, name_there = name.split(".")

        def wrap(original):
            return lambda *arguments: change(original(*arguments))

        patcher.wrap(patcher.load_module(module), name_there, wrap)

    return plant


def _amplify_last_chunk(patcher: Patcher) -> None:
    """A chunk of fewer tokens than those before it has a hundredth too much gradient."""
    most = [0]

    def wrap(original):
        def faulty(logits, *rest):
            d = original(logits, *rest)
            most[0] = max(most[0], len(logits))
            return d if len(logits) == most[0] else 1.01 * d

        return faulty

    patcher.wrap(patcher.load_module("chunked_loss"), "logits_gradient", wrap)


def _recompute_some(factor: float) -> Plant:
    """So much of the gradient passes back through a block of which a part is computed again."""

    def plant(patcher: Patcher) -> None:
        def wrap(original):
            def faulty(self, layer, x):
                if self.recompute == "some":
                    x = scale_gradient(patcher, factor, x)
                return original(self, layer, x)

            return faulty

        patcher.wrap_method("context", "Context", "run_block", wrap)

    return plant


def _make_fault(
    name: str,
    law: str,
    case: str,
    plant: Plant,
    only: str | None = None,
    under: Plant | None = None,
) -> Fault:
    return Fault(name, "products", law, case, plant, only, under)


def _make_tile_fault(name: str, law: str, change: Function) -> Fault:
    return _make_fault(name, law, TILE, _change_tile(change), "mlx", _suit_borrowed_blas)


FAULTS = (
    _make_tile_fault(
        "rows of a whole tile have each other's products", "L2/decoding", lambda y: y[::-1]
    ),
    _make_tile_fault(
        "products of a whole tile are a hundredth off", "L2/decoding", lambda y: 1.01 * y
    ),
    _make_tile_fault(
        "rows of a whole tile have each other's products, in bfloat16",
        "L3/decoding",
        lambda y: y[::-1],
    ),
    _make_fault(
        "a joined product gives keys for values",
        "L2/decoding",
        DEFAULT,
        _change_joined(_exchange_last),
    ),
    _make_fault(
        "a joined product gives gates for what they open",
        "L2/decoding",
        DEFAULT,
        _change_joined(_exchange_gates),
    ),
    _make_fault("a joined product has no bias", "L2/decoding", TILE, _change_joined(_drop_biases)),
    _make_fault(
        "joined keys and values have each other's gradients",
        GRADIENTS,
        DEFAULT,
        _exchange_gradients,
        "torch",
    ),
    _make_fault("adapted matrices are joined", GRADIENTS, ADAPTED, _join_adapted, "torch"),
    _make_fault(
        "the head's gradient begins anew with each chunk",
        GRADIENTS,
        SLICES,
        _change_sum(lambda total: total.zero_()),
        "torch",
    ),
    _make_fault(
        "the head's gradient loses a hundredth with each chunk, compiled",
        COMPILED,
        SLICES,
        _change_sum(lambda total: total.mul_(0.99)),
        "torch",
        _align_anywhere,
    ),
    _make_fault(
        "logits whose rows begin at cache lines are read as dense ones",
        COMPILED,
        SLICES,
        _read_aligned_as_dense,
        "torch",
        _align_anywhere,
    ),
    _make_fault(
        "a product by oneDNN is a hundredth off",
        GRADIENTS,
        DEFAULT,
        _change_onednn_product("onednn_products.multiply_by_onednn", lambda y: 1.01 * y),
        "torch",
        _use_onednn_anywhere,
    ),
    _make_fault(
        "oneDNN loses a hundredth of the gradient of what a matrix is given",
        GRADIENTS,
        DEFAULT,
        _change_onednn_product("onednn_products.apply_matrix", lambda y: 0.99 * y),
        "torch",
        _use_onednn_anywhere,
    ),
    _make_fault(
        "products of joined matrices by oneDNN are a hundredth off, compiled",
        COMPILED,
        DEFAULT,
        _change_onednn_product("joined_weights.apply_matrix", lambda y: 0.99 * y),
        "torch",
        _use_onednn_anywhere,
    ),
    _make_fault(
        "the last chunk, a part of one, has a hundredth too much gradient",
        GRADIENTS,
        SLICES,
        _amplify_last_chunk,
    ),
    _make_fault(
        "the last chunk, a part of one, has a hundredth too much gradient, compiled",
        COMPILED,
        SLICES,
        _amplify_last_chunk,
        "mlx",
    ),
    _make_fault(
        "recomputing some gives another gradient",
        "L4/selective-checkpointing",
        "train.frozen/fresh",
        _recompute_some(1 + 1e-6),
        "torch",
    ),
    _make_fault(
        "recomputing some in float32 halves the gradient of what lies before",
        "L4/selective-checkpointing-float32",
        "train.dropout/fresh",
        _recompute_some(0.5),
        "torch",
    ),
)
