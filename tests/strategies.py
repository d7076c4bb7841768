"""Hypothesis strategies for specs: every field of the language, in sizes that stay small."""

from hypothesis import strategies as st

from hermes.spec import (
    ACTIVATIONS,
    BIASES,
    NORM_POSITIONS,
    QK_NORM_KINDS,
    QK_NORM_RANGES,
    QK_NORMS,
    SLOPES,
    Alibi,
    AttentionSpec,
    BlockSpec,
    DynamicScaling,
    EmbeddingsSpec,
    FfnSpec,
    LayerNorm,
    Learned,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ModelSpec,
    NoNorm,
    NoPositions,
    OutputSpec,
    QkNorm,
    RMSNorm,
    Rope,
    YarnScaling,
)

# Words of the language among them: each kind has its name space, so that none is reserved.
NAMES = st.sampled_from(
    ["a", "b-2", "_", "Z9", "none", "true", "attention", "rope", "head", "m" * 100]
)
RATES = st.floats(0, 1, exclude_max=True)
POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False)
NUMBERS = st.floats(allow_infinity=False, allow_nan=False)
LENGTHS = st.integers(1, 2**31 - 1)
# Anything that a file of text may carry, quotes and backslashes among it.
TEXTS = st.text(
    st.one_of(st.sampled_from('"\\\n\t#{}'), st.characters(exclude_categories=("Cs", "Cc"))),
    max_size=20,
)


def optional(strategy):
    return st.one_of(st.none(), strategy)


@st.composite
def llama3_scalings(draw):
    low, high = sorted(draw(st.lists(POSITIVE, min_size=2, max_size=2, unique=True)))
    return Llama3Scaling(draw(POSITIVE), low, high, draw(LENGTHS))


@st.composite
def yarn_scalings(draw):
    slow, fast = sorted(draw(st.lists(POSITIVE, min_size=2, max_size=2, unique=True)))
    factor = draw(optional(POSITIVE))
    return YarnScaling(draw(POSITIVE), draw(LENGTHS), fast, slow, factor, draw(st.booleans()))


