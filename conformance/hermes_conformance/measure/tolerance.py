"""Every bound of the suite, with its reason and the measurement behind it. Nowhere else.

A bound changes only together with a new measurement and its reason. Units: `rms` is the greatest
|a - b| over the root mean square of the reference tensor; `sigma` is the standard deviation that
the oracle's noise model gives for this very input (noise.py).
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Bound:
    """The greatest error a law allows. why: the reason; measured: what was seen, and where."""

    limit: float
    unit: str
    why: str
    measured: str

    def scaled(self, size: float) -> "Bound":
        """The bound for a quantity of that size, where it is beyond 10."""
        return replace(self, limit=self.limit * max(1.0, abs(size) / 10))


EXACT = Bound(
    0.0,
    "differences",
    "nothing is rounded on the way, so equal means equal",
    "0 on torch 2.13 and mlx 0.32.4",
)
LOGITS_64 = Bound(
    1e-11,
    "rms",
    "70 times the worst rounding seen; a million times below the smallest planted fault of the "
    "forward pass, and a thousand below a float64 that is float32 inside",
    "1.4e-13 at 12 layers of width 512; 3e-14 on these fixtures",
)
MIDPOINT = Bound(
    1e-12,
    "rms",
    "two float64 values on either side of a rounding midpoint round apart whatever they are; only "
    "reference values this near to one are exempt, and at most one element in a thousand",
    "2 elements per million raw; 0 on these fixtures",
)
MIDPOINT_SHARE = Bound(
    1e-3, "of elements", "more exempt elements would make the law empty", "below 1e-5"
)
LOSS_64 = Bound(
    1e-12,
    "nats",
    "a loss of a few nats summed over tens of tokens; in proportion where it is beyond ten nats",
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
    "a directional derivative by complex step is as exact as the loss itself, so one direction "
    "over all tensors shows an error in any of them",
    "1e-14 over 320 fixtures, 5e-14 at angles of 100,000 radians; five-point differences reach "
    "1e-9 at best",
)
SPLIT_64 = Bound(
    1e-11,
    "rms",
    "the same sums in another order; a mean of means would be off by a tenth",
    "4e-14",
)
CANARY_64 = Bound(
    1e-13,
    "relative",
    "float32-grade functions inside a float64 are off by 1e-8 to 1e-7",
    "2e-15 where exact forms are used; 3e-8 with mx.exp in its place",
)
TRAIN_64 = Bound(
    1e-11,
    "relative",
    "30 updates in float64; the least planted fault, the 1e-6 of the clipping rule, is at 2e-10 by "
    "then",
    "5e-15 for losses, 1e-13 for weights and moments",
)
UPDATE_64 = Bound(
    1e-10,
    "of the change",
    "one update from equal gradients; what is lost is the rounding of a weight beside its change",
    "1e-13",
)
UPDATE_32 = Bound(
    2e-4,
    "of the change",
    "one update from equal gradients, with weights and moments in float32: a weight of 5 is "
    "rounded to 3e-7, beside a change of 7e-3. Weights in bfloat16 would be off by tenths",
    "6.3e-5",
)
TRAIN_32 = Bound(
    2e-5,
    "nats",
    "100 updates in float32 against the same in float64: five times the worst drift seen, below "
    "every planted fault but wd .101 for .1 and the clipping rule's 1e-6, which float64 catches",
    "3.9e-6",
)
NORM_32 = Bound(
    1e-5,
    "relative",
    "of gradient norms along the same 100 updates. A norm is as good as its place: where a "
    "normed vector nearly cancels, weights that differ by their last bits have gradients apart by "
    "1e-3, on any backend. So these runs are ones whose 12 sigma, by a float64 run that rounds its "
    "weights at random, stay below this bound: a run that strays is a fault of the fixture",
    "6.3e-7; 12 sigma are 4.8e-6 with dropout and 3.2e-6 for gpt2 (tests/conformance/"
    "test_fixtures.py); with other tokens the same runs show sigmas of 1.6e-6 to 4e-4, and errors "
    "of that size at that very update on torch and on mlx alike",
)
WEIGHTS_32 = Bound(
    2e-5,
    "relative rms",
    "of all weights after the same 100 updates, but those whose gradient is only rounding",
    "3.7e-7; see TRAIN_32",
)
NEXT_32 = Bound(1e-5, "nats", "the first loss after a change of backend, in float32", "9.5e-7")
TOKEN_32 = Bound(
    12.0,
    "sigma",
    "rms of a token's errors; twice the worst of 16 models whose absolute errors varied 35-fold, "
    "for other BLAS libraries",
    "5.9 on mlx, 4.4 on torch",
)
ELEMENT_32 = Bound(
    96.0, "sigma", "a token's worst element, plus 8 units of its own size", "43.7 on mlx"
)
KL_32_FRESH = Bound(1e-11, "nats", "KL of a token's distribution, first weights", "1.5e-13")
KL_32_HOT = Bound(1e-8, "nats", "KL of a token's distribution, hot weights", "1.3e-10")
PEER_RATIO = Bound(3.0, "times the other's rmse", "neither backend may be the sloppy one", "1.56")
GRADIENT_32 = Bound(
    1e-3, "rms", "per tensor, against the same backend's float64; a cap", "2e-6 to 3e-5"
)
LOSS_32 = Bound(1e-5, "relative", "a mean over tens of tokens", "3e-7")
LOGPROB_32 = Bound(
    1e-5,
    "relative",
    "one target's log-probability beside that of the same model's logits, or beside 1 nat: the sum "
    "over a vocabulary in float32",
    "1.5e-6 on mlx with a vocabulary of 300,000, 1.1e-7 on torch",
)
TOKEN_16 = Bound(4.0, "sigma", "rms of a token's errors in bfloat16 or float16", "2.35")
ELEMENT_16 = Bound(20.0, "sigma", "a token's worst element in bfloat16 or float16", "9.0")
KL_16 = Bound(4.0, "times the noise model's", "mean KL over tokens", "1.5")
KL_16_FRESH = Bound(1e-4, "nats", "mean KL over tokens, first weights: a cap", "1.7e-5")
NORM_16 = Bound(
    0.1, "relative", "of bfloat16's gradients, which rounding turns but does not lengthen", "0.035"
)
GRADIENT_16 = Bound(
    0.25,
    "relative rms",
    "of bfloat16's gradients against the same backend's float64; a gradient half as large again is "
    "off by 0.5",
    "0.092, where logits are of tied weights; 0.005 to 0.05 elsewhere",
)
TOKEN_TF32 = Bound(
    3.0,
    "sigma",
    "rms of a token's errors where products take tf32, by a noise model that rounds what goes into "
    "products to 10 bits; inputs of bfloat16's 7 bits are at 4.1 to 8.7 on every fixture",
    "0.5 to 0.91 by an emulation that rounds to nearest, 0.85 to 2.1 towards zero "
    "(tests/conformance/test_tf32.py); on no device yet",
)
ELEMENT_TF32 = Bound(
    9.0,
    "sigma",
    "a token's worst element where products take tf32; 11 to 21 with inputs of 7 bits",
    "2.4 to nearest, 6.3 towards zero, emulated",
)
GRADIENT_TF32 = Bound(
    1.8,
    "times the noise model's",
    "norm of the error of all gradients, where the oracle's slopes along random directions say how "
    "large it is; 2.5 to 4.7 with inputs of 7 bits in both passes. With 7 bits in the products of "
    "weights' gradients alone it is 0.34 to 0.88, among those of a sound device: no bound tells it",
    "0.35 to nearest, 1.17 towards zero, emulated",
)
TENSOR_TF32 = Bound(
    6.0,
    "times the noise model's",
    "the same of one tensor's gradient, and of the loss: a cap, for one tensor's noise is known to "
    "a fifth only, and one number's error says little",
    "0.75 to nearest, 3.3 towards zero, emulated; 4.5 to 9.0 with inputs of 7 bits in both passes",
)
TRAIN_16 = Bound(
    0.03,
    "nats",
    "the losses of 6 compiled bfloat16 updates against float64; of hot weights, a hundredth of a "
    "loss of 4.7 nats is off by 0.05",
    "0.0052",
)
CHANGE_16 = Bound(
    0.25,
    "of the change",
    "what the same 6 updates did to each tensor; AdamW divides a gradient by its own size, so that "
    "bfloat16's share of rounding in it is one of the change",
    "0.11 of pairs, 0.094 otherwise",
)
TOP_16 = Bound(
    6.0,
    "sigma",
    "the likeliest token may differ only where the oracle's margin is below this",
    "no token beyond it differs",
)
MARGIN = Bound(
    1e-3,
    "rms",
    "greedy texts are compared only where the oracle's two best are this far apart at every step; "
    "a smaller margin is a fault of the fixture",
    "fixtures are drawn until it holds",
)
PART_64 = Bound(
    1e-11, "rms", "where a tensor counts as another's, when looking for the first", "1e-14"
)
PART_32 = Bound(1e-3, "rms", "the same in float32, where rounding alone reaches 1e-5", "1e-5")
PART_BF16 = Bound(
    256 * 2.0**-9,
    "rms",
    "the same in bfloat16: 256 of its units, 2^-9. Float32's units, of 2^-24, add up to 136 in the "
    "worst element of a tensor, bfloat16's to 90: it is the same rounding, so the bound goes with "
    "the unit",
    "0.18",
)
PART_16 = Bound(256 * 2.0**-11, "rms", "the same in float16, whose unit is 2^-11", "none computes")
PARTS = {
    "float64": PART_64,
    "float32": PART_32,
    "tf32": PART_16,  # whose products have the same unit
    "bfloat16": PART_BF16,
    "float16": PART_16,
}
