"""`nkiconv model`: a whole model from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from nkiconv.bench.cli import run

pytest.importorskip("torch")


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["model", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_model_in_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("monai")
    file = tmp_path / "unet.json"
    arguments = ["model", "unet", "--size", "32", "--target", "trn2", "--json", str(file)]
    assert run(arguments) == 0
    printed = capsys.readouterr().out
    content = json.loads(file.read_text())
    total = sum(layer["modelled_us"] for layer in content["profile"]["layers"])
    assert content["passed"] is True
    assert content["profile"]["modelled_us"] == total
    assert content["profile"]["target"] == "trn2"
    assert f"22 calls {total:.1f}" in " ".join(printed.split())
    assert "replaced  22 of 22 convolutions, 18 with their BatchNorm, 18 with" in printed
    assert "Not modelled, so not in the sum: cat 4," in printed


def test_without_fusion_more_is_not_modelled(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("monai")
    assert run(["model", "unet", "--size", "32", "--no-fuse"]) == 0
    printed = capsys.readouterr().out
    assert "replaced  22 of 22 convolutions, 0 with their BatchNorm, 0 with" in printed
    assert "native_batch_norm 18, relu 18" in printed


def test_an_error_that_is_too_large_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("monai")
    from nkiconv.pytorch import models

    monkeypatch.setattr(models, "_error_ratio", lambda call: 1.5)
    assert run(["model", "unet", "--size", "32"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("FAILED    an error is larger")


def test_mistakes_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no model 'alexnet'; there are: resnet18" in refusal(capsys, "alexnet")
    assert "--size" in refusal(capsys, "unet", "--size", "8")
    assert "trn9" in refusal(capsys, "unet", "--target", "trn9")
    assert "no directory" in refusal(capsys, "unet", "--json", "no/such/folder/x.json")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install 'nkiconv[models]'" in refusal(capsys, "unet")
