"""What transformers' Trainer and TRL's SFTTrainer save opens, at its end and half way, exactly."""

import numpy as np
import pytest

import hermes
from hermes.finetuning.base_model import open_base_model
from tests.against_other_tools.support import FLOAT32, distance
from tests.finetuning.support import TEXT, small_checkpoint

transformers = pytest.importorskip("transformers", reason="pip install 'hermes-llm[interop-test]'")
torch = pytest.importorskip("torch")
pytest.importorskip("accelerate", reason="pip install accelerate")

STEPS = 2
TALKS = [
    [{"role": "user", "content": "To be?"}, {"role": "assistant", "content": f"Or not {i}."}]
    for i in range(8)
]


def make_options(output):
    """Arguments that both trainers take; a checkpoint is written at each step."""
    return {
        "output_dir": str(output),
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "save_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,  # the default of TRL, in which the reference would be rounded
        "disable_tqdm": True,
    }


def train_with_transformers(model, tokenizer, output):
    ids = tokenizer(TEXT)["input_ids"][:24]
    data = [{"input_ids": ids, "labels": ids}] * 8
    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(**make_options(output)),
        train_dataset=data,
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(str(output / "end"))


def train_with_trl(model, tokenizer, output):
    trl = pytest.importorskip("trl", reason="pip install 'hermes-llm[trl]'")
    datasets = pytest.importorskip("datasets")
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(**make_options(output), max_length=64),
        train_dataset=datasets.Dataset.from_list([{"messages": talk} for talk in TALKS]),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(str(output / "end"))


@pytest.mark.parametrize("train", [train_with_transformers, train_with_trl])
def test_what_a_trainer_saves_opens_with_its_weights_tokenizer_and_template(tmp_path, train):
    base = small_checkpoint(tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    before = model.get_input_embeddings().weight.detach().clone()
    train(model, tokenizer, tmp_path / "out")
    assert not torch.equal(before, model.get_input_embeddings().weight)
    text = tokenizer.apply_chat_template(TALKS[0], tokenize=False)
    for folder in (tmp_path / "out" / "end", tmp_path / "out" / f"checkpoint-{STEPS}"):
        ours = hermes.load(folder, "torch", "cpu")
        ids = ours.encode(TEXT)
        assert ids == tokenizer(TEXT)["input_ids"]
        with torch.no_grad():
            theirs = model.eval()(torch.tensor([ids[:40]])).logits.numpy()
        assert distance(ours.logits(np.array([ids[:40]])), theirs) < FLOAT32
        encoder = open_base_model(folder).encoder
        assert encoder.template.render(TALKS[0], prompt=False) == text
