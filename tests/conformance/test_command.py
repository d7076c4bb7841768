"""`hermes conformance` from beginning to end."""

import json

from hermes_conformance.certificate import verify
from hermes_conformance.suite import runner
from tests.conformance.support import SMALL, make_outcome, plant, run_hermes


def test_a_good_backend_gets_a_line_per_law_and_a_certificate(capsys, tmp_path):
    file, page = tmp_path / "c.json", tmp_path / "c.html"
    code, out, _ = run_hermes(
        capsys, "run", "--backend", "mlx", *SMALL, "--json", str(file), "--html", str(page)
    )
    assert code == 0
    assert "\nL1  float64 semantics\n" in out
    assert "bound 1.0e-11 rms" in out
    assert "mlx against numpy: " in out.splitlines()[-1]
    made = json.loads(file.read_text())
    assert made["passed"] is True
    assert made["backend"] == "mlx"
    assert made["against"] == "numpy"
    assert {"hermes", "numpy", "mlx"} <= set(made["versions"])
    levels = {level["level"]: level for level in made["levels"]}
    assert set(levels) == {"L0", "L1", "L2", "L3"}
    for law in levels["L1"]["laws"]:
        wanted = {"law", "cases", "passed", "failed", "declined", "worst", "bound"}
        assert wanted <= set(law)
        assert law["cases"] == law["passed"]
    declined = {law["law"]: law["declined"] for law in levels["L3"]["laws"]}
    assert declined == {
        "bfloat16": 0,
        "loss": 0,
        "gradients": 0,
        "decoding": 0,
        "rows": 0,
        "tf32": 2,
        "tf32-gradients": 2,
        "float16": 0,
        "float16-gradients": 0,
        "float16-small": 0,
        "gradient-noise-float16": 0,
    }  # no failure
    assert made["conditions"]["environment"]["MLX_ENABLE_TF32"] == "0"
    assert verify.check_certificate(made, verify.read_installed_versions(made)) == []
    text = page.read_text()
    assert "mlx against numpy" in text
    assert made["sha256"] in text
    assert "<script" not in text
    assert '<td class="n">declined<td' in text
    assert '<td class="n">inf' not in text
    assert "partial: " in text
    assert "by --case default/*" in text.replace("&#39;", "")
    code, out, _ = run_hermes(capsys, "verify", str(file))
    assert code == 0
    assert out.startswith("mlx against numpy passed L0, L1, L2, L3 on cpu (")
    assert "\npartial: " in out
    assert out.endswith("\njudged in float32, float64, bfloat16, float16\n")


def test_a_failure_says_what_failed_where_and_how_to_run_it_again(capsys, tmp_path):
    file, page = tmp_path / "c.json", tmp_path / "c.html"
    with plant("rope turns backwards"):
        code, out, _ = run_hermes(
            capsys, "run", "--law", "L1/logits", *SMALL, "--json", str(file), "--html", str(page)
        )
    assert code == 1
    block = out[out.index("FAILED L1/logits: ") :]
    assert "case   default/fresh" in block
    assert "tensor logits (2, 10, 37) at [" in block
    assert "bound 1.0e-11 rms" in block
    again = "hermes conformance run --backend torch --against numpy --law L1/logits --case default/"
    assert again in block
    made = json.loads(file.read_text())
    assert made["passed"] is False
    assert made["failures"][0]["measures"][0]["tensor"] == "logits"
    assert 'class="bad"' in page.read_text()
    code, _, err = run_hermes(capsys, "verify", str(file))
    assert code == 1
    assert "did not pass" in err


def test_a_float64_that_is_not_one_refuses_the_level(capsys):
    with plant("float32 inside float64's silu", "mlx"):
        code, out, _ = run_hermes(capsys, "run", "--backend", "mlx", "--level", "L1", *SMALL)
    assert code == 1
    assert "the float64 of mlx is not one: exp in silu is off by 3e-08" in out


def test_an_xfail_file_excuses_and_grows_stale(capsys, tmp_path):
    file = tmp_path / "x.toml"
    file.write_text(
        "[[xfail]]\nlaw = 'L1/logits'\ncase = '*'\nreason = 'known'\nexpires = 2999-01-01\n"
    )
    words = ["run", "--law", "L1/logits", *SMALL, "--xfail", str(file)]
    with plant("rope turns backwards"):
        code, out, _ = run_hermes(capsys, *words)
    assert "2 failed as expected" in out
    assert "FAILED" not in out
    assert code == 1  # nothing passed, so nothing is certified
    with plant("rope turns backwards"):
        code, out, _ = run_hermes(capsys, *words, "--law", "L1/packing")
    assert "2 failed as expected" in out
    assert code == 0
    code, out, _ = run_hermes(capsys, *words)
    assert code == 1
    assert "was expected to fail and passes" in out


def test_an_entry_that_fits_no_case_fails_the_run(capsys, tmp_path, monkeypatch):
    file = tmp_path / "x.toml"
    file.write_text(
        "[[xfail]]\nlaw = 'L1/logits'\ncase = 'defalt/*'\nreason = 'known'\nexpires = 2999-01-01\n"
    )
    monkeypatch.setattr(
        runner, "judge_level", lambda level, backends, selection: iter([make_outcome()])
    )
    code, out, _ = run_hermes(capsys, "run", "--level", "L1", "--xfail", str(file))
    assert code == 1
    assert "FAILED L1/logits on defalt/* fits no case" in out
    assert run_hermes(capsys, "run", "--level", "L1")[0] == 0


