"""DICOM and pictures of 8 and 16 bits; windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file

from vitkern.data import WINDOWS, MedicalImageDataset, UnreadableImage, Window, read_medical
from vitkern.data.medical_sources import medical_folder

CT = str(get_testdata_file("CT_small.dcm", download=False))
MR = str(get_testdata_file("MR_small.dcm", download=False))


def test_hounsfield_units_by_slope_and_intercept() -> None:
    stored = dcmread(CT)
    units = stored.pixel_array * float(stored.RescaleSlope) + float(stored.RescaleIntercept)
    expected = np.clip((units + 160) / 400, 0, 1)
    found = read_medical(CT, "ct_soft_tissue")
    assert found.shape == (1, 128, 128)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-6)
    assert not torch.equal(found, read_medical(CT, "ct_lung"))


def test_percentiles_for_what_has_no_unit() -> None:
    found = read_medical(MR, "mri")
    assert found.min() == 0
    assert found.max() == 1
    assert 0.005 < (found == 0).float().mean() < 0.03


def test_monochrome1_is_turned(tmp_path: Path) -> None:
    data = dcmread(MR)
    data.PhotometricInterpretation = "MONOCHROME1"
    data.save_as(tmp_path / "turned.dcm")
    both = read_medical(MR, "mri") + read_medical(tmp_path / "turned.dcm", "mri")
    assert (both - 1).abs().mean() < 0.02


@pytest.mark.parametrize("name, shape", [
    ("examples_rgb_color.dcm", (3, 240, 320)),
    ("SC_rgb_rle_2frame.dcm", (3, 100, 100)),
    ("JPEG2000.dcm", (1, 1024, 256)),
])  # fmt: skip
def test_colours_frames_and_compression(name: str, shape: tuple[int, ...]) -> None:
    path = str(get_testdata_file(name, download=False))
    found = read_medical(path, "retina" if shape[0] == 3 else "mri")
    assert found.shape == shape
    assert found.dtype == torch.float32
    assert 0 <= found.min() < found.max() <= 1


def test_pictures_of_8_and_16_bits(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 51, 255]], np.uint8)).save(tmp_path / "8.png")
    Image.fromarray(np.array([[0, 13107, 65535]], np.uint16)).save(tmp_path / "16.png")
    for name in ("8.png", "16.png"):
        found = read_medical(tmp_path / name, "retina")
        torch.testing.assert_close(found, torch.tensor([[[0, 0.2, 1]]]))
        with pytest.raises(UnreadableImage, match="Hounsfield units needs a CT in DICOM"):
            read_medical(tmp_path / name, "ct_lung")
    with pytest.raises(UnreadableImage, match="Hounsfield"):
        read_medical(MR, "ct_soft_tissue")


def test_windows() -> None:
    values = torch.tensor([-2000.0, -160, 40, 240, 3000])
    found = WINDOWS["ct_soft_tissue"](values, hounsfield=True, full=0)
    assert found.tolist() == [0, 0, 0.5, 1, 1]
    flat = Window("percent", 1, 99)(torch.full((3,), 7.0), hounsfield=False, full=255)
    assert flat.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="window must be one of"):
        read_medical(CT, "ct_sof_tissue")


def test_a_data_set_says_what_it_skipped(tmp_path: Path) -> None:
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "cut.dcm").write_bytes(Path(CT).read_bytes()[:3000])
    (tmp_path / "text.dcm").write_bytes(b"no DICOM")
    data = MedicalImageDataset(
        [CT, tmp_path / "empty.dcm", tmp_path / "cut.dcm", tmp_path / "text.dcm", MR],
        [0, 0, 1, 1, 1],
        "ct_soft_tissue",
        channels=3,
    )
    assert data.targets == [0]
    assert data[0][0].shape == (3, 128, 128)
    assert [path.name for path, _ in data.skipped] == [
        "empty.dcm", "cut.dcm", "text.dcm", "MR_small.dcm",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="channels must be 1 or 3"):
        MedicalImageDataset([], [], "mri", channels=2)


def test_a_folder_of_slices(tmp_path: Path) -> None:
    for label, path in (("ct", CT), ("mr", MR)):
        (tmp_path / label).mkdir()
        for index in range(5):
            (tmp_path / label / f"{index}.dcm").write_bytes(Path(path).read_bytes())
    (tmp_path / "mr" / "empty.dcm").write_bytes(b"")
    splits = medical_folder(str(tmp_path), "mri", size=32)
    assert splits.classes == ["ct", "mr"]
    assert [len(splits[name]) for name in ("train", "valid", "test")] == [6, 2, 2]
    assert splits.train[0][0].shape == (1, 32, 32)
    assert splits.notes == [f"skipped {tmp_path / 'mr' / 'empty.dcm'}: the file is empty"]
