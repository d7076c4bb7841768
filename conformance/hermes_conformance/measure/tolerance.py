"""All bounds of the suite, each with its reason and the measurement behind it.

A bound changes only with a new measurement and a stated reason. Units: `rms` is the largest
|a - b| over the root mean square of the reference tensor; `sigma` is the standard deviation that
the oracle's noise model gives for the same input (oracle/rounding_noise.py).
"""

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Bound:
    """The largest error that a law allows. why: its reason. measured: errors seen, and where."""

    limit: float
    unit: str
    why: str
    measured: str

    def scale_to(self, size: float) -> "Bound":
        """The bound for a quantity of this size: in proportion to it beyond 10."""
        return replace(self, limit=self.limit * max(1.0, abs(size) / 10))


EXACT = Bound(
    0.0,
    "differences",
    "nothing is rounded, so every bit must be equal",
    "0 on torch 2.13 and mlx 0.32.4",
)
LOGITS_64 = Bound(
    1e-11,
    "rms",
    "70 times the worst rounding seen; a million times below the smallest planted fault of the "
    "forward pass, and a thousand times below float32 functions inside a float64",
    "1.4e-13 at 12 layers of width 512; 3e-14 on these fixtures",
)
MIDPOINT = Bound(
    1e-12,
    "rms",
    "two float64 values on either side of a midpoint between two float32 round apart however close "
    "they are; exempt are only reference values this near to a midpoint, and at most one element "
    "in a thousand",
    "2 elements per million raw; 0 on these fixtures",
)
MIDPOINT_SHARE = Bound(
    1e-3, "of elements", "with more exempt elements the law would say nothing", "below 1e-5"
)
LOSS_64 = Bound(
    1e-12,
    "nats",
    "a loss of a few nats over tens of tokens; in proportion to the loss beyond ten nats",
    "7e-15; 1e-13 at angles of 100,000 radians",
)
GRADIENT_64 = Bound(
    1e-10,
    "rms",
    "per tensor; 200 times the worst rounding seen, while a planted fault of the backward pass "
    "starts at 1e-7",
    "3.6e-13 at 12 layers; 5e-13 on these fixtures",
)
DERIVATIVE_64 = Bound(
    1e-11,
    "of its natural size",
    "a directional derivative by complex step is as exact as the loss, so one direction over all "
    "tensors shows an error in any of them; its natural size is that of the same sum with random "
    "signs",
    "1e-14 over 320 fixtures, 5e-14 at angles of 100,000 radians; five-point differences reach "
    "1e-9 at best",
)
REORDER_64 = Bound(
    1e-11,
    "rms",
    "the same sums in another order; a mean of the micro-batches' means would be off by a tenth",
    "4e-14",
)
CANARY_64 = Bound(
    1e-13,
    "relative",
    "elementary functions of float32 accuracy inside a float64 are off by 1e-8 to 1e-7",
    "2e-15 with the exact functions; 3e-8 with mx.exp",
)
RANGE_64 = Bound(
    1e-15,
    "of the input or value",
    "one elementary function of one input: a few roundings of 1.1e-16. Where erf is 1 to 8 digits, "
    "its tail's last coefficient is 1.4e-15",
    "3.3e-16 on mlx, 2.2e-16 on torch",
)
RANGE_SLOPE_64 = Bound(
    2e-14,
    "of the slope, or of 1",
    "one elementary function's derivative, behind a softmax, of inputs whose own rounding the "
    "derivative multiplies by up to their size",
    "1.9e-15 on torch, 6.7e-16 on mlx",
)
RANGE_32 = Bound(
    1e-6,
    "of the input or value",
    "as RANGE_64: a few roundings of 6e-8",
    "1.8e-7 on torch and mlx",
)
TRAIN_64 = Bound(
    1e-11,
    "relative",
    "30 steps in float64, by when the smallest planted fault, the 1e-6 of the clipping rule, is at "
    "2e-10",
    "5e-15 for losses, 1e-13 for weights and moments",
)
CLIPPING = Bound(
    0.5,
    "of updates",
    "share of steps that do not clip: a run that rarely clips says little about clipping",
    "0 to 0.2",
)
UPDATE_64 = Bound(
    1e-10,
    "of the change",
    "one step from equal gradients; a weight's rounding is larger relative to its small change",
    "1e-13",
)
UPDATE_32 = Bound(
    2e-4,
    "of the change",
    "one step from equal gradients, with weights and moments in float32: a weight of 5 is rounded "
    "by 3e-7, with a change of 7e-3. Weights in bfloat16 would be off by tenths",
    "6.3e-5",
)
MOMENT_16 = Bound(
    1.0,
    "units of bfloat16",
    "a moment that is kept in bfloat16: values in float32 on either side of a midpoint round one "
    "unit apart; in float64 they do not, and every bit of the oracle's moments is wanted",
    "1, in one element of a tensor",
)
MOMENT_16_SHARE = Bound(
    0.02, "of elements", "with more elements apart, moments would be rounded otherwise", "0.001"
)
TRAIN_32 = Bound(
    2e-5,
    "nats",
    "100 steps in float32 against the same in float64: five times the worst drift seen, and below "
    "every planted fault except a weight decay of 0.101 for 0.1 and the 1e-6 of the clipping rule, "
    "which the laws in float64 catch",
    "3.9e-6",
)
NORM_32 = Bound(
    1e-5,
    "relative",
    "of gradient norms over the same 100 steps. Where the input of a norm nearly cancels, weights "
    "that differ in their last bits have gradients that differ by 1e-3, on any backend. So the "
    "cases are chosen such that 12 sigma of a float64 run whose weights are rounded at random stay "
    "below this bound: a sound backend that exceeds it is a fault of the case",
    "6.3e-7; 12 sigma are 4.8e-6 with dropout and 3.2e-6 for gpt2 (tests/conformance/oracle/"
    "test_rounding_noise.py); with other tokens the same runs have sigmas of 1.6e-6 to 4e-4, and "
    "errors of that size at the same step on both torch and mlx",
)
WEIGHTS_32 = Bound(
    2e-5,
    "relative rms",
    "of all weights after the same 100 steps, except those whose gradient is nothing but rounding",
    "3.7e-7; see TRAIN_32",
)
UNIT_32 = 2.0**-24


