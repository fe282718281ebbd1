"""Data sets with labels: the forms they come in, how they are split, and how they are dealt."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from vision_unlearning.core import ForeignFileError
from vision_unlearning.data.classification import (
    ImageSet,
    from_dataset,
    hub_data,
    load_classification,
    stack_images,
)
from vision_unlearning.data.forgetting import class_split, index_split, random_split, subclass_split
from vision_unlearning.data.loaders import as_loader, split_loaders


@pytest.fixture(scope="module")
def digits(): return load_classification("digits")


@pytest.fixture(scope="module")
def domains(): return load_classification("emoji", target="domain")


# The forms of files

@pytest.fixture
def few(digits): return {"train": digits.train[range(40)], "test": digits.test[range(10, 60)]}


def grey(part): return part.images[:, 0].numpy()


def write_idx(path, array):
    header = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">i4").tobytes()
    path.write_bytes(header + array.tobytes())


def idx_folder(folder, few):
    "The form of MNIST: one file of pictures and one of labels a side."
    for side, part in (("train", few["train"]), ("t10k", few["test"])):
        write_idx(folder / f"{side}-images-idx3-ubyte", grey(part))
        write_idx(folder / f"{side}-labels-idx1-ubyte", part.labels.numpy().astype(np.uint8))
    return folder


def picture_tree(folder, few):
    "The form of Tiny ImageNet: a folder a class, `val` for the test side."
    for side, part in (("train", few["train"]), ("val", few["test"])):
        for i, (picture, label) in enumerate(zip(grey(part), part.labels.tolist())):
            path = folder / side / str(label) / "images" / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    return folder


def cifar_files(folder, few):
    "The form of CIFAR-100: records of a super-class, a class and the pixels of three channels."
    for side, part in few.items():
        labels = part.labels.numpy()[:, None]
        pixels = part.images.expand(-1, 3, -1, -1).reshape(len(part), -1).numpy()
        np.concatenate([labels // 5, labels, pixels], 1).astype(np.uint8).tofile(folder / f"{side}.bin")
    return folder


def test_idx_files_have_the_same_bytes(few, tmp_path):
    mnist = load_classification("mnist", idx_folder(tmp_path, few))
    assert torch.equal(mnist.train.images, few["train"].images)
    assert torch.equal(mnist.test.labels, few["test"].labels)
    # EMNIST writes its letters lying down
    sideways = load_classification("emnist", tmp_path)
    assert torch.equal(sideways.train.images, mnist.train.images.transpose(2, 3))


def test_idx_files_that_are_odd_or_cut(few, tmp_path):
    idx_folder(tmp_path, few)
    odd = tmp_path / "t10k-other-images-idx3-ubyte"
    odd.touch()
    with pytest.raises(FileNotFoundError, match="there must be one"): load_classification("mnist", tmp_path)
    odd.unlink()
    pictures = tmp_path / "t10k-images-idx3-ubyte"
    pictures.write_bytes(pictures.read_bytes()[:-1])
    with pytest.raises(ForeignFileError, match="download it again"): load_classification("mnist", tmp_path)


def test_a_folder_a_class(few, tmp_path):
    found = load_classification("mnist", picture_tree(tmp_path, few)).test
    labels = few["test"].labels.tolist()
    by_class = sorted(range(len(labels)), key=lambda i: (labels[i], i))
    assert torch.equal(found.images, few["test"].images[torch.tensor(by_class)])


def test_cifar_records(few, tmp_path):
    cifar = load_classification("cifar100", cifar_files(tmp_path, few), target="coarse")
    assert torch.equal(cifar.test.images[:, :1], few["test"].images)
    assert (cifar.num_classes, len(cifar.train.subclasses)) == (2, 10)
    (tmp_path / "test.bin").write_bytes(b"123")
    with pytest.raises(ForeignFileError, match="whole records"): load_classification("cifar100", tmp_path)


def test_what_is_missing_or_foreign_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="ylecun/mnist"):
        load_classification("mnist", tmp_path / "none")
    (tmp_path / "py").mkdir()
    (tmp_path / "py/data_batch_1").touch()
    with pytest.raises(ForeignFileError, match="take the binary version"):
        load_classification("cifar10", tmp_path / "py")
    with pytest.raises((FileNotFoundError, ForeignFileError), match="no train/"):
        load_classification("folder", tmp_path)


def test_a_dataset_of_the_hub_in_memory(digits):
    features = Features({"picture": ImageFeature(), "kind": ClassLabel(names=["small", "large"])})
    pictures = [Image.fromarray(i) for i in grey(digits.train[range(6)])]
    kinds = [int(label > 4) for label in digits.train.labels[:6]]
    like_hub = Dataset.from_dict({"picture": pictures, "kind": kinds}, features=features)
    loaded = from_dataset(like_hub, "picture", "kind", channels=1)
    assert torch.equal(loaded.images, digits.train.images[:6]) and loaded.classes == ["small", "large"]
    with pytest.raises(ValueError, match="no column 'image'"): from_dataset(like_hub, "image", "kind")


@pytest.mark.parametrize(
    "ask, said",
    [
        (lambda: load_classification("cifar"), "did you mean 'cifar10'"),
        (lambda: load_classification("digits", target="domain"), "leave target out"),
        (lambda: hub_data("cifar10", target="coarse"), "no target 'coarse'"),
        (lambda: stack_images([Image.new("L", (8, 8)), Image.new("L", (9, 9))], 1), "give size=64"),
    ],
)
def test_a_wrong_request_is_answered(ask, said):
    with pytest.raises(ValueError, match=said): ask()


# Forget and retain

def splits_of(digits, domains):
    return [
        (digits, random_split(digits, .1)),
        (digits, class_split(digits, [1, "2", 3, 4])),
        (domains, subclass_split(domains, "fox")),
        (digits, index_split(digits, [5, 3])),
    ]


def test_splits_part_both_sides(digits, domains):
    for whole, split in splits_of(digits, domains):
        assert sorted(split.forget.tolist() + split.retain.tolist()) == list(range(len(whole.train)))
        assert sorted(split.test.tolist() + split.test_forget.tolist()) == list(range(len(whole.test)))


def test_each_split_forgets_what_it_says(digits, domains):
    (_, random), (_, classes), (_, fox), (_, rows) = splits_of(digits, domains)
    assert set(digits.train.labels[classes.forget].tolist()) == {1, 2, 3, 4} == set(classes.forget_classes)
    assert not set(digits.test.labels[classes.test].tolist()) & {1, 2, 3, 4}
    assert len(random.forget) == 120
    share = torch.bincount(digits.train.labels[random.forget]) / torch.bincount(digits.train.labels)
    assert torch.allclose(share, torch.full((10,), .1), atol=.01)
    assert (len(fox.forget), len(fox.test_forget), fox.forget_classes) == (6, 2, [])
    assert rows.forget.tolist() == [3, 5]


# Loaders

def test_the_loaders_of_a_split(digits, domains):
    split = class_split(digits, [1, 2, 3, 4])
    loaders = split_loaders(digits, split, 64)
    assert list(loaders) == ["retain", "forget", "test", "test_forget"]
    assert list(split_loaders(digits, random_split(digits, .1))) == ["retain", "forget", "test"]
    assert {y for _, labels in loaders["forget"] for y in labels.tolist()} == {1, 2, 3, 4}
    assert len(loaders["test"].images) + len(loaders["test_forget"].images) == len(digits.test)
    with pytest.raises(ValueError, match="was made for data"): split_loaders(domains, split)


def sources():
    ramp = ImageSet(torch.zeros(4, 1, 6, 6, dtype=torch.uint8) + 9, torch.arange(4) % 2, ["even", "odd"])
    yield "set", ramp
    yield "pair of tensors", (ramp.images, ramp.labels)
    yield "torch", torch.utils.data.TensorDataset(torch.full((5, 1, 4, 4), .5), torch.arange(5))
    yield "loader", as_loader(ramp, 3)
    yield "list", [(torch.ones(2, 1, 4, 4), torch.tensor([0, 1]))] * 2


@pytest.mark.parametrize("source", [pytest.param(s, id=name) for name, s in sources()])
def test_whatever_holds_labelled_pictures_is_a_loader(source):
    x, y = next(iter(as_loader(source, 2)))
    assert x.ndim == 4 and x.dtype == torch.float32 and y.dtype == torch.int64
    assert 0 <= float(x.min()) <= float(x.max()) <= 1


def test_what_is_no_loader_is_refused():
    with pytest.raises(TypeError, match="more than once"): as_loader(p for p in [])
    with pytest.raises(TypeError, match="int holds no labelled pictures"): as_loader(3)
