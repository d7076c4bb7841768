"""Ten updates of preferences beside a plain implementation that shares nothing but the model.

It keeps the reference model in memory, runs every completion alone and without padding, and updates
with PyTorch's own AdamW and clipping.
"""

import numpy as np
import pytest

from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.template import Template
from hermes.data import Cursor
from hermes.data.encoded_pairs import encode_pair
from hermes.data.preference_dataset import PreferenceDataset
from hermes.data.preferences import parse_pair
from hermes.data.records import Record
from hermes.finetuning.reference_logprobs import compute_reference
from hermes.interface import Options, TrainState, find_backend
from hermes.numerics.params import init_weights, list_parameters
from hermes.recipe import Preference, Recipe
from hermes.tokenizer import CHAT_TEMPLATE
from tests.finetuning.support import small_spec, small_tokenizer, some_pairs

torch = pytest.importorskip("torch")

RULES = {
    "sigmoid": Preference(beta=0.3),
    "cdpo": Preference(beta=0.3, label_smoothing=0.2),
    "ipo": Preference("ipo", beta=0.2),
    "hinge": Preference("hinge", beta=0.3, sft_weight=0.5),
}
OPTIONS = Options(device="cpu", as_trained=True)


def plain_losses(runtime, second, pairs, order, rule, recipe, steps):
    """Losses of the updates, a pair at a time."""
    policy, reference = runtime.module, second.module
    decay = {name: tensor.decay for name, tensor in list_parameters(runtime.spec).items()}
    groups = [
        {"params": [p for n, p in policy.named_parameters() if decay[n]], "weight_decay": 0.1},
        {"params": [p for n, p in policy.named_parameters() if not decay[n]], "weight_decay": 0.0},
    ]
    for parameter in policy.parameters():
        parameter.requires_grad_(True)
    adamw = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95), eps=1e-8)

    def logprob(module, side):
        ids = torch.tensor(side.ids.tolist())[None]
        scores = module(ids[:, :-1], runtime.make_context()).log_softmax(-1)
        found = scores[0, torch.arange(ids.shape[1] - 1), ids[0, 1:]]
        return found[torch.tensor(side.loss_mask[1:].tolist())]

    losses = []
    for step in range(steps):
        total = torch.zeros(())
        for number in order[step]:
            chosen, rejected = pairs[number].chosen, pairs[number].rejected
            with torch.no_grad():
                held = logprob(reference, chosen).sum() - logprob(reference, rejected).sum()
            mine = logprob(policy, chosen)
            margin = mine.sum() - logprob(policy, rejected).sum() - held
            total = total + one_loss(margin, mine.mean(), rule)
        loss = total / len(order[step])
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        adamw.step()
        losses.append(loss.item())
    return losses


def one_loss(margin, chosen_mean, rule):
    log, sigmoid = torch.log, torch.sigmoid
    match rule.loss:
        case "sigmoid":
            w = rule.label_smoothing
            x = rule.beta * margin
            loss = -(1 - w) * log(sigmoid(x)) - w * log(1 - sigmoid(x))
        case "ipo":
            loss = (margin - 0.5 / rule.beta) ** 2
        case "hinge":
            loss = torch.relu(1 - rule.beta * margin)
    return loss - rule.sft_weight * chosen_mean


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize("name", RULES)
def test_ten_updates_are_those_of_a_plain_implementation(backend, name):
    rule, spec = RULES[name], small_spec()
    encoder = ChatEncoder(small_tokenizer(), Template(CHAT_TEMPLATE, names={}))
    pairs = [encode_pair(parse_pair(Record(r, "f:1")), encoder) for r in some_pairs()]
    recipe = Recipe(
        objective="preference", preference=rule, lr=1e-3, batch_size=2, grad_accum=2, seq_len=64
    )
    data = PreferenceDataset(pairs, max_len=64, vocab_size=300, rule=rule)
    weights = init_weights(spec, 0)
    model = find_backend(backend).build(spec, weights, OPTIONS)
    data.reference = compute_reference(model, data, recipe)
    learner = find_backend(backend).learner(spec, TrainState(weights, {}, {}, 0), recipe, OPTIONS)
    cursor, losses, order = Cursor(), [], []
    for _ in range(10):
        order.append(data.select_pairs(cursor, 4).tolist())
        batch, cursor = data.draw_batch(cursor, samples=4, micro_batch=2, accum=2)
        losses.append(float(learner.step(batch, recipe.lr).loss))
    twice = [find_backend("torch").build(spec, weights, OPTIONS).runtime for _ in range(2)]
    expected = plain_losses(*twice, pairs, order, rule, recipe, 10)
    assert abs(expected[-1] - expected[0]) > 0.02 * expected[0]
    np.testing.assert_allclose(losses, expected, rtol=2e-5)