def test_the_command_to_run_a_failure_again_has_the_options_of_the_run(capsys, monkeypatch):
    failed = make_outcome(runner.FAILED)
    monkeypatch.setattr(runner, "judge_level", lambda level, backends, selection: iter([failed]))
    _, out, _ = run_hermes(capsys, "run", "--level", "L1", "--long")
    assert "--against numpy --long --law L1/logits --case default/hot" in out
    _, out, _ = run_hermes(capsys, "run", "--dtype", "float32", "--device", "cpu")
    assert "--device cpu --dtype float32 --law L1/logits --case default/hot" in out


def test_what_is_unknown_is_refused(capsys):
    for words, message in (
        (["run", "--case", "nothing"], "no case is called 'nothing'; see hermes conformance list"),
        (["run", "--level", "L1", "--law", "L2/*"], "no law of L1 is called 'L2/*'"),
        (["run", "--level", "L1", "--dtype", "float16"], "no chosen law has a chosen case"),
        (["run", "--level", "L0-"], "level 'L0-' is unknown; write one of L0"),
        (["run", "--law", "L1/gradients"], "L1/gradients needs a reference that trains too"),
        (["run", "--law", "L1/derivatives", "--against", "mlx"], "choose --against numpy"),
        (["run", "--law", "L1/gradients", "--backend", "numpy", "--against", "mlx"], "that trains"),
        (["run", "--json", "/tmp/s", "--html", "/tmp/../tmp/s"], "would be written twice; name"),
        (["run", "--json", "/proc/c.json"], "/proc/c.json cannot be written: "),
        (["run", "--level", "L2-L0"], "level 'L2-L0' runs backwards; write L0-L2"),
        (["run", "--json", "/nowhere/c.json"], "/nowhere/c.json cannot be written: /nowhere is no"),
        (["run", "--json", "/"], "/ cannot be written: it is a folder"),
        (["run", "--html", "/"], "/ cannot be written: it is a folder"),
        (["self-test", "--json", "/nowhere/c.json"], "/nowhere is no folder"),
        (["self-test", "--json", "/"], "/ cannot be written: it is a folder"),
        (["run", "--checkpoint", "/nowhere"], "/nowhere: no such file or folder; check the name"),
        (["self-test", "--backend", "numpy", "--against", "torch"], "hermes_numpy is not"),
        (["run", "--level", "L7"], "level 'L7' is unknown"),
        (["run", "--dtype", "half"], "dtype 'half' is unknown"),
        (["run", "--device", "tpu"], "torch has no device 'tpu' here"),
        (["run", "--against", "torch"], "'torch' against itself proves nothing"),
        (["run", "--backend", "jax"], "backend 'jax' is unknown"),
        (["bisect", "--case", "nothing"], "no case 'nothing' in L1"),
    ):
        code, _, err = run_hermes(capsys, *words)
        assert code == 1, words
        assert message in err


def test_list_says_each_law_its_bound_and_why(capsys):
    code, out, _ = run_hermes(capsys, "list", "--level", "L1", "--cases")
    assert code == 0
    assert "logits: logits agree (" in out
    assert "within 1.0e-11 rms; measured" in out
    assert "attention.window" not in out
    assert "\n    attention.mask=window/hot\n" in out


def test_the_self_test_plants_only_the_faults_that_are_named(capsys, tmp_path):
    file = tmp_path / "rows.json"
    words = ["--fault", "rope turns b*", "--fault", "rope turns no keys", "--json", str(file)]
    code, out, _ = run_hermes(capsys, "self-test", *words)
    assert code == 0
    rows = json.loads(file.read_text())
    assert {row["fault"] for row in rows} == {"rope turns backwards", "rope turns no keys"}
    assert out.splitlines()[-1].startswith("2 of 2 caught in ")
    assert "Not planted" not in out
    words = ["--against", "mlx", "--fault", "keys have no gradient"]  # its law is the oracle's
    code, _, err = run_hermes(capsys, "self-test", *words)
    assert (code, "no such fault can be planted in torch against mlx" in err) == (1, True)
    code, _, err = run_hermes(capsys, "self-test", "--fault", "nothing")
    assert (code, "no fault is called 'nothing'" in err) == (1, True)


def test_bisect_names_the_tensor(capsys):
    code, out, _ = run_hermes(capsys, "bisect", "--case", "default/hot")
    assert code == 0
    assert out.endswith(
        "agree on default/hot to the last tensor, within 1.0e-11 rms, the loss within 1.0e-12 "
        "nats, gradients within 1.0e-10 rms\n"
    )
    code, out, _ = run_hermes(capsys, "bisect", "--case", "default/hot", "--dtype", "bfloat16")
    assert (code, "agree on default/hot" in out) == (0, True)
    assert out.endswith("the loss and gradients are not compared in bfloat16\n")
    code, out, _ = run_hermes(capsys, "bisect", "--case", "lora.dropout/hot")
    assert (code, "gradients within 1.0e-10 rms" in out) == (0, True)
    saturated = "edge.saturated attention/hot"  # its gradients vanish
    code, out, _ = run_hermes(capsys, "bisect", "--case", saturated)
    assert (code, "as L1/derivatives has no such case" in out) == (0, True)
    with plant("rope turns no keys"):
        code, out, _ = run_hermes(capsys, "bisect", "--case", "default/hot")
    assert code == 1
    assert out.startswith("layers.0.self_attn: k after rope, row 0, head 0, position 3")
