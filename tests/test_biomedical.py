"""Sets of MedMNIST in the published form: read without unpickling, forgotten by class and by patient."""
import numpy as np
import pandas as pd
import pytest

from vision_unlearning.core import ForeignFileError
from vision_unlearning.data.classification import load_classification
from vision_unlearning.data.medical import MEDICAL_SETS, standin_medical
from vision_unlearning.oracle.classification import scenario_split
from vision_unlearning.running.classifiers import batch_classifiers


@pytest.fixture
def folder(tmp_path):
    standin_medical("biomedical", tmp_path, per_class=6, patients=6)
    return tmp_path


def test_pictures_and_labels_are_those_of_the_file(folder):
    with np.load(folder / "bloodmnist.npz", allow_pickle=False) as file: said = dict(file)
    data = load_classification("biomedical", folder)
    assert (data.train.images.permute(0, 2, 3, 1).numpy() == said["train_images"]).all()
    assert (data.test.labels.numpy() == said["test_labels"][:, 0]).all()
    assert load_classification("biomedical", folder, size=32).size == 32


@pytest.mark.parametrize(
    "array, value, said",
    [
        ("train_images", np.array([{}], dtype=object), "no whole file"),
        ("train_images", np.zeros((48, 28, 28), np.uint8), r"must be \(N,H,W,3\)"),
        ("train_images", np.zeros((48, 28, 28, 3)), "uint8, got"),
        ("test_labels", np.full((16, 1), 8), r"must lie in 0..7"),
        ("test_labels", np.zeros(16, np.int64), r"must be \(16,1\)"),
        ("train_labels", None, "no whole file"),
    ],
)
def test_what_is_broken_is_named(folder, array, value, said):
    path = folder / "bloodmnist.npz"
    with np.load(path, allow_pickle=False) as file: arrays = dict(file)
    arrays[array] = value
    np.savez(path, **{name: found for name, found in arrays.items() if found is not None})
    with pytest.raises(ForeignFileError, match=said): load_classification("biomedical", folder)


def test_a_file_that_was_cut_off_or_is_missing_is_named(folder):
    path = folder / "bloodmnist.npz"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ForeignFileError, match="download it again"): load_classification("biomedical", folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="zenodo.org"): load_classification("biomedical", folder)


def test_a_patient_goes_as_a_whole(folder):
    data = load_classification("biomedical", folder)
    split = scenario_split(data, "random", 0)
    gone, left = (set(data.train.sublabels[part].tolist()) for part in (split.forget, split.retain))
    assert split.kind == "group" and len(gone) == 1 and not gone & left
    # a patient who is on the test side too is forgotten there as well
    table = pd.read_csv(folder / "patients.csv")
    patient = data.train.subclasses[gone.pop()]
    table.loc[(table["side"] == "test") & (table["index"] == 5), "patient"] = patient
    table.to_csv(folder / "patients.csv", index=False)
    assert scenario_split(load_classification("biomedical", folder), "random", 0).test_forget.tolist() == [5]
    table.iloc[1:].to_csv(folder / "patients.csv", index=False)
    with pytest.raises(ForeignFileError, match="each train picture once"):
        load_classification("biomedical", folder)
    (folder / "patients.csv").unlink()
    data = load_classification("biomedical", folder)
    assert not data.grouped and scenario_split(data, "random", 0).kind == "random"


@pytest.mark.parametrize("task", MEDICAL_SETS)
def test_every_set_has_its_classes(task, tmp_path):
    standin_medical(task, tmp_path, per_class=3, patients=3)
    data = load_classification(task, tmp_path)
    rows = MEDICAL_SETS[task].entities()
    assert data.name == task and data.classes == [row["name"] for row in rows]
    assert all(set(row) == {"name", *MEDICAL_SETS[task].fields} for row in rows)


@pytest.mark.long(12)
def test_smoke(tmp_path):
    _, table = batch_classifiers(
        "biomedical", ["finetune"], ["kinds=class,random"], tmp_path, False, smoke=True
    )
    rows = pd.read_csv(table).set_index(["kind", "method"])
    assert len(rows) == 6 and [path.name for path in tmp_path.iterdir()] == ["smoke"]
    assert rows.loc[("class", "original"), "numbers.retain"] > 0.6, "what is planted is found"
    assert rows.loc[("class", "other_oracle"), "numbers.forget"] == 0
