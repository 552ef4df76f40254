"""A run folder as one page that opens anywhere, offline."""

from __future__ import annotations

from pathlib import Path

from ..certificates import RECORD
from ..files import write_text
from .comparison import comparison_sections
from .evidence import evidence_sections
from .page import page
from .run import released_weights, run_sections

__all__ = ["report"]


def report(run: Path, out: Path | None = None, evidence: Path | list[Path] | None = None) -> Path:
    r"""Write one self-contained HTML page about a run folder of ``erode fit``, ``unlearn`` or ``compare``.

    Pictures are embedded and nothing is loaded from elsewhere. The page shows what the folder holds and names
    what it does not. A certificate is computed again, and shown only if it holds. Curves are also left as PNG beside
    the page.

    Args:
        run: folder of a run, or that of the weights it released.
        out: the page; None = ``report.html`` in the folder.
        evidence: folders of ``erode audit`` and ``erode measure`` about the weights that the run released.

    Returns:
        Where the page is.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the folder holds nothing to report, one of its files cannot be read, or evidence speaks of other
            weights.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "metrics.csv").write_text("step,train/loss\n0,0.9\n1,0.7\n")
        >>> report(folder).name
        'report.html'
    """
    run = Path(run)
    if not run.is_dir():
        raise FileNotFoundError(f"no folder {run}; give the run folder that erode printed when it started")
    if (run / RECORD).is_file():
        run = run.parent
    out = run / "report.html" if out is None else Path(out)
    compares = (run / "comparison.json").is_file()
    sections, missing = comparison_sections(run, out.parent) if compares else run_sections(run, out.parent)
    if not sections:
        expected = ", ".join(name for name, _ in missing)
        raise ValueError(
            f"{run} holds nothing to report (looked for {expected}); give the folder of one run of "
            "erode fit or unlearn (such as runs/unlearn-0), the log folder of a run of your own, or the out folder of "
            f"erode compare; what erode audit and erode measure wrote goes with --evidence{_runs_within(run)}"
        )
    folders = [
        Path(folder) for folder in (evidence if isinstance(evidence, list) else [evidence]) if folder is not None
    ]
    sections += evidence_sections(folders, released_weights(run))
    kind = "Comparison" if compares else "Run"
    content = page(f"{kind}: {run.resolve().name}", sections, missing)
    return write_text(out, content)


def _runs_within(folder: Path) -> str:
    """Names the folders below that would do."""
    inner = [path.parent for path in folder.rglob("metrics.csv")] + [path.parents[1] for path in folder.rglob(RECORD)]
    names = sorted({str(path) for path in inner})
    return f"; within it lie {', '.join(names[:5])}" if names else ""
