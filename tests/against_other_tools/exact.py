"""The Transformer once more, in scalars of 50 digits: lists, loops and mpmath, nothing shared.

Written from the formulas, for models of a few numbers. It knows all that a block may be.
"""

from mpmath import mp, mpf

from hermes.spec import (
    Alibi,
    DynamicScaling,
    LayerNorm,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    NoNorm,
    RMSNorm,
    Rope,
    YarnScaling,
)

mp.dps = 50


def numbers(array):
    """A NumPy tensor as nested lists of exact numbers."""
    if array.ndim == 0:
        return mpf(float(array))
    return [numbers(row) for row in array]


def dot(a, b):
    return mp.fsum(x * y for x, y in zip(a, b, strict=True))


def plus(a, b):
    return [x + y for x, y in zip(a, b, strict=True)]


def linear(weights, name, x):
    bias = weights.get(f"{name}.bias")
    y = [dot(row, x) for row in weights[f"{name}.weight"]]
    return y if bias is None else plus(y, bias)


def norm(weights, name, kind, x):
    factors = weights.get(f"{name}.weight", [mpf(1)] * len(x))
    match kind:
        case NoNorm():
            return x
        case RMSNorm(eps, unit_offset):
            root = mp.sqrt(dot(x, x) / len(x) + mpf(eps))
            offset = 1 if unit_offset else 0
            return [v / root * (w + offset) for v, w in zip(x, factors, strict=True)]
        case LayerNorm(eps, bias, _, unit_offset):
            mean = mp.fsum(x) / len(x)
            centred = [v - mean for v in x]
            root = mp.sqrt(dot(centred, centred) / len(x) + mpf(eps))
            offset = 1 if unit_offset else 0
            y = [v / root * (w + offset) for v, w in zip(centred, factors, strict=True)]
            return plus(y, weights[f"{name}.bias"]) if bias else y


ACTIVATIONS = {
    "silu": lambda x: x / (1 + mp.exp(-x)),
    "gelu": lambda x: x * mp.ncdf(x),
    "gelu_tanh": lambda x: x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mpf("0.044715") * x**3))),
    "relu": lambda x: max(x, mpf(0)),
    "relu2": lambda x: max(x, mpf(0)) ** 2,
}