def bound_norm_32(terms: int) -> Bound:
    """NORM_32 for a model whose longest sum has so many terms, such as a vocabulary's.

    A float32 sum from left to right, as the reference BLAS takes it, rounds each partial sum by up
    to u. Where partial sums grow evenly, the k-th of n adds (k u / n)^2 / 3 to the variance of the
    relative error, so sigma is u sqrt(n) / 3, and all gradients below the head share it. 12 of
    them pass NORM_32 from 1,760 terms on. Source: Higham and Mary 2019, "A new approach to
    probabilistic rounding error analysis", whose bound grows with sqrt(n) likewise.
    """
    sigma = UNIT_32 * math.sqrt(terms) / 3
    return replace(
        NORM_32,
        limit=max(NORM_32.limit, 12 * sigma),
        why=f"{NORM_32.why}. Beyond 1,760 terms: 12 sigma of a sum from left to right",
        measured=f"{NORM_32.measured}; with a vocabulary of 300,000, where sigma is 1.1e-5, 1.2e-5 "
        "on mlx with the reference BLAS and 2.2e-6 with an optimised one",
    )


NEXT_32 = Bound(1e-5, "nats", "the first loss after a change of backend, in float32", "9.5e-7")
TOKEN_32 = Bound(
    12.0,
    "sigma",
    "rms of a token's errors; twice the worst of 16 models whose absolute errors varied 35-fold, "
    "to leave room for other BLAS libraries",
    "5.9 on mlx, 4.4 on torch",
)
ELEMENT_32 = Bound(
    96.0,
    "sigma",
    "a token's worst element, beyond 8 roundings of its own size",
    "43.7 on mlx",
)
STEP_32 = Bound(
    1e-5,
    "rms",
    "tokens read one by one against one pass of the same model in float32, with fresh weights; "
    "what L1 says of every field in float64, of the kernels of production",
    "1.0e-6 on torch 2.13 and 1.3e-6 on mlx 0.32.4",
)
TEXT_32 = Bound(
    1e-4,
    "nats",
    "log-probabilities of a text's own tokens in float32 against the oracle's: where tokens are "
    "read in another order than they should be, but the likeliest stay so. A token that is lost "
    "600 tokens before moves them by 1e-2",
    "3.7e-6 on mlx, 3.2e-6 on torch",
)
KL_32_FRESH = Bound(1e-11, "nats", "KL of a token's distribution, fresh weights", "1.5e-13")
KL_32_HOT = Bound(1e-8, "nats", "KL of a token's distribution, hot weights", "1.3e-10")
ERROR_RATIO = Bound(
    3.0, "times the other's rmse", "neither backend may round much more than the other", "1.56"
)
GRADIENT_32 = Bound(
    1e-3, "rms", "per tensor, against the same backend's float64; an upper limit", "2e-6 to 3e-5"
)
LOSS_32 = Bound(1e-5, "relative", "a mean over tens of tokens", "3e-7")
LOGPROB_32 = Bound(
    1e-5,
    "relative",
    "one target's log-probability against that of the same model's logits, relative to it or to 1 "
    "nat: the sum over a vocabulary in float32",
    "1.5e-6 on mlx with a vocabulary of 300,000, 1.1e-7 on torch",
)
TOKEN_16 = Bound(4.0, "sigma", "rms of a token's errors in bfloat16 or float16", "2.35")
ELEMENT_16 = Bound(20.0, "sigma", "a token's worst element in bfloat16 or float16", "9.0")
KL_16 = Bound(4.0, "times the noise model's", "mean KL over tokens", "1.5")
KL_16_FRESH = Bound(1e-4, "nats", "mean KL over tokens, fresh weights: an upper limit", "1.7e-5")
NORM_16 = Bound(
    0.1,
    "relative",
    "of gradients in bfloat16, whose direction rounding changes more than their length",
    "0.035",
)
GRADIENT_16 = Bound(
    0.25,
    "relative rms",
    "of gradients in bfloat16 against the same backend's float64; 1.5 times a gradient is off by "
    "0.5",
    "0.092 with tied embeddings; 0.005 to 0.05 elsewhere",
)
NORM_F16 = Bound(
    0.01,
    "relative",
    "of gradients in float16, whose rounding is an eighth of bfloat16's",
    "0.0028",
)
GRADIENT_F16 = Bound(
    0.05,
    "relative rms",
    "of gradients in float16 against the same backend's float64; those that vanish are off by 1",
    "0.013 with weights and chunks, 0.003 elsewhere",
)
NEXT_F16 = Bound(
    0.01,
    "nats",
    "the next loss of a float16 run that another backend continues",
    "7.4e-6",
)
TOKEN_TF32 = Bound(
    3.0,
    "sigma",
    "rms of a token's errors with matrix products in tf32, by a noise model that rounds their "
    "inputs to 10 bits; with the 7 bits of bfloat16 it is 4.1 to 8.7 on every case",
    "emulated: 0.5 to 0.91 with rounding to nearest, 0.85 to 2.1 towards zero "
    "(tests/conformance/faults/test_tf32.py); not yet on a device",
)
ELEMENT_TF32 = Bound(
    9.0,
    "sigma",
    "a token's worst element with matrix products in tf32; 11 to 21 with inputs of 7 bits",
    "emulated: 2.4 to nearest, 6.3 towards zero",
)
GRADIENT_TF32 = Bound(
    1.8,
    "times the noise model's",
    "norm of the error of all gradients; the noise model estimates it from slopes along random "
    "directions. With inputs of 7 bits in both passes it is 2.5 to 4.7. With 7 bits in the "
    "products of the weights' gradients alone it is 0.34 to 0.88, as on a sound device: no bound "
    "finds that",
    "emulated: 0.35 to nearest, 1.17 towards zero",
)
TENSOR_TF32 = Bound(
    6.0,
    "times the noise model's",
    "the same of one tensor's gradient, and of the loss: an upper limit, as the noise of one "
    "tensor is estimated to a fifth only, and the error of a single number says little",
    "emulated: 0.75 to nearest, 3.3 towards zero; 4.5 to 9.0 with inputs of 7 bits in both passes",
)
TRAIN_16 = Bound(
    0.03,
    "nats",
    "losses of 6 compiled steps in bfloat16 against float64; an error of a hundredth in the loss "
    "of hot weights, 4.7 nats, is 0.05",
    "0.0052",
)
CHANGE_16 = Bound(
    0.25,
    "of the change",
    "change of each tensor over the same 6 steps; AdamW divides a gradient by its own size, so the "
    "relative rounding of the gradient in bfloat16 becomes one of the change",
    "0.11 with preference pairs, 0.094 otherwise",
)
ARGMAX_MARGIN_16 = Bound(
    6.0,
    "sigma",
    "the most likely token may differ only where the oracle's margin is below this",
    "no token with a larger margin differs",
)
GREEDY_MARGIN = Bound(
    1e-3,
    "rms",
    "greedy texts are compared only where the oracle's two most likely tokens are this far apart "
    "at every step, so that float32's rounding cannot exchange them",
    "prompts are drawn until it holds",
)
CHOICE_MARGIN = Bound(
    1e-5,
    "of the sum",
    "choices of tokens are compared only where the number drawn is this far from the boundary of "
    "two tokens, so that float32's rounding cannot exchange them",
    "such choices are left out",
)
BISECT_64 = Bound(
    1e-11, "rms", "beyond it bisect reports an intermediate tensor as different", "1e-14"
)
BISECT_32 = Bound(1e-3, "rms", "the same in float32, where rounding alone reaches 1e-5", "1e-5")
BISECT_BF16 = Bound(
    256 * 2.0**-9,
    "rms",
    "the same in bfloat16: 256 times its unit roundoff, 2^-9. Errors in the worst element of a "
    "tensor reach 136 unit roundoffs in float32 and 90 in bfloat16, so the bound scales with the "
    "unit",
    "0.18",
)
BISECT_16 = Bound(
    256 * 2.0**-11, "rms", "the same in float16, whose unit is 2^-11", "less on default"
)
BISECT_BOUNDS = {
    "float64": BISECT_64,
    "float32": BISECT_32,
    "tf32": BISECT_16,  # inputs of products have as many bits
    "bfloat16": BISECT_BF16,
    "float16": BISECT_16,
}
