"""Patched models in a DataLoader's workers, forked from a process that has used its threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import sys
import torch
from torch.utils.data import DataLoader, Dataset

import vitkern
from tests.patching import zoo

assert torch.get_num_threads() == 2
method, name = sys.argv[1:]


class Features(Dataset):
    '''Features and gradients of images, by the model that the parent patched.'''

    def __init__(self, model, images):
        self.model, self.images = model, images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        x = self.images[index]
        with torch.inference_mode():
            features = self.model(x)
        grads = torch.autograd.grad(self.model(x).square().sum(), list(self.model.parameters()))
        return features.clone(), torch.cat([g.flatten() for g in grads])


def main():
    model = zoo.build(name, torch.float32)
    vitkern.patch(model)
    images = [zoo.images(name, torch.float32, seed) for seed in range(6)]
    data = Features(model, images)
    expected = [data[index] for index in range(len(images))]
    loader = DataLoader(
        data, batch_size=None, num_workers=3, multiprocessing_context=method, timeout=300
    )
    for _ in range(2):
        for got, wanted in zip(loader, expected, strict=True):
            for one, other in zip(got, wanted, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():  # the parent's threads and memory are as they were
        assert torch.equal(model(images[0]), expected[0][0])
    print("the same")


if __name__ == "__main__":
    main()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("name", ["vit", "swin"])
def test_forked_workers(name: str) -> None:
    # A process of its own: forking one in which tests have run threads is a test of those.
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(
        [sys.executable, "-c", _SCRIPT, "fork", name], env=environment, text=True,
        capture_output=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout == "the same\n"
