"""What a server has read, from one start to the next."""

import httpx
import pytest

from hermes.api_serving import open_served_model
from hermes.errors import CheckpointError, StorageError
from tests.serving.conftest import Served, serve_in_process
from tests.waiting import PATIENCE

PROMPTS = ("the cat sat on a mat and then", "it ran off to see what else there was")


def ask(address, prompt):
    body = {"prompt": prompt, "max_tokens": 6, "temperature": 0}
    answer = httpx.post(f"{address}/v1/completions", json=body, timeout=PATIENCE)
    return answer.json()["choices"][0]["text"]


def test_the_next_server_goes_on_from_what_the_last_has_read(checkpoint, tmp_path):
    folder, said = tmp_path / "rows", []
    for backend in ("torch", "mlx"):
        model = open_served_model(checkpoint, backend=backend, rows=3, prompt_cache=folder)
        before = {tokens[:7] for tokens in model.engine.list_rows()}
        prompts = [tuple(model.tokenizer.encode_prompt(text)) for text in PROMPTS]
        assert before == ({prompt[:7] for prompt in prompts} if said else set())
        reused, submit = [], model.engine.submit

        def watch(request, listener, submit=submit, reused=reused):
            reused.append(submit(request, listener))
            return reused[-1]

        model.engine.submit = watch
        server = Served(model)
        texts = [ask(server.address, text) for text in PROMPTS]
        assert server.stop()
        model.keep_rows()
        assert not said or texts == said
        expected = [len(prompt) - 1 for prompt in prompts] if said else [0, 0]
        assert [one.num_reused for one in reused] == expected
        said = texts
        assert len([*folder.iterdir()]) == 2


def test_a_folder_that_is_none_or_of_another_model_is_refused(checkpoint, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"no")
    with pytest.raises(StorageError, match="is a file; name a folder"):
        open_served_model(checkpoint, backend="torch", prompt_cache=path)
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "prompt-a.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"prompt-a\.safetensors is no prompt cache"):
        open_served_model(checkpoint, backend="torch", prompt_cache=folder)


def test_the_command_keeps_its_rows_at_a_signal(checkpoint, tmp_path):
    folder = tmp_path / "rows"
    command = ("hermes", "serve", "--checkpoint", checkpoint, "--backend", "torch")
    with serve_in_process(*command, "--prompt-cache", folder) as (_, address):
        ask(address.removesuffix("/v1"), PROMPTS[0])
    assert len([*folder.iterdir()]) == 1
