"""``python -m build``: the source distribution, the wheel built from it, what is in both."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from tests import needs
from tests.packaging import check_wheel
from tests.packaging.conftest import ROOT, clean_environment
from vitkern import _build

pytest.importorskip("build")

WORKFLOW = ROOT / ".github" / "workflows" / "wheels.yml"


def build(project: Path, out: Path, **variables: str) -> list[Path]:
    """What ``python -m build`` makes: the source distribution, and a wheel from it."""
    for name in ("MANIFEST.in", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "mkdocs.yml"):
        shutil.copy(ROOT / name, project)
    result = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(project)],
        env={**clean_environment(), **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return sorted(out.iterdir())


@needs.compiler
def test_source_distribution_and_wheel(project: Path, tmp_path: Path) -> None:
    """The wheel is built from what the source distribution has: nothing may be missing in it."""
    wheel, source = build(
        project, tmp_path / "dist", VITKERN_BUILD_CPU="1", VITKERN_BUILD_CUDA="0"
    )  # fmt: skip
    assert source.name == "vitkern-0.1.0.tar.gz"
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "pyproject.toml", "setup.py", "LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md",
        "Makefile", "mkdocs.yml", "csrc/registration.cpp", "csrc/cpu/scale.h",
        "vitkern/_build/builder.py",
    } <= names  # fmt: skip
    assert not [name for name in names if name.endswith((".so", ".build.json", ".pyc"))]
    assert check_wheel.check(wheel, kernels=True) == []


def test_wheel_without_a_library(project: Path, tmp_path: Path) -> None:
    wheel, _ = build(project, tmp_path / "dist", VITKERN_BUILD_CPU="0", VITKERN_BUILD_CUDA="0")
    assert wheel.name == "vitkern-0.1.0-py3-none-any.whl"
    assert check_wheel.check(wheel, kernels=False) == []
    assert check_wheel.check(wheel, kernels=True) == [
        "there is no library: VITKERN_BUILD_CPU=0"
    ]  # fmt: skip

    def changed(files: dict[str, str | None]) -> list[str]:
        """What is said of the wheel with files replaced, added or (None) taken out."""
        target = tmp_path / wheel.name
        with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(target, "w") as new:
            kept = {name: old.read(name) for name in old.namelist() if name not in files}
            for name, text in {**kept, **files}.items():
                if text is not None:
                    new.writestr(name, text)
        return check_wheel.check(target, kernels=False)

    assert changed({}) == []
    assert changed({"vitkern/cli/__main__.py": None}) == ["vitkern/cli/__main__.py is missing"]
    assert changed({"tests/x.py": ""}) == ["tests/x.py does not belong there"]
    api, library = "vitkern/patching/api.py", "vitkern/_C.abi3.so"
    assert f"{api} is not what RECORD says" in changed({api: "changed"})
    assert f"{library} is not in RECORD" in changed({library: ""})


def test_the_job_that_builds_wheels() -> None:
    """It is well-formed, checks what it builds, and builds for the oldest Python and torch."""
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    variables = jobs["kernels"]["env"]
    oldest = ".".join(map(str, _build.parameters.MINIMUM_TORCH))
    assert f"torch=={oldest}.*" in variables["CIBW_BEFORE_BUILD"]
    assert variables["CIBW_BUILD"] == "cp310-*"
    assert "VITKERN_BUILD_CPU=1" in variables["CIBW_ENVIRONMENT"]
    for job, how in (("kernels", "--kernels dist/*.whl"), ("pure", "dist/*.whl")):
        steps = [step.get("run", "") for step in jobs[job]["steps"]]
        assert f"python tests/packaging/check_wheel.py {how}" in steps
    listed = WORKFLOW.read_text().split("name: wheels")[0]
    x86_64 = [isa.name for isa in _build.parameters.isas_for("x86_64", test_isas=False)]
    assert ", ".join(x86_64) in listed
