"""`nkiconv doctor`: what it says about this machine, and about broken ones."""

from __future__ import annotations

import json
import re
from importlib import metadata

import pytest

from nkiconv.bench import doctor
from nkiconv.bench.cli import run
from nkiconv.simulate import coverage


def findings_of(capsys: pytest.CaptureFixture[str], code: int) -> dict[str, dict[str, str]]:
    """Return the findings of `doctor --json` by topic."""
    assert run(["doctor", "--json"]) == code
    report = json.loads(capsys.readouterr().out)
    assert report["usable"] == (code == 0)
    return {line["topic"]: line for line in report["findings"]}


def test_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEURON_PLATFORM_TARGET_OVERRIDE", raising=False)
    found = findings_of(capsys, 0)
    assert found["numpy"]["value"] == metadata.version("numpy")
    assert found["target"]["value"] == "trn1"
    assert found["target"]["hint"] == "the default"
    counts = {}
    for module in ("isa", "language", "collectives"):
        value = found[f"embedded nki.{module}"]["value"]
        counts[module] = [int(n) for n in re.match(r"(\d+) of (\d+) functions", value).groups()]
    assert 10 < counts["isa"][0] <= counts["isa"][1] == 52
    assert 40 < counts["language"][0] <= counts["language"][1] == 103
    assert counts["collectives"][1] == 11
    have_now = coverage.available("nki.isa")
    lacking = [n for n in coverage.names_of("nki.isa")["functions"] if n not in have_now]
    assert found["embedded nki.isa"]["hint"].endswith(", ".join(lacking))
    assert run(["doctor"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert text.endswith("nkiconv is usable here.\n")


def test_the_target_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "gen3")
    target = findings_of(capsys, 0)["target"]
    assert target["value"] == "trn2"
    assert "NEURON_PLATFORM_TARGET_OVERRIDE=gen3" in target["hint"]
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "abacus")
    assert findings_of(capsys, 1)["target"]["status"] == "missing"


def test_a_wrong_choice_of_simulator(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NKICONV_SIMULATOR", "quantum")
    found = findings_of(capsys, 1)
    assert "quantum" in found["NKI in use"]["hint"]


@pytest.mark.parametrize(
    ("version", "words"),
    [(None, "not installed"), ("0.0.1", "placeholder"), ("0.6.0+g1", "0.6.0+g1")],
)
def test_the_vendors_packages(
    version: str | None,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = doctor._version
    monkeypatch.setattr(
        doctor, "_version", lambda name: version if name == "nki" else installed(name)
    )
    assert words in findings_of(capsys, 0)["nki (vendor)"]["value"]


def test_missing_packages(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = doctor._version
    monkeypatch.setattr(
        doctor, "_version", lambda name: None if name in ("torch", "scipy") else installed(name)
    )
    found = findings_of(capsys, 0)  # optional ones only
    assert found["torch"]["hint"].endswith("pip install 'nkiconv[torch]'")
    assert found["scipy"]["hint"].endswith("pip install 'nkiconv[cli]'")
    monkeypatch.setattr(
        doctor, "_version", lambda name: None if name == "ml_dtypes" else installed(name)
    )
    assert findings_of(capsys, 1)["ml_dtypes"]["status"] == "missing"


def test_what_the_embedded_nki_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "available", lambda _: ["dma_copy", "nc_matmul"])
    line = next(line for line in doctor.examine()[0] if line.topic == "embedded nki.isa")
    assert line.value.startswith("2 of 52 functions of 0.6.0")
    named = line.hint.removeprefix("not there yet: ").split(", ")
    assert len(named) == 50
    assert "tensor_copy" in named
    assert "nc_matmul" not in named
    everything = coverage.names_of("nki.isa")["functions"]
    monkeypatch.setattr(coverage, "available", lambda _: everything)
    line = next(line for line in doctor.examine()[0] if line.topic == "embedded nki.isa")
    assert line.hint == ""
