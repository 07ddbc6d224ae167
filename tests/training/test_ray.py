"""Offline inference on a local cluster of Ray: what one process gives, whoever dies on the way."""

from __future__ import annotations

import importlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from tests.cli.test_train import write
from vitkern import cli
from vitkern.training.build import load_run
from vitkern.training.offline import Worker, compute, compute_on_ray

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra ray)"
)
COUNT, BATCH = 23, 4


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert cli.main(["train", write(folder / "digits.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, of which the names are not in the order of their numbers."""
    from sklearn.datasets import load_digits

    root = tmp_path_factory.mktemp("images")
    for index, pixels in enumerate(load_digits().images[:COUNT]):
        Image.fromarray((pixels * 255 / 16).astype(np.uint8)).save(root / f"{index}.png")
    return root


class Dying(Worker):
    """Kills its process once, at the first batch that it sees of those that have ``10.png``."""

    def __call__(self, paths: str) -> bytes:
        names = json.loads(paths)
        mark = Path(names[0]).parent / "died"
        if any(name.endswith("/10.png") for name in names) and not mark.exists():
            mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(paths)


@needs_ray
def test_a_killed_worker_loses_nothing(
    run: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitkern.training.offline.Worker", Dying)
    # Workers of Ray find the tests where they find vitkern.
    root = str(Path(__file__).resolve().parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    paths = sorted(images.glob("*.png"))
    found = compute_on_ray(run, paths, workers=2, batch_size=BATCH)
    killed = int((images / "died").read_text())
    assert killed != os.getpid()
    alone = compute(load_run(run), paths, batch_size=BATCH)
    assert found.paths == alone.paths == paths
    assert torch.equal(found.values, alone.values)
    assert found.skipped == alone.skipped == []


@needs_ray
def test_embed_on_the_command_line(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a file that cannot be read, so that batches are not those of one process."""
    (images / "5a.png").write_bytes(b"")
    printed: list[dict[str, Any]] = []
    tables = []
    for name, options in (("one", []), ("ray", ["--ray", "2"])):
        out = str(tmp_path / f"{name}.parquet")
        argv = ["embed", str(run), str(images), "--out", out, "--batch-size", str(BATCH), "--json"]
        assert cli.main([*argv, *options]) == 0
        captured = capsys.readouterr()
        printed.append(json.loads(captured.out))
        assert captured.err == f"skipped {images}/5a.png: the file is empty\n"
        tables.append(pyarrow.parquet.read_table(out).to_pydict())
    assert printed[0]["images"] == printed[1]["images"] == COUNT
    assert printed[0]["skipped"] == printed[1]["skipped"]
    assert tables[0]["image"] == tables[1]["image"]
    torch.testing.assert_close(
        torch.tensor(tables[1]["features"]), torch.tensor(tables[0]["features"])
    )


def test_without_ray(run: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "ray", None)
        assert cli.main(["predict", str(run), str(images), "--ray", "2"]) == 1
    assert 'the package ray is not installed: pip install "vitkern[ray]"' in capsys.readouterr().err
