import json

import pytest

from erode.cli import main
from erode.datamodules import SyntheticDermoscopy
from erode.protocols.traps.correlations import correlations


def test_the_verb_prints_and_writes_what_the_generator_was_told(tmp_path, capsys):
    out = tmp_path / "phi.json"
    main(
        [
            "correlations",
            "--data=SyntheticDermoscopy",
            "--data.train_images=40",
            "--data.val_images=20",
            "--data.test_images=20",
            "--data.train_correlation=0.8",
            "--data.test_correlation=-0.6",
            f"--out={out}",
        ]
    )
    printed = capsys.readouterr().out
    assert "20 of 40 positive" in printed
    assert "+0.800 (90%, 10%)" in printed
    rows = {(row["part"], row["artefact"]): row for row in json.loads(out.read_text())}
    assert rows["test", "any"]["phi"] == pytest.approx(-0.6)
    assert rows["train", "dark_corner"]["phi"] is None  # never drawn, so it cannot correlate


def test_data_without_flags_are_refused():
    class Bare(SyntheticDermoscopy):
        def cases(self):
            return [case.__class__(case.id, case.label, case.part) for case in super().cases()]

    with pytest.raises(ValueError, match="no image has artefact flags and a known label"):
        correlations(Bare(train_images=4, val_images=2, test_images=2))
