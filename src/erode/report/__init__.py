"""A run folder as one page that opens anywhere, offline."""

from __future__ import annotations

from pathlib import Path

from ..files import write_text
from .comparison import comparison_sections
from .page import page
from .run import run_sections

__all__ = ["report"]


def report(run: Path, out: Path | None = None) -> Path:
    r"""Write one self-contained HTML page about a run folder of ``erode fit``, ``unlearn`` or ``compare``.

    Pictures are embedded and nothing is loaded from elsewhere. The page shows what the folder holds and names
    what it does not. Curves are also left as PNG beside the page.

    Args:
        run: folder of a run.
        out: the page; None = ``report.html`` in the folder.

    Returns:
        Where the page is.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the folder holds nothing to report, or one of its files cannot be read.

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
    out = run / "report.html" if out is None else Path(out)
    compares = (run / "comparison.json").is_file()
    sections, missing = comparison_sections(run, out.parent) if compares else run_sections(run, out.parent)
    if not sections:
        expected = ", ".join(name for name, _ in missing)
        raise ValueError(
            f"{run} holds nothing to report (looked for {expected}); give the folder of one run of "
            "erode fit or unlearn (such as runs/unlearn-0), or the out folder of erode compare"
        )
    kind = "Comparison" if compares else "Run"
    content = page(f"{kind}: {run.resolve().name}", sections, missing)
    return write_text(out, content)
