"""From a model to the rows that hold a document: the last link of the chain."""

import pytest

from flows import _lineage
from flows._lineage import Origin, rows
from tasks._errors import StageError
from tasks.stages import Stage
from tests.model.piece_files import write_pieces

INFO = {"vocab_size": 500, "bos_id": 491, "pad_id": 499, "tokenizer_sha256": "t"}
SHARDS = Origin(Stage.SHARDS, "key", None)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    documents = [("docs:a", [1, 2, 3, 4], "prose"), ("docs:b", [5], "prose")]
    write_pieces(tmp_path / "artifacts/shards", documents, [[(0, 0, 3)], [(0, 3, 4), (1, 0, 1)]], 3, INFO)
    monkeypatch.setattr(_lineage, "ROOT", tmp_path)
    monkeypatch.setattr(_lineage._keys, "recorded", lambda stage: "key")


@pytest.mark.usefixtures("workspace")
def test_a_document_leads_to_the_rows_the_model_was_trained_on():
    shown = rows(SHARDS, "docs:a").splitlines()
    assert shown[0] == "rows: 2 of train in artifacts/shards/, 3 tokens each"
    assert shown[1] == "docs:a: 4 tokens in split train, domain prose"
    assert [line.split()[:3] for line in shown[2:]] == [["train", "row", "0"], ["train", "row", "1"]]
    assert "--document <id>" in rows(SHARDS)


@pytest.mark.usefixtures("workspace")
def test_an_unknown_document_is_an_error_that_names_its_neighbours():
    with pytest.raises(StageError, match=r"no document 'docs:aa'; the next ids there are 'docs:b'"):
        rows(SHARDS, "docs:aa")


@pytest.mark.usefixtures("workspace")
def test_rows_of_another_run_are_not_taken_for_the_models_own():
    """Shards in the workspace may be newer than the model: say so, never answer from them."""
    other = Origin(Stage.SHARDS, "older key", None)
    assert "the workspace holds other shards; `git checkout" in rows(other)
    with pytest.raises(StageError, match="the workspace holds other shards"):
        rows(other, "docs:a")
