"""``vitkern train``, ``eval``, ``predict`` and ``embed``: what they print, write and refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

from vitkern import cli
from vitkern._library import load
from vitkern.training.history import read_history

RECIPE: dict[str, Any] = {
    "model": {
        "name": "vit_tiny_patch16_224",
        "arguments": {
            "img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2,
        },
    },
    "data": {"name": "digits", "size": 8},
    "train": {"epochs": 1, "batch_size": 128, "accumulate": 1, "lr": 1e-3},
}  # fmt: skip


def write(path: Path, **changes: Any) -> str:
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch."""
    folder = tmp_path_factory.mktemp("run")
    assert cli.main(["train", write(folder / "digits.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Four digits in folders of two classes, and a file that cannot be read."""
    from sklearn.datasets import load_digits

    found, root = load_digits(), tmp_path_factory.mktemp("images")
    for index in (0, 1, 10, 11):
        folder = root / str(found.target[index])
        folder.mkdir(exist_ok=True)
        pixels = (found.images[index] * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    (root / "0" / "bad.png").write_bytes(b"")
    yield root


def test_train_leaves_everything(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert {"best.safetensors", "summary.json", "history.jsonl", "curves.png"} <= names
    assert {"confusion.png", "checkpoint-000000010.safetensors"} <= names
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 10
    assert summary["test"]["images"] == 360
    assert (summary["patched_modules"] > 0) == load().available
    assert summary["recipe"]["train"]["weight_decay"] == 0.05  # defaults are recorded
    for name in ("curves.png", "confusion.png"):
        with Image.open(run / name) as picture:
            assert picture.width > 200


def test_train_with_flags_resume_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    recipe, out = write(tmp_path / "r.yaml"), str(tmp_path / "out")
    argv = ["train", recipe, "--out", out, "--json", "--set", "train.checkpoint_every=3"]
    assert cli.main([*argv, "--no-patch", "--lr", "0.002", "--fsdp"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert printed["recipe"]["train"]["lr"] == 0.002
    assert printed["recipe"]["train"]["patch"] is False
    assert printed["recipe"]["train"]["distributed"] == "fsdp"  # of one process: all of it
    assert printed["patched_modules"] == 0
    assert cli.main([*argv, "--no-patch", "--lr", "0.002"]) == 1
    assert "has checkpoints of an earlier run" in capsys.readouterr().err
    assert cli.main([*argv, "--no-patch", "--lr", "0.002", "--resume"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["test"] == printed["test"]
    assert len(read_history(tmp_path / "out" / "history.jsonl")) == 11
    patched = json.loads((run / "summary.json").read_text())
    assert patched["recipe"]["train"]["patch"] is True


def test_train_on_a_folder_by_flags_alone(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    for name in ("train", "val"):
        for label in ("0", "1"):
            (data / name / label).mkdir(parents=True)
            for path in (images / label).glob("*.png"):
                (data / name / label / path.name).write_bytes(path.read_bytes())
    argv = ["train", "--model", "vit_tiny_patch16_224", "--data", str(data), "--epochs", "1"]
    argv += ["--batch-size", "4", "--out", str(tmp_path / "out"), "--set", "data.size=16"]
    for setting in ("img_size=16", "patch_size=8", "embed_dim=16", "depth=1", "num_heads=2"):
        argv += ["--set", f"model.arguments.{setting}"]
    assert cli.main(argv) == 0
    told = capsys.readouterr().err
    assert told.count("bad.png: the file is empty") == 2
    assert "no folder test" in told


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"trian": {}}, "a recipe has no setting 'trian'; did you mean train"),
        ({"train": {"epoch": 3}}, "train has no setting 'epoch'; did you mean epochs"),
        ({"data": {"name": "digit"}}, "did you mean 'digits'"),
        ({"data": {"name": "digits", "sise": 8}}, "no setting 'sise'; did you mean size"),
        (
            {"model": {"name": "vit_tiny"}},
            "unknown model 'vit_tiny'; close matches: ",
        ),
        (
            {"model": {"name": "vit_tiny_patch16_224", "arguments": {"num_head": 2}}},
            "vit_tiny_patch16_224 has no argument 'num_head'; did you mean num_heads",
        ),
        ({"model": {"nam": "x"}}, "model has no setting 'nam'; did you mean name"),
        ({"data": {"name": "digits", "size": 16}}, "the model does not take images (1, 16, 16)"),
        ({"augment": {"mixup": -1}}, "augment.mixup must be at least 0"),
        ({"distill": {"teacher": "/nonexistent"}}, "/nonexistent is no run"),
        ({"distill": {"alpha": 0.5}}, "distill.teacher must be a run's folder"),
        ({"transfer": {"weights": "no/such.pt"}}, "are no file and no run's folder"),
        ({"transfer": {"freeze": 2}}, "transfer.freeze must be at least 0 and at most 1"),
        ({"class_weights": "balance"}, "did you mean 'balanced'"),
        ({"model": []}, "model must be names with values, got []"),
    ],
)
def test_wrong_recipes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    recipe = write(tmp_path / "r.yaml", **changes)
    assert cli.main(["train", recipe, "--out", str(tmp_path / "out")]) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train"]) == 2
    assert "RECIPE, or --model and --data, are required" in capsys.readouterr().err
    assert cli.main(["train", str(tmp_path / "nothing.yaml")]) == 2
    assert "No such file" in capsys.readouterr().err
    (tmp_path / "bad.yaml").write_text("model: [")
    assert cli.main(["train", str(tmp_path / "bad.yaml")]) == 2
    assert "bad.yaml is no YAML" in capsys.readouterr().err
    assert cli.main(["train", write(tmp_path / "r.yaml"), "--set", "lr"]) == 2
    assert "'lr' is not NAME=VALUE" in capsys.readouterr().err
    assert cli.main(["eval", str(tmp_path)]) == 2
    assert "is no run: it has no best.safetensors" in capsys.readouterr().err


def test_eval(run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "confusion.png"
    assert cli.main(["eval", str(run), "--json", "--confusion", str(picture)]) == 0
    found = json.loads(capsys.readouterr().out)
    summary = json.loads((run / "summary.json").read_text())
    assert {name: found[name] for name in summary["test"]} == summary["test"]
    assert picture.stat().st_size > 1000
    assert cli.main(["eval", str(run), "--no-patch", "--split", "valid"]) == 0
    printed = capsys.readouterr().out
    assert "sensitivity" in printed
    assert f"{summary['valid']['accuracy']:.2%}" in printed
    assert cli.main(["eval", str(run), "--data", str(images)]) == 2
    assert "no readable image of 2, 3" in capsys.readouterr().err


def test_eval_of_a_damaged_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((run / "best.safetensors").read_bytes())
    content[-1] ^= 255
    (tmp_path / "best.safetensors").write_bytes(content)
    assert cli.main(["eval", str(tmp_path)]) == 1
    assert "is damaged: its checksum does not match" in capsys.readouterr().err


def test_predict(run: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(run), str(images), "--json", "--top", "2"]) == 0
    output = capsys.readouterr()
    found = json.loads(output.out)
    assert [Path(one["image"]).name for one in found["predictions"]] == [
        "0.png", "10.png", "1.png", "11.png",
    ]  # fmt: skip
    for one in found["predictions"]:
        first, second = (entry["probability"] for entry in one["classes"])
        assert 0 < second <= first < 1
    assert found["skipped"][0]["reason"] == "the file is empty"
    assert "skipped" in output.err
    assert cli.main(["predict", str(run), str(images / "0" / "bad.png")]) == 1
    assert "no image could be read: 1 file skipped" in capsys.readouterr().err


def test_predict_sees_what_the_training_saw(run: Path, images: Path) -> None:
    """A digit from a file is the data set's digit, but for the rounding to 8 bits."""
    from sklearn.datasets import load_digits

    from vitkern.data.builtin import DIGITS
    from vitkern.data.images import read_image
    from vitkern.training.build import load_run

    mode, transform = load_run(run).files()
    ours = transform(read_image(images / "0" / "10.png", mode=mode))
    pixels = torch.from_numpy(load_digits().images[10]).float() / 16
    theirs = (pixels - DIGITS[0]) / DIGITS[1]
    torch.testing.assert_close(ours[0], theirs, rtol=0, atol=0.01)


@pytest.mark.parametrize("suffix", [".safetensors", ".parquet"])
def test_embed(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    out = tmp_path / f"features{suffix}"
    assert cli.main(["embed", str(run), str(images), "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["channels"], len(found["skipped"])) == (4, 16, 1)
    if suffix == ".parquet":
        table = pyarrow.parquet.read_table(out)
        features = np.stack(table["features"].to_numpy())
        names = table["image"].to_pylist()
    else:
        with safe_open(out, "np") as file:
            features = file.get_tensor("features")
            names = json.loads(file.metadata()["images"])
    assert [Path(name).name for name in names] == ["0.png", "10.png", "1.png", "11.png"]
    assert features.shape == (4, 16)
    assert features.dtype == np.float32
    # One image by itself, without kernels, gives the same.
    alone = tmp_path / "alone.safetensors"
    argv = ["embed", str(run), str(images / "1" / "1.png"), "--out", str(alone), "--no-patch"]
    assert cli.main(argv) == 0
    with safe_open(alone, "np") as file:
        np.testing.assert_allclose(file.get_tensor("features")[0], features[2], atol=1e-5)


def test_embed_into_a_file_of_another_kind(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["embed", str(run), ".", "--out", "features.csv"]) == 2
    assert "ends in neither .parquet nor .safetensors" in capsys.readouterr().err
