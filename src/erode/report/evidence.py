"""What else speaks of the weights that a run released: its certificate, audits and measures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..accounting import rounded_up
from ..certificates import VerificationError, check
from ..tables import cells_of
from .page import Section, facts, paragraph, picture, table
from .reading import read_json

KINDS = {
    "audit.json": ("Membership inference", "erode audit", ("weights",)),
    "measures.json": ("Measures of forgetting", "erode measure", ("models", "unlearnt")),
}
"""By the file that tells them: title, what wrote it, and where it names the weights."""


def certificate_section(released: Path) -> Section | None:
    """The certificate beside released weights, computed again: a page shows no promise that does not hold.

    Args:
        released: folder of ``certificate.json``.
    """
    path = released / "certificate.json"
    if not path.is_file():
        return None
    title = "Certificate"
    try:
        content, mechanism, weights = check(path)
    except VerificationError as error:
        return Section(title, paragraph(f"There is no certificate that holds: {error}"))
    claim = content["claim"]
    if weights is None:
        return Section(title, paragraph("It holds, but the weights that it is about are not in this folder."))
    html = paragraph(content["guarantee"])
    html += paragraph(
        "Computed again for this page from its constants, and found to belong to the released weights. To check it "
        f"yourself: erode verify {path}"
    )
    html += facts(
        {
            "mechanism": mechanism.name,
            "μ": rounded_up(claim["mu"]),
            "exposed parameters": content["exposed"]["d"],
            "constants": mechanism.constants(),
            "noise": content["noise"],
            "digests": content["digests"],
        }
    )
    curve = [[f"{delta:g}", str(rounded_up(epsilon))] for delta, epsilon in claim["curve"]]
    html += table(["δ", "ε"], curve, "the same promise at other δ")
    html += paragraph("Assumptions: " + " ".join(content["assumptions"]))
    return Section(title, html)


def evidence_sections(folders: Sequence[Path], released: str | None) -> list[Section]:
    """Tables and pictures of ``erode audit`` and ``erode measure``.

    Args:
        folders: what they wrote.
        released: digest of the weights that the page is about.

    Raises:
        ValueError: for a folder that holds neither, or speaks of other weights.
    """
    return [_evidence(folder, name, released) for folder in folders for name in _names(folder)]


def _names(folder: Path) -> list[str]:
    names = [name for name in KINDS if (folder / name).is_file()]
    if not names:
        raise ValueError(f"{folder} holds no {' or '.join(KINDS)}; give folders of erode audit or erode measure")
    return names


def _evidence(folder: Path, name: str, released: str | None) -> Section:
    title, command, keys = KINDS[name]
    content = read_json(folder / name)
    about: Any = content
    for key in keys:
        about = about.get(key, {}) if isinstance(about, dict) else {}
    digest = about.get("digest") if isinstance(about, dict) else None
    if released is None or digest != released:
        raise ValueError(
            f"{folder / name} speaks of other weights ({digest}) than those of the page ({released}); give {command} "
            "the weights.safetensors that this run released"
        )
    html = paragraph(f"{command} wrote this in {folder}.")
    html += facts({"weights": digest, "compared with": _compared(content)})
    html += _from_markdown((folder / name).with_suffix(".md"))
    html += "".join(picture(path, f"{title}: {path.stem}") for path in sorted(folder.glob("[!.]*.png")))
    return Section(title, html)


def _compared(content: Any) -> dict[str, str]:
    """Digests of the other models, by what they are."""
    reference = content.get("reference")
    models = {"reference": reference} if reference else {**content.get("models", {})}
    return {name: model["digest"] for name, model in models.items() if name != "unlearnt" and "digest" in model}


def _from_markdown(path: Path) -> str:
    """A table and remarks, as our commands write them; nothing where the file is missing."""
    page = path.read_text(encoding="utf-8") if path.is_file() else ""
    head, *rows = cells_of(page) or [[]]
    html = table(head, rows) if rows else ""
    return html + "".join(paragraph(line.removeprefix("- ")) for line in page.splitlines() if line.startswith("- "))
