"""The forget/retain split: fair shares, no memory of order, and a file that shows tampering."""

import json
from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from erode.masks import DiskDilation, ForgetSplit

COARSENING = DiskDilation(4).describe()
QUICK = settings(deadline=None, max_examples=60)
STRATA = st.lists(st.tuples(st.integers(0, 2), st.sampled_from([-1, 0, 1])), min_size=3, max_size=60)


def names(count: int) -> list[str]:
    return [f"case-{i:03d}" for i in range(count)]


def draw(count=40, fraction=0.1, seed=0, strata=None) -> ForgetSplit:
    return ForgetSplit.draw(names(count), strata or [0] * count, fraction, seed, COARSENING)


@QUICK
@given(STRATA, st.floats(0.01, 0.99), st.integers(0, 99))
def test_every_stratum_gives_its_share(strata, fraction, seed):
    ids, n = names(len(strata)), len(strata)
    total = max(1, round(fraction * n))
    assume(total < n)
    split = ForgetSplit.draw(ids, strata, fraction, seed, COARSENING)
    assert len(split.fine) == total
    assert sorted(split.fine + split.coarse) == ids
    assert split.forget_fraction == pytest.approx(1 - total / n)
    sizes, drawn = Counter(strata), Counter(strata[ids.index(name)] for name in split.fine)
    for stratum, size in sizes.items():
        assert abs(drawn[stratum] - total * size / n) < 1


@QUICK
@given(STRATA, st.randoms(use_true_random=False), st.integers(0, 99))
def test_order_and_names_of_strata_do_not_matter(strata, random, seed):
    assume(round(0.4 * len(strata)) < len(strata))
    ids = names(len(strata))
    first = ForgetSplit.draw(ids, strata, 0.4, seed, COARSENING)
    shuffled = list(zip(ids, [("renamed", *s) for s in strata], strict=True))
    random.shuffle(shuffled)
    again = ForgetSplit.draw([i for i, _ in shuffled], [s for _, s in shuffled], 0.4, seed, COARSENING)
    assert again == first
    assert again.digest == first.digest


def test_each_image_is_drawn_equally_often():
    """20 images in strata of 10, 6 and 4 with |F| = 10: each image is in F half of the time."""
    strata = [0] * 10 + [1] * 6 + [2] * 4
    runs = 2_000
    count = Counter(i for seed in range(runs) for i in draw(20, 0.5, seed, strata).fine)
    assert min(count.values()) > runs / 2 - 5 * (runs / 4) ** 0.5
    assert max(count.values()) < runs / 2 + 5 * (runs / 4) ** 0.5


def test_the_draw_is_pinned():
    """A split that changes with the version of this code would orphan every model trained on the old one."""
    split = draw(10, 0.3, seed=7, strata=[i % 2 for i in range(10)])
    assert split.fine == ("case-000", "case-001", "case-004")


@pytest.mark.parametrize("other", [draw(seed=1), draw(fraction=0.2), draw(41)])
def test_digest_tells_splits_apart(other):
    assert draw().digest == draw().digest != other.digest
    assert hash(draw()) == hash(draw())


@pytest.mark.parametrize(
    ("fraction", "message"),
    [
        (0, "fine set empty.*such as 0.1"),
        (-0.5, "fine set empty"),
        (float("nan"), "fine set empty"),
        (1, "nothing to forget.*such as 0.1"),
        (1.5, "nothing to forget"),
        (0.99, "40 images leaves nothing to forget"),
    ],
)
def test_impossible_fractions_are_refused(fraction, message):
    with pytest.raises(ValueError, match=message):
        draw(fraction=fraction)


def test_a_tiny_fraction_keeps_one_fine_image():
    assert len(draw(fraction=1e-6).fine) == 1


@pytest.mark.parametrize(
    ("fine", "coarse", "message"),
    [
        ([], ["a"], "fine set is empty"),
        (["a"], [], "nothing to forget"),
        (["a", "b"], ["b", "c"], "in the fine and in the coarse set, e.g. 'b'"),
        (["a", "a"], ["b"], "more than once, e.g. 'a'"),
    ],
)
def test_sets_that_do_not_split_are_refused(fine, coarse, message):
    with pytest.raises(ValueError, match=message):
        ForgetSplit.given(fine, coarse, COARSENING)


def test_duplicate_or_unmatched_ids_are_refused():
    with pytest.raises(ValueError, match="more than once"):
        ForgetSplit.draw(["a", "a", "b"], [0, 0, 0], 0.5, 0, COARSENING)
    with pytest.raises(ValueError, match="zip"):
        ForgetSplit.draw(["a", "b", "c"], [0, 0], 0.5, 0, COARSENING)


@pytest.mark.parametrize("split", [draw(), ForgetSplit.given(["é", "b"], ["c", "a"], COARSENING)])
def test_a_saved_split_comes_back(split, tmp_path):
    path = split.save(tmp_path / "folder" / "split.json")
    assert ForgetSplit.load(path) == split
    before = path.stat().st_mtime_ns
    split.save(path)
    assert path.stat().st_mtime_ns == before
    assert [p.name for p in path.parent.iterdir()] == ["split.json"]


def test_another_split_is_never_overwritten(tmp_path):
    path = draw().save(tmp_path / "split.json")
    with pytest.raises(FileExistsError, match="holds another split"):
        draw(seed=1).save(path)
    assert ForgetSplit.load(path) == draw()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["fine"].append(c["coarse"].pop()), "was edited"),
        (lambda c: c.update(seed=1), "was edited"),
        (lambda c: c["coarsening"].update(half_width=9.0), "was edited"),
        (lambda c: c.update(schema=99), "schema 99"),
        (lambda c: c.pop("digest"), "no forget/retain split"),
    ],
)
def test_an_edited_file_is_noticed(edit, message, tmp_path):
    path = draw().save(tmp_path / "split.json")
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        ForgetSplit.load(path)
    with pytest.raises(ValueError, match=message):
        draw().save(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"digest"'])
def test_a_file_that_is_no_split_is_refused(text, tmp_path):
    path = tmp_path / "split.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="no forget/retain split"):
        ForgetSplit.load(path)