@st.composite
def longrope_scalings(draw, size):
    factors = st.lists(POSITIVE, min_size=size // 2, max_size=size // 2).map(tuple)
    length = draw(st.integers(2, 2**31 - 1))
    return LongRopeScaling(draw(factors), draw(factors), length, draw(optional(POSITIVE)))


@st.composite
def ropes(draw, head_dim):
    """Any rope for a head of this size."""
    half = draw(optional(st.integers(1, max(head_dim // 2, 1))))
    size = 2 * half if half else head_dim
    scalings = [
        st.none(),
        st.builds(LinearScaling, POSITIVE),
        llama3_scalings(),
        yarn_scalings(),
        longrope_scalings(size),
        *([st.builds(DynamicScaling, POSITIVE, LENGTHS)] if size > 2 else []),
    ]
    return Rope(draw(POSITIVE), draw(st.one_of(*scalings)), 2 * half if half else None)


NORMS = st.one_of(
    st.builds(RMSNorm, POSITIVE, st.booleans()),
    st.builds(RMSNorm, POSITIVE, weight=st.just(False)),
    st.builds(LayerNorm, POSITIVE, st.booleans(), unit_offset=st.booleans()),
    st.builds(LayerNorm, POSITIVE, weight=st.just(False)),
    st.builds(NoNorm),
)


@st.composite
def positions(draw, max_positions=None, head_dim=8):
    """Any positions that fit: rotary_dim within head_dim, learned ones as many as asked."""
    others = [
        st.builds(Learned, st.just(max_positions)),
        st.builds(Alibi, st.sampled_from(SLOPES), optional(POSITIVE)),
        st.builds(NoPositions),
    ]
    return draw(st.one_of(*([ropes(head_dim)] if head_dim > 1 else []), *others))


def qk_norms():
    """Any norm of queries and keys; that of each head has a weight."""
    return st.one_of(
        st.builds(
            QkNorm,
            st.just("each_head"),
            st.sampled_from(QK_NORM_KINDS),
            after_rope=st.booleans(),
        ),
        st.builds(
            QkNorm, st.sampled_from(QK_NORM_RANGES), st.just("layernorm"), bias=st.booleans()
        ),
        st.builds(
            QkNorm, st.sampled_from(["head", "flat"]), st.sampled_from(QK_NORM_KINDS), st.booleans()
        ),
    )


@st.composite
def attentions(draw, hidden_size=None, max_positions=None):
    """Any attention that fits a model of this hidden size."""
    kv_heads = draw(st.integers(1, 4))
    heads = kv_heads * draw(st.integers(1, 4))
    derived = hidden_size is not None and hidden_size % (2 * heads) == 0
    head_dim = draw(st.one_of(*([st.none()] if derived else []), st.sampled_from([2, 4, 8, 16])))
    return AttentionSpec(
        num_heads=heads,
        num_kv_heads=draw(st.one_of(st.just(kv_heads), st.none())),
        head_dim=head_dim,
        bias=draw(st.sampled_from(BIASES)),
        dropout=draw(RATES),
        causal=draw(st.booleans()),
        window_size=draw(optional(LENGTHS)),
        position_encoding=draw(positions(max_positions, head_dim or hidden_size // heads)),
        qk_norm=draw(st.one_of(st.sampled_from(QK_NORMS), qk_norms())),
        softcap=draw(optional(POSITIVE)),
        scale=draw(optional(POSITIVE)),
        v_head_dim=draw(optional(st.sampled_from([1, 2, 4, 16]))),
        clip_qkv=draw(optional(POSITIVE)),
        sinks=draw(st.booleans()),
        output_gate=draw(st.booleans()),
        name=draw(st.one_of(st.just(""), NAMES)),
    )


@st.composite
def ffns(draw):
    activation = draw(st.sampled_from(ACTIVATIONS))
    gated = activation in ("swiglu", "geglu")
    clamped = activation == "swiglu" and draw(st.booleans())
    return FfnSpec(
        hidden_dim=draw(optional(st.integers(1, 64))),
        activation=activation,
        gate=draw(st.sampled_from([None, True] if gated else [None, True, False])),
        bias=draw(st.booleans()),
        dropout=draw(RATES),
        limit=draw(POSITIVE) if clamped else None,
        alpha=draw(POSITIVE) if clamped else None,
        name=draw(st.one_of(st.just(""), NAMES)),
    )


@st.composite
def blocks(draw, hidden_size=None, max_positions=None):
    missing = draw(st.sampled_from([None, None, None, "attention", "ffn"]))
    parallel = missing is None and draw(st.booleans())
    shared_norm = parallel and draw(st.booleans())
    places = [place for place in NORM_POSITIONS if not (parallel and place == "post")]
    places = ["pre"] if shared_norm else places
    return BlockSpec(
        attention=None if missing == "attention" else draw(attentions(hidden_size, max_positions)),
        ffn=None if missing == "ffn" else draw(ffns()),
        norm=draw(NORMS),
        norm_position=draw(st.sampled_from(places)),
        residual=draw(st.booleans()),
        dropout=draw(RATES),
        parallel=parallel,
        residual_scale=draw(optional(POSITIVE)),
        shared_norm=shared_norm,
        name=draw(st.one_of(st.just(""), NAMES)),
    )


def _named_once(blocks):
    """Whether no two different parts bear one name, which a spec refuses."""
    parts = {}
    for block in blocks:
        for kind, part in (("b", block), ("a", block.attention), ("f", block.ffn)):
            name = "none" if part is None else part.name
            if name and parts.setdefault((kind, name), part) != part:
                return False
    return True


@st.composite
def models(draw):
    """Any model of the language, its sizes small enough to build: some hundred thousand weights."""
    hidden_size = draw(st.integers(1, 8).map(lambda eighth: 8 * eighth))
    max_seq_len = draw(st.integers(1, 64))
    max_positions = draw(optional(st.integers(max_seq_len, 80)))
    kinds = draw(
        st.lists(blocks(hidden_size, max_positions), min_size=1, max_size=3).filter(_named_once)
    )
    pattern = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=5))
    return ModelSpec(
        blocks=tuple(pattern),
        name=draw(NAMES),
        description=draw(TEXTS),
        vocab_size=draw(st.integers(1, 300)),
        max_seq_len=max_seq_len,
        hidden_size=hidden_size,
        num_layers=draw(st.integers(len(pattern), 8)),
        embeddings=EmbeddingsSpec(
            draw(st.booleans()),
            draw(RATES),
            draw(optional(NUMBERS)),
            draw(optional(NORMS.filter(lambda norm: norm != NoNorm()))),
        ),
        output=OutputSpec(
            draw(st.booleans()),
            draw(optional(NORMS)),
            draw(optional(POSITIVE)),
            draw(optional(POSITIVE)),
        ),
    )