def angles(rope, size, length, max_seq_len):
    """Radians per position of each pair, and what cosines and sines are multiplied by."""
    plain = [mpf(rope.theta) ** (-mpf(2 * i) / size) for i in range(size // 2)]
    match rope.scaling:
        case None:
            return plain, mpf(1)
        case LinearScaling(factor):
            return [f / mpf(factor) for f in plain], mpf(1)
        case Llama3Scaling(factor, low, high, original):
            turned = []
            for f in plain:
                kept = (original * f / (2 * mp.pi) - mpf(low)) / (mpf(high) - mpf(low))
                kept = min(max(kept, mpf(0)), mpf(1))
                turned.append(kept * f + (1 - kept) * f / mpf(factor))
            return turned, mpf(1)
        case LongRopeScaling(short, long, original, magnitude):
            factors = short if length <= original else long
            longer = mpf(max_seq_len) / original
            usual = mp.sqrt(1 + mp.log(longer) / mp.log(original)) if longer > 1 else mpf(1)
            turned = [f / mpf(factor) for f, factor in zip(plain, factors, strict=True)]
            return turned, usual if magnitude is None else mpf(magnitude)
        case DynamicScaling(factor, original):
            longer = mpf(max(length, original)) / original
            theta = rope.theta * (mpf(factor) * longer - (mpf(factor) - 1)) ** (
                mpf(size) / (size - 2)
            )
            return [theta ** (-mpf(2 * i) / size) for i in range(size // 2)], mpf(1)
        case YarnScaling(factor, original, fast, slow, magnitude, truncate):

            def pair(turns):
                return size * mp.log(original / (2 * mp.pi * mpf(turns))) / (2 * mp.log(rope.theta))

            first, last = pair(fast), pair(slow)
            if truncate:
                first, last = mp.floor(first), mp.ceil(last)
            first, last = max(first, 0), min(last, size - 1)
            turned = []
            for i, f in enumerate(plain):
                ramp = min(max((i - first) / (last - first), mpf(0)), mpf(1))
                turned.append(ramp * f / mpf(factor) + (1 - ramp) * f)
            usual = mpf("0.1") * mp.log(mpf(factor)) + 1
            return turned, usual if magnitude is None else mpf(magnitude)


def turn(x, position, frequencies, magnitude):
    """Half-split pairs of the leading elements, turned by position * frequency."""
    half = len(frequencies)
    y = list(x)
    for i, frequency in enumerate(frequencies):
        cos = magnitude * mp.cos(position * frequency)
        sin = magnitude * mp.sin(position * frequency)
        y[i] = x[i] * cos - x[i + half] * sin
        y[i + half] = x[i + half] * cos + x[i] * sin
    return y


def attention(weights, at, block, xs, max_seq_len):
    a, size = block.attention, block.attention.head_size
    form = a.query_key_norm

    def norm_head(name, h, head):
        """The norm of head h; each_head has the weights of all heads in one vector."""
        path = f"{at}.{name}_norm"
        own = weights
        if form.over == "each_head":
            names = [f"{path}.weight", *([f"{path}.bias"] if form.bias else [])]
            own = {one: weights[one][size * h : size * (h + 1)] for one in names}
        return norm(own, path, block.qk_norm, head)

    def norm_heads(name, split):
        """The norm of queries or keys, over each head or all of them."""
        if form.over != "flat":
            return [[norm_head(name, h, head) for h, head in enumerate(row)] for row in split]
        rows = [[value for head in row for value in head] for row in split]
        rows = [norm(weights, f"{at}.{name}_norm", block.qk_norm, row) for row in rows]
        return [[row[i : i + size] for i in range(0, len(row), size)] for row in rows]

    def heads(name, count, size, normed=False):
        rows = [linear(weights, f"{at}.{name}_proj", x) for x in xs]
        if a.clip_qkv is not None:
            bound = mpf(a.clip_qkv)
            rows = [[min(max(value, -bound), bound) for value in row] for row in rows]
        split = [[row[size * h : size * (h + 1)] for h in range(count)] for row in rows]
        if normed and form and not form.after_rope:
            split = norm_heads(name, split)
        if normed and isinstance(a.position_encoding, Rope):
            turning = angles(a.position_encoding, a.rotary_size, len(xs), max_seq_len)
            split = [[turn(head, t, *turning) for head in row] for t, row in enumerate(split)]
        if normed and form and form.after_rope:
            split = norm_heads(name, split)
        return split

    q, k = heads("q", a.num_heads, size, True), heads("k", a.kv_heads, size, True)
    v = heads("v", a.kv_heads, a.value_size)
    out = []
    for t in range(len(xs)):
        mixed = []
        for h in range(a.num_heads):
            group = h * a.kv_heads // a.num_heads
            seen = [
                s
                for s in range(len(xs))
                if (s <= t or not a.causal)
                and (a.window_size is None or abs(t - s) < a.window_size)
            ]
            scores = []
            for s in seen:
                score = mpf(a.score_scale) * dot(q[t][h], k[s][group])
                if a.softcap is not None:
                    score = mpf(a.softcap) * mp.tanh(score / mpf(a.softcap))
                match a.position_encoding:
                    case Alibi("learned", factor):
                        slope = weights[f"{at}.alibi_slopes"][h]
                        score -= mpf(factor or 1) * slope * abs(t - s)
                    case Alibi("fixed", factor):
                        slope = mpf(2) ** (-mpf(8) * (h + 1) / a.num_heads)
                        score -= mpf(factor or 1) * slope * abs(t - s)
                scores.append(mp.exp(score))
            whole = mp.fsum(scores)
            if a.sinks:
                whole += mp.exp(weights[f"{at}.sinks"][h])
            for e in range(a.value_size):
                pairs = zip(scores, seen, strict=True)
                mixed.append(mp.fsum(p / whole * v[s][group][e] for p, s in pairs))
        if a.output_gate:
            gate = linear(weights, f"{at}.gate_proj", xs[t])
            mixed = [m / (1 + mp.exp(-g)) for m, g in zip(mixed, gate, strict=True)]
        out.append(linear(weights, f"{at}.o_proj", mixed))
    return out


def feed_forward(weights, at, block, x):
    act = ACTIVATIONS[block.ffn.function]
    up = linear(weights, f"{at}.up_proj", x)
    if block.ffn.limit is not None:
        c, a = mpf(block.ffn.limit), mpf(block.ffn.alpha)
        gate = [min(g, c) for g in linear(weights, f"{at}.gate_proj", x)]
        opened = [g / (1 + mp.exp(-a * g)) for g in gate]
        inner = [g * (max(min(u, c), -c) + 1) for g, u in zip(opened, up, strict=True)]
        return linear(weights, f"{at}.down_proj", inner)
    if block.ffn.gated:
        gate = linear(weights, f"{at}.gate_proj", x)
        return linear(
            weights, f"{at}.down_proj", [act(g) * u for g, u in zip(gate, up, strict=True)]
        )
    return linear(weights, f"{at}.down_proj", [act(u) for u in up])


def layer(weights, at, block, xs, max_seq_len):
    def normed(name, rows):
        return [norm(weights, f"{at}.{name}", block.norm, row) for row in rows]

    def scaled(rows):
        scale = mpf(1 if block.residual_scale is None else block.residual_scale)
        return [[scale * value for value in row] for row in rows]

    def added(rows, more):
        kept = block.residual
        return [plus(a, b) if kept else b for a, b in zip(rows, more, strict=True)]

    position, middle, a = block.norm_position, xs, None
    if block.attention is not None:
        into = normed("input_layernorm", xs) if position in ("pre", "sandwich") else xs
        a = attention(weights, f"{at}.self_attn", block, into, max_seq_len)
        if position in ("output", "sandwich"):
            a = normed("post_attention_layernorm", a)
        a = scaled(a)
        middle = added(xs, a)
        if position == "post":
            middle = normed("post_attention_layernorm", middle)
    if block.ffn is None:
        return middle
    read = xs if block.parallel else middle
    if position == "pre":
        own = "input_layernorm" if block.shared_norm else "post_attention_layernorm"
        read = normed(own, read)
    if position == "sandwich":
        read = normed("pre_feedforward_layernorm", read)
    f = [feed_forward(weights, f"{at}.mlp", block, row) for row in read]
    if position in ("output", "sandwich"):
        f = normed("post_feedforward_layernorm", f)
    f = scaled(f)
    if block.parallel and not block.residual:
        return [plus(a_row, f_row) for a_row, f_row in zip(a, f, strict=True)]
    out = added(middle, f)
    return normed("post_feedforward_layernorm", out) if position == "post" else out


def logits(spec, tensors, tokens):
    """The logits of one row of tokens, (T, V), in numbers of 50 digits."""
    weights = {name: numbers(tensors[name]) for name in tensors}
    embedding = weights["model.embed_tokens.weight"]
    scale = mpf(1 if spec.embeddings.scale is None else spec.embeddings.scale)
    xs = [[scale * v for v in embedding[int(token)]] for token in tokens]
    xs = [norm(weights, "model.embed_norm", spec.embeddings.norm or NoNorm(), x) for x in xs]
    if spec.learned_positions:
        xs = [plus(x, weights["model.embed_positions.weight"][t]) for t, x in enumerate(xs)]
    for i, block in enumerate(spec.layers):
        xs = layer(weights, f"model.layers.{i}", block, xs, spec.max_seq_len)
    xs = [norm(weights, "model.norm", spec.final_norm, x) for x in xs]
    head = dict(weights)
    if spec.embeddings.tie_weights:
        head["lm_head.weight"] = embedding
    scale = mpf(1 if spec.output.scale is None else spec.output.scale)
    out = [[scale * y for y in linear(head, "lm_head", x)] for x in xs]
    cap = spec.output.softcap
    return out if cap is None else [[mpf(cap) * mp.tanh(y / mpf(cap)) for y in row] for row in out]


def error(ours, exact):
    """The largest difference of ours from the exact numbers, over their root mean square."""
    flat = [value for row in exact for value in row]
    root = mp.sqrt(mp.fsum(value**2 for value in flat) / len(flat))
    mine = [mpf(float(value)) for row in ours for value in row]
    return float(max(abs(a - b) for a, b in zip(mine, flat, strict=True)) / root)
