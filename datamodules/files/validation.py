"""One pass over all files before any training, which reports every problem together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from ...files import file_digest
from ..case import Arrays, Case
from ..errors import DataError


def validate_cases(
    cases: Sequence[Case],
    read: Callable[[Case], Arrays],
    num_classes: int,
    *,
    single_class: bool = True,
    coarse_only: Collection[str] | None = None,
    progress: bool = True,
    limit: int = 20,
) -> None:
    """Read every case once, one at a time, and report all problems in one error.

    Image files of one content in two parts get a warning, not an error: some are blank, and published parts hold some.

    Args:
        cases: all cases of all parts.
        read: reads the pixels of a case; a :class:`DataError` it raises becomes one of the problems.
        num_classes: number of classes, background included.
        single_class: refuse masks with a foreground class other than the image's label (theory §1).
        coarse_only: cases that the split does not count as fine; None = not known.
        progress: show a progress bar.
        limit: stop reading after so many problems.

    Raises:
        DataError: one line for each problem: which file or case, what is wrong with it, and what to do.

    Example:
        >>> case = Case("scan", label=2, part="train")
        >>> pixels = Arrays(np.zeros((1, 2, 2), np.float32), mask=np.zeros((2, 2), np.int64))
        >>> validate_cases([case], lambda case: pixels, num_classes=2)  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        ...
        DataError: scan: label 2, but the classes are 0..1: correct the label or name the class
    """
    if copies := list(_copies(cases)):
        warnings.warn(
            f"{len(copies)} image files hold the same bytes as one of another part, and what was learnt of one is "
            f"tested on the other: {'; '.join(copies[:5])}{'; …' if len(copies) > 5 else ''}. Remove one of each, or "
            "give them one group",
            stacklevel=2,
        )
    problems = [*_duplicates(cases), *_straddling_groups(cases)]
    shape: tuple[int, ...] | None = None
    done, drawn, with_foreground = 0, 0, 0
    for case in track(cases, description="Checking data", disable=not progress, transient=True):
        if len(problems) >= limit:
            break
        done += 1
        problems += _case_problems(case, num_classes)
        if "image" not in case.paths and case.paths:
            continue
        try:
            arrays = read(case)
        except DataError as error:
            problems.append(str(error))
            continue
        problems += _array_problems(case, arrays, num_classes, single_class)
        drawn += arrays.mask is not None
        with_foreground += arrays.mask is not None and bool(arrays.mask.any())
        coarse_alone = arrays.mask is None and arrays.coarse is not None and case.part == "train"
        if coarse_alone and coarse_only is not None and case.id not in coarse_only:
            problems.append(
                f"{case.id} has no fine mask, but the split may count it as fine: name the file of its coarse mask as "
                "'coarse' among the paths of the case, and none as 'mask', or give a split_file that has it as coarse"
            )
        shape = arrays.image.shape if shape is None else shape
        if arrays.image.shape != shape:
            problems.append(
                f"{_file(case, 'image')} has shape {list(arrays.image.shape)}, others have {list(shape)}: "
                "set size, so that all images get one shape"
            )
    if drawn and not with_foreground and not problems:
        problems.append(
            f"none of {drawn} fine masks has any foreground: give the folder of the masks, and mask_values where "
            "classes have values of their own"
        )
    if problems:
        raise DataError.of(problems, more=done < len(cases))


def _file(case: Case, kind: str) -> Path | str:
    return case.paths.get(kind, f"{case.id}: the {kind}")


def _duplicates(cases: Sequence[Case]) -> Iterator[str]:
    seen: dict[str, Case] = {}
    for case in cases:
        if case.id in seen:
            yield (
                f"{case.id} names two cases ({_file(seen[case.id], 'image')} and {_file(case, 'image')}): "
                "rename or remove one"
            )
        seen[case.id] = case


def _copies(cases: Sequence[Case]) -> Iterator[str]:
    """Images whose bytes are those of one in another part; only files of one size are read."""
    same_size: dict[int, list[Case]] = {}
    for case in cases:
        path = case.paths.get("image")
        if path is not None and path.is_file() and (size := path.stat().st_size):
            same_size.setdefault(size, []).append(case)
    for alike in same_size.values():
        if len({case.part for case in alike}) == 1:
            continue
        seen: dict[str, Case] = {}
        for case in alike:
            first = seen.setdefault(file_digest(case.paths["image"]), case)
            if first.part != case.part:
                yield f"{case.paths['image']} in {case.part} and {first.paths['image']} in {first.part}"


def _straddling_groups(cases: Sequence[Case]) -> Iterator[str]:
    seen: dict[str, Case] = {}
    for case in cases:
        first = seen.setdefault(case.group, case) if case.group else case
        if first.part != case.part:
            yield (
                f"{case.id} is in {case.part}, {first.id} of its group {case.group!r} in {first.part}: "
                "move one, so that no group is in two parts"
            )


def _case_problems(case: Case, num_classes: int) -> Iterator[str]:
    if not 0 <= case.label < num_classes:
        yield (
            f"{case.id}: label {case.label}, but the classes are 0..{num_classes - 1}: "
            "correct the label or name the class"
        )
    if case.paths and "image" not in case.paths:
        file = next(iter(case.paths.values()))
        yield f"{file} has no image: add the image of {case.id}, or remove this file"


def _array_problems(case: Case, arrays: Arrays, num_classes: int, single_class: bool) -> Iterator[str]:
    if not np.isfinite(arrays.image).all():
        yield f"{_file(case, 'image')} holds NaN or infinite values: replace them, or remove the image"
    if arrays.mask is None and arrays.coarse is None:
        yield f"{_file(case, 'image')} has neither a fine nor a coarse mask: add one, or remove the image"
    elif arrays.mask is None and case.part != "train":
        yield (
            f"{_file(case, 'image')} is in {case.part} without a fine mask: evaluation needs one, "
            "so add it or move the image to train"
        )
    masks = {"mask": arrays.mask, "coarse": arrays.coarse, "artefact": arrays.artefact}
    for kind, mask in masks.items():
        if mask is None:
            continue
        if mask.shape != arrays.image.shape[1:]:
            yield (
                f"{_file(case, kind)} has shape {list(mask.shape)}, but its image has "
                f"{list(arrays.image.shape[1:])}: export the mask at the size of the image"
            )
        elif kind != "artefact":
            yield from _class_problems(case, kind, np.unique(mask), num_classes, single_class)
    fine, coarse = arrays.mask, arrays.coarse
    if fine is not None and coarse is not None and fine.shape == coarse.shape:
        outside = int(((fine != 0) & (coarse == 0)).sum())
        if outside:
            yield (
                f"{_file(case, 'coarse')} leaves out {outside} pixels of {_file(case, 'mask')}: "
                "a coarse mask contains the fine one, so enlarge it or correct the fine mask"
            )


def _class_problems(
    case: Case, kind: str, found: NDArray[np.generic], num_classes: int, single_class: bool
) -> Iterator[str]:
    classes = [int(value) for value in found if value != 0]
    unknown = [value for value in classes if not 0 < value < num_classes]
    if unknown:
        yield (
            f"{_file(case, kind)} holds the classes {unknown}, but the classes are 0..{num_classes - 1}: "
            "correct the mask or name the classes"
        )
    elif single_class and len(classes) > 1:
        yield (f"{_file(case, kind)} holds the classes {classes} in one image: keep one, or set single_class: false")
    elif single_class and classes and classes != [case.label]:
        yield (
            f"{_file(case, kind)} holds class {classes[0]}, but the label of {case.id} is {case.label}: "
            "correct one of them"
        )
