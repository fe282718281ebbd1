"""Traffic signs in the benchmark's own layout: read, split by tracks, learnt on stand-ins, asked about."""
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vision_unlearning.benchmarks import rt_name_to_class
from vision_unlearning.core import ForeignFileError
from vision_unlearning.data.classification import load_classification, stack_images
from vision_unlearning.data.signs import SIGNS, sign_table, standin_signs
from vision_unlearning.oracle.class_interference import class_interference
from vision_unlearning.oracle.classification import find_protocol, scenario_split
from vision_unlearning.running.classifiers import batch_classifiers
from vision_unlearning.store import Store, read_entities
from vision_unlearning.tasks import get_task


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signs")
    standin_signs(folder, tracks=2, frames=2)
    return folder


@pytest.fixture
def archive(whole, tmp_path): return shutil.copytree(whole, tmp_path / "signs")


def list_of(folder, name="GT-00014.csv"): return next(folder.rglob(name))


def changed(path, **values):
    "One value of the second row of a list is another."
    table = pd.read_csv(path, sep=";").astype(object)
    for column, value in values.items(): table.loc[1, column.replace("_", ".")] = value
    table.to_csv(path, sep=";", index=False)


def test_the_region_of_interest_is_what_is_read(whole):
    data = load_classification("driving", whole, size=64)
    table = pd.read_csv(list_of(whole), sep=";")
    row = table.iloc[0]
    picture = np.asarray(Image.open(list_of(whole).parent / row["Filename"]))
    sign = picture[row["Roi.Y1"] : row["Roi.Y2"] + 1, row["Roi.X1"] : row["Roi.X2"] + 1]
    first = int((data.train.labels == 14).nonzero()[0])
    assert (data.train.images[first] == stack_images([sign], 3, 64)[0]).all()
    assert sign.shape == (20, 20, 3) and data.size == 64
    assert data.train.subclasses[data.train.sublabels[first]] == "stop 00000"


def test_what_is_broken_is_named(archive):
    read = lambda: load_classification("driving", archive)
    path = list_of(archive)
    good = path.read_text()
    for said, values in (
        ("whole numbers in every row", dict(Width="wide")),
        ("ClassId must lie in 0..42", dict(ClassId=43)),
        ("all of class 14", dict(ClassId=13)),
        ("outside of 00000_00001.ppm", dict(Roi_X2=400)),
        ("pixels and not", dict(Width=99)),
        ("names 3 pictures in 4 rows", dict(Filename="00000_00000.ppm")),
        ("line 3: '../x.ppm' is not a file", dict(Filename="../x.ppm")),
    ):
        changed(path, **values)
        with pytest.raises(ForeignFileError, match=said): read()
        path.write_text(good)
    path.write_text("\n".join(good.splitlines()[:-1]))
    with pytest.raises(ForeignFileError, match="names 3 pictures in 3 rows and .* holds 4"): read()
    path.write_text(good.replace(";ClassId", ""))
    with pytest.raises(ForeignFileError): read()
    path.write_text(good)
    picture = path.parent / "00001_00001.ppm"
    picture.write_bytes(picture.read_bytes()[:200])
    with pytest.raises(ForeignFileError, match="not a whole picture"): read()


def test_what_is_missing_is_named(archive):
    list_of(archive, "GT-final_test.csv").unlink()
    with pytest.raises(FileNotFoundError, match="unpack GTSRB_Final_Test_GT.zip"):
        load_classification("driving", archive)
    with pytest.raises(ValueError, match="give folder"): load_classification("driving")
    with pytest.raises(ValueError, match="leave target out"):
        load_classification("driving", archive, target="x")
    with pytest.raises(FileNotFoundError, match="sid.erda.dk"): load_classification("driving", archive / "no")


def test_no_track_is_parted(whole):
    data = load_classification("driving", whole)
    for kind, forget in (("random", ()), ("class", ("stop",))):
        split = scenario_split(data, kind, 0, forget)
        gone, left = (set(data.train.sublabels[part].tolist()) for part in (split.forget, split.retain))
        assert gone and left and not gone & left and not gone & set(data.test.sublabels.tolist())
    protocol = find_protocol("driving")
    assert protocol.augment and not protocol.flip, "a sign in a mirror is another sign"


def test_harm_is_asked_about_by_shape_colour_and_meaning(whole, tmp_path):
    short = dict(architecture="lenet5", num_epochs=1, augment=False, optimizer="Adam(lr=0.003)")
    changes = short | dict(data_options=dict(folder=str(whole)))
    store, emitters = Store(tmp_path), ["stop", "speed limit 30"]
    settings = dict(num_train_epochs=1)
    ask = dict(protocol="driving", changes=changes)
    assert class_interference(store, "finetune", settings, emitters, **ask) == 2
    moved = changes | dict(data_options=dict(folder=str(shutil.copytree(whole, tmp_path / "moved"))))
    assert class_interference(store, "finetune", settings, emitters, **ask | dict(changes=moved)) == 0
    rows = read_entities(store, "driving")
    assert [{k: r[k] for k in sign_table()[0]} for r in rows] == sign_table()
    assert not get_task("driving").asks_in_words
    question = dict(
        task="driving",
        base_folder=str(tmp_path),
        unlearning_algorithm="finetune",
        interference_pair="judge_prob_diff",
    )
    for attribute in ("shape", "colour", "meaning"):
        template = rt_name_to_class["InterferenceAlongAttribute"](
            **question, attribute=attribute, n_permutations=19
        )
        assert template.compute()["result"]["n_pairs"] == 2 * 42


@pytest.mark.long(15)
def test_smoke(tmp_path):
    page, table = batch_classifiers("driving", [], [], tmp_path, False, smoke=True)
    assert [path.name for path in tmp_path.iterdir()] == ["smoke"], "stand-ins stay in a folder of their own"
    rows = pd.read_csv(table).set_index("method")
    assert list(rows.index) == ["original", "other_oracle", "finetune", "random_label", "cf_k"]
    assert rows.loc["original", "numbers.retain"] > 0.5, "what is planted is found"
    assert rows.loc["other_oracle", "numbers.forget"] == 0
    assert "driving" in page.read_text(encoding="utf-8") and len(SIGNS.sources) == 3


@pytest.mark.parametrize(
    "task, parameter, said",
    [
        ("digits", "seeds=0", "digits has no stand-ins; those of .*driving"),
        ("driving", "folder=x", "leave out -p folder=x"),
        ("driving", "seed=1", "did you mean 'seeds'"),
    ],
)
def test_what_smoke_refuses(task, parameter, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        batch_classifiers(task, [], [parameter], tmp_path, False, smoke=True)
