"""The file of a stream: no answer is lost, and what can be seen of an edit is seen."""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from stream_runs import Module, certified, unexposed

from erode.requests import Ledger, RequestStream
from erode.weights import save_weights


def test_two_open_streams_lose_no_answer(tmp_path):
    """Each release costs its μ, and is held against the requests of both, whoever entered them."""
    start = save_weights(Module(), tmp_path / "weights.safetensors")
    releases = [certified(tmp_path / name, start, epsilon=1.0) for name in "12"]
    one, two = (RequestStream(tmp_path / "requests.json") for _ in releases)
    for stream, name, release in zip((one, two), "ab", releases, strict=True):
        stream.answer_certified([name], release / "weights.safetensors", release / "certificate.json")
    mus = [json.loads((release / "certificate.json").read_text())["claim"]["mu"] for release in releases]
    for stream in (one, two, RequestStream(tmp_path / "requests.json")):
        assert [list(entry["request"]) for entry in stream.entries] == [["a"], ["b"]]
        assert stream.composed()["mu"] == pytest.approx(math.hypot(*mus))
        assert set(stream.forgotten.limits) == {"a", "b"}
    with pytest.raises(ValueError, match="answered an earlier request"):
        one.answer_certified(["c"], releases[1] / "weights.safetensors", releases[1] / "certificate.json")


def test_threads_that_answer_at_once_wait_for_one_another(tmp_path):
    path = unexposed(tmp_path)

    def answer(name):
        RequestStream(tmp_path / "requests.json").answer_exact([name], path)

    names = [f"i{number}" for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(answer, names))
    entries = RequestStream(tmp_path / "requests.json").entries
    assert {name for entry in entries for name in entry["request"]} == set(names)
    assert [entry["number"] for entry in entries] == list(range(12))


def test_an_open_stream_misses_answers_that_were_cut_off(tmp_path):
    path = unexposed(tmp_path)
    stream = RequestStream(tmp_path / "requests.json")
    stream.answer_exact(["a"], path)
    once = (tmp_path / "requests.json").read_text()
    stream.answer_exact(["b"], path)
    (tmp_path / "requests.json").write_text(once)
    assert len(RequestStream(tmp_path / "requests.json")) == 1  # whoever opens it now cannot tell
    for ask in (stream.composed, lambda: stream.answer_exact(["c"], path), lambda: stream.forgotten):
        with pytest.raises(ValueError, match="lacks answers that it held when it was read before"):
            ask()
    (tmp_path / "requests.json").unlink()
    with pytest.raises(ValueError, match="lacks answers"):
        stream.answer_exact(["c"], path)


def test_only_requests_that_were_made_can_be_asked_for(tmp_path):
    stream = RequestStream(tmp_path / "requests.json")
    assert stream.composed()["mu"] == 0.0
    stream.answer_exact(["a"], unexposed(tmp_path))
    assert stream.composed(since=0)["mu"] == 0.0
    for since in (-1, 1, 5):
        with pytest.raises(ValueError, match=f"holds 1 answers, numbered from 0, and none of number {since}"):
            stream.composed(since)


def test_an_edited_sum_is_refused(tmp_path):
    start = save_weights(Module(), tmp_path / "weights.safetensors")
    release = certified(tmp_path / "1", start, epsilon=1.0)
    file = tmp_path / "requests.json"
    RequestStream(file).answer_certified(["a"], release / "weights.safetensors", release / "certificate.json")
    content = json.loads(file.read_text())
    edits = [
        ({"composed": {**content["composed"], "mu": 0.0}}, "composed says mu = 0"),
        ({"composed": {**content["composed"], "epsilon": 0.1}}, r"composed says epsilon = 0\.1"),
        ({"entries": []}, "composed says mu"),
        ({"composed": {"delta": 1e-7}}, "lacks 'mu'"),
        ({"entries": None}, "was edited"),
    ]
    for edit, match in edits:
        file.write_text(json.dumps({**content, **edit}))
        with pytest.raises(ValueError, match=match):
            RequestStream(file)


def test_an_edited_stream_is_refused(tmp_path):
    module = Module()
    path = save_weights(module, tmp_path / "weights.safetensors")
    Ledger.unexposed(module.state_dict(), "test").save(tmp_path / "ledger.json")
    stream = RequestStream(tmp_path / "requests.json")
    for name in "abc":
        stream.answer_exact([name], path)
    with pytest.raises(ValueError, match="open it with that delta"):
        RequestStream(tmp_path / "requests.json", delta=1e-5)
    content = json.loads((tmp_path / "requests.json").read_text())
    for edit in (content["entries"][1:], [content["entries"][0], {**content["entries"][1], "mu": 1.0}]):
        (tmp_path / "requests.json").write_text(json.dumps({**content, "entries": edit}))
        with pytest.raises(ValueError, match=r"was edited|were removed"):
            RequestStream(tmp_path / "requests.json")
