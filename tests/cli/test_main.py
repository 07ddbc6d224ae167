"""Exit status, help, and errors in one line."""

from __future__ import annotations

import pytest

from vitkern import cli
from vitkern.bench import machine
from vitkern.cli import info
from vitkern.cli._errors import Failure, Usage, user_errors

COMMANDS = (
    "info", "bench", "patch-report", "profile", "tune", "train", "eval", "predict", "embed",
)  # fmt: skip


def exit_of(*argv: str) -> int:
    """The exit status, whether returned or raised by argparse."""
    try:
        return cli.main(argv)
    except SystemExit as stop:
        assert isinstance(stop.code, int)
        return stop.code


@pytest.mark.parametrize("command", COMMANDS)
def test_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert exit_of("--help") == 0
    assert command in capsys.readouterr().out
    assert exit_of(command, "--help") == 0
    assert "--json" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of("--version") == 0
    assert capsys.readouterr().out == f"vitkern {machine.version()}\n"


@pytest.mark.parametrize(
    "argv, message",
    [
        ((), "required: COMMAND"),
        (("nosuchcommand",), "invalid choice: 'nosuchcommand'"),
        (
            ("info", "--nosuchoption"),
            "vitkern info: unrecognized arguments: --nosuchoption (see vitkern info --help)",
        ),
        (("patch-report",), "required: MODEL"),
        (("patch-report", "nosuchmodel"), "timm has no model 'nosuchmodel'"),
        (("patch-report", "vit_tiny_patch16_224", "--backend", "cpuu"), "did you mean 'cpu'"),
        (("bench", "nosuchmodel"), "timm has no model 'nosuchmodel'; try vit_small_patch16_224"),
        (("bench", "swin_tiny_patch4_window7"), "did you mean swin_tiny_patch4_window7_224"),
        (("bench", "--batch", "0"), "'0' is not a whole number above 0"),
        (("bench", "--threads", "two"), "'two' is not a whole number above 0"),
        (("tune",), "MODEL or --clear is required"),
        (("bench", "--wide", "--train"), "--wide has its own models"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], message: str
) -> None:
    assert exit_of(*argv) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("vitkern")
    assert message in output.err
    assert output.err.count("\n") == 1


def test_an_unwritable_file_fails_before_the_work(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_of("bench", "vit_tiny_patch16_224", "--json", "/dev/null/x/y.json") == 1
    assert capsys.readouterr().err == (
        "vitkern: --json: cannot write /dev/null/x/y.json: /dev/null is not a folder\n"
    )


def test_interrupt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "collect", stop)
    assert exit_of("info") == 130
    assert capsys.readouterr().err == "vitkern: interrupted\n"


def test_bugs_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr(info, "collect", fail)
    with pytest.raises(AssertionError, match="a bug"):
        cli.main(["info"])


def test_a_closed_pipe_is_no_error_of_the_user() -> None:
    with pytest.raises(BrokenPipeError), user_errors():
        raise BrokenPipeError


def test_user_errors_become_one_line() -> None:
    with pytest.raises(Failure, match=r"^one two$") as caught, user_errors():
        raise OSError("one\n  two")
    assert caught.value.status == 1
    assert Usage.status == 2
