"""Published configurations, built small: everything about them is right, or a feature is named."""

import pytest

from tests.against_other_tools.small_models import CONFIGURATIONS
from tests.against_other_tools.support import FLOAT32

pytest.importorskip("transformers", reason="pip install 'hermes-llm[interop-test]'")
pytest.importorskip("mlx_lm", reason="pip install 'hermes-llm[interop-test]'")
measure = pytest.importorskip("tests.against_other_tools.measure")

# What MAL lacks, or hermes has no reader for.
REFUSED = {
    "Mixtral-8x7B-v0.1": "MAL has no mixture of experts",
    "Qwen1.5-MoE-A2.7B": "MAL has no mixture of experts",
    "DeepSeek-V2-Lite": "MAL has no mixture of experts",
    "MiniCPM-MoE-8x2B": "MAL has no mixture of experts",
    "deepseek-moe-16b": "MAL has no mixture of experts",
    "Qwen3-30B-A3B": "MAL has no mixture of experts",
    "DeepSeek-V3": "MAL has no mixture of experts",
    "gpt-oss-20b": "MAL has no mixture of experts",
    "Llama-4-Scout": "MAL has no mixture of experts",
    "Qwen3-Next-80B-A3B": "MAL has no linear attention",
    "Qwen3.5-27B": "MAL has no linear attention",
    "gemma-3n-E2B": "MAL has no embeddings per layer",
    "granite-4.0-h-micro": "MAL has no ",
    "mamba-130m-hf": "MAL has no state-space layers",
    "LFM2-1.2B": "MAL has no short convolutions",
    "Qwen2.5-7B-Instruct-1M": "MAL has no chunked attention",
    "Ministral-3-3B-2512": "MAL has no scale of queries by position",
    "opt-350m": "MAL has no norms of the residual sum",
}
# What no other tool has a class for but the code in its repository.
WITHOUT_CLASS = ("Baichuan-13B-Chat",)


@pytest.mark.long
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_published_configuration_works_or_is_refused_by_what_is_lacking(name):
    found = measure.measure(name)
    if name in REFUSED:
        assert REFUSED[name] in found.refused
        return
    assert found.refused == ""
    assert max(found.errors.values()) < FLOAT32, found.errors
    assert found.same_ids == found.same_text == {"torch": True, "mlx": True}
    if name in WITHOUT_CLASS:
        assert found.written == "no class"
        return
    assert found.back < FLOAT32
    assert not found.mlx_lm[0].isdigit() or float(found.mlx_lm) < FLOAT32
