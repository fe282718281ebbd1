"""Pictures as people have them: one file gives the same pixels at every door, and a broken one is named."""
import os
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from vision_unlearning.core import ForeignFileError
from vision_unlearning.data.classification import folder_data, from_dataset, read_image_folder, stack_images
from vision_unlearning.data.dataset import UnlearnDataset
from vision_unlearning.data.testbed import picture_folders
from vision_unlearning.explore.embeddings import embed_image_with_dino
from vision_unlearning.metrics.base import as_images
from vision_unlearning.models.encoders import DinoTransform
from vision_unlearning.models.judge import Judge
from vision_unlearning.pictures import column_pictures, open_picture, picture_array, read_pictures
from vision_unlearning.results.visual import decode_image, encode_image
from vision_unlearning.unlearners.diffusion.inputs import pixel_batches

SIDE = 16


def drawn():
    "(16,16,3) uint8 of four colours, the corner white."
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[4:9, 2:14] = 230, 40, 30
    pixels[11:, 5:7] = 20, 200, 90
    pixels[:3, :3] = 255
    return pixels


def hidden_under(colour):
    "The drawing with a transparent corner that hides a colour."
    pixels = drawn()
    pixels[:3, :3] = colour
    alpha = np.full((SIDE, SIDE, 1), 255, np.uint8)
    alpha[:3, :3] = 0
    return Image.fromarray(np.concatenate([pixels, alpha], 2))


def write_ways(folder):
    "The drawing as people keep it; name -> file."
    plain = Image.fromarray(drawn())
    palette = plain.quantize(8)
    turned = plain.rotate(90, expand=True)
    turned.getexif()[274] = 6
    saved = {
        "plain": (plain, {}),
        "turned": (turned, {"exif": turned.getexif()}),
        "hidden_black": (hidden_under((0, 0, 0)), {}),
        "hidden_orange": (hidden_under((240, 30, 10)), {}),
        "palette": (palette, {"transparency": int(np.asarray(palette)[0, 0])}),
        "key_colour": (plain, {"transparency": (255, 255, 255)}),
        "animated": (plain, {"save_all": True, "append_images": [Image.new("RGB", plain.size)]}),
    }
    for name, (picture, options) in saved.items(): picture.save(folder/f"{name}.png", **options)
    plain.convert("CMYK").save(folder/"cmyk.tif")
    return {path.stem: path for path in sorted(folder.iterdir())}


def column(path):
    "A `datasets.Dataset` of one file."
    return Dataset.from_dict({"image": [str(path)]}).cast_column("image", ImageFeature())


def classes(path):
    "A folder with one class, which holds one file."
    folder = path.parent/"classes"/path.stem/"fox"
    folder.mkdir(parents=True)
    (folder/path.name).write_bytes(path.read_bytes())
    return folder.parent


def eye(pixels):
    "A network that answers with what it was given."
    return SimpleNamespace(pooler_output=pixels.flatten(1))


def one(path):
    "A data set of one file."
    return UnlearnDataset([path], pd.DataFrame({"text": ["An image of fox"]}))


def last(pixels):
    "Channels last."
    return pixels.permute(1, 2, 0)


def levels(pixels, low, high):
    "(3,H,W) float in low..high as (H,W,3) uint8."
    return last(((pixels - low)/(high - low)*255).round().byte())


def labelled(path): return column(path).add_column("label", [0])


# every way in: a function of a path that returns (H,W,3) uint8
DOORS = {
    "open_picture": picture_array,
    "UnlearnDataset.picture": lambda path: one(path).picture(0),
    "UnlearnDataset[part]": lambda path: one(path)[None][0]["image"],
    "from_dataset": lambda path: UnlearnDataset.from_dataset(column(path)).picture(0),
    "column": lambda path: next(column_pictures(column(path))),
    "get_loader": lambda path: levels(next(iter(one(path).get_loader()))["image"][0], 0, 1),
    "class folder": lambda path: UnlearnDataset.from_folder(classes(path)).picture(0),
    "read_image_folder": lambda path: last(read_image_folder(classes(path)).images[0]),
    "classification.from_dataset": lambda path: last(from_dataset(labelled(path)).images[0]),
    "stack_images": lambda path: last(stack_images([Image.open(path)], 3)[0]),
    "pixel_batches": lambda path: levels(next(pixel_batches(column(path), SIDE, 1))[0], -1, 1),
    "as_images": lambda path: last(as_images(Image.open(path))[0]),
    "as_images of a path": lambda path: last(as_images([path])[0]),
    "read_images": lambda path: read_pictures([path], threads=2)[0],
    "encode_image": lambda path: decode_image(encode_image(path)),
}


@pytest.mark.parametrize("door", DOORS)
def test_files_that_look_alike_are_read_alike(door, tmp_path):
    for name, path in write_ways(tmp_path).items():
        seen = np.asarray(DOORS[door](path))
        assert np.abs(seen.astype(int) - drawn()).max() == 0, (door, name)


def test_dino_reads_them_alike(tmp_path):
    ways = write_ways(tmp_path)
    transform = DinoTransform()
    wanted = transform.batch(torch.from_numpy(drawn()).permute(2, 0, 1)[None])[0]
    for name, path in ways.items():
        assert torch.equal(transform(Image.open(path)), wanted), name
        assert embed_image_with_dino(str(path), eye, transform, "cpu") == wanted.flatten().tolist(), name


def test_files_that_look_alike_have_one_fingerprint(tmp_path):
    ways = write_ways(tmp_path)
    assert len({one(path).fingerprint for path in ways.values()}) == 1
    changed = drawn()
    changed[0, 0, 0] = 254
    assert one(changed).fingerprint != one(drawn()).fingerprint


def test_grey_of_sixteen_bits_is_scaled(tmp_path):
    ramp = np.linspace(0, 65535, 64*64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path/"ramp.png")
    for seen in (open_picture(tmp_path/"ramp.png"), open_picture(ramp), as_images([tmp_path/"ramp.png"])):
        assert abs(np.asarray(seen).mean() - 127.) < .6 and len(np.unique(np.asarray(seen))) == 256
    small = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (np.asarray(open_picture(small.astype(np.uint16)*257)) == small).all()
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path/"float.tif")
    with pytest.raises(ForeignFileError, match="float.tif .* do not say what is white"):
        open_picture(tmp_path/"float.tif")
    with pytest.raises(ValueError, match="got float64"): open_picture(np.zeros((4, 4, 3)))


def test_grey_stays_grey(tmp_path):
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    grey.save(tmp_path/"plain.png")
    grey.save(tmp_path/"key.png", transparency=255)
    veiled = Image.merge("LA", (grey, grey.point(lambda level: 255)))
    veiled.save(tmp_path/"alpha.png")
    for path in tmp_path.iterdir():
        assert open_picture(path).mode == "L", path
        assert (np.asarray(open_picture(path)) == np.asarray(grey)).all(), path


def broken_files(folder):
    "What people find in folders of pictures and is none."
    Image.fromarray(drawn()).resize((300, 300)).save(folder/"cut.jpg")
    whole = (folder/"cut.jpg").read_bytes()
    (folder/"cut.jpg").write_bytes(whole[:len(whole)//2])
    (folder/"._mac.jpg").write_bytes(b"Mac\0")
    (folder/"postscript.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (folder/"folder.png").mkdir()
    os.mkfifo(folder/"pipe.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("door", ["open_picture", "UnlearnDataset[part]", "from_dataset", "stack_images",
                                  "pixel_batches", "as_images of a path", "read_images", "column"])
def test_a_broken_file_is_named(door, tmp_path):
    opened = {"stack_images": lambda path: stack_images([path], 3)}.get(door, DOORS[door])
    for path in broken_files(tmp_path):
        with pytest.raises(ForeignFileError, match=path.name): opened(path)


def test_an_image_that_PIL_has_not_read_yet_is_named(tmp_path):
    broken_files(tmp_path)
    for door in (open_picture, as_images, lambda image: stack_images([image], 3)):
        with pytest.raises(ForeignFileError, match="cut.jpg is not a whole picture"):
            door(Image.open(tmp_path/"cut.jpg"))


def test_a_bomb_is_named(tmp_path, monkeypatch):
    Image.new("RGB", (400, 400)).save(tmp_path/"bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for door in ("open_picture", "UnlearnDataset[part]", "from_dataset", "pixel_batches", "read_images"):
        with pytest.raises(ForeignFileError, match="bomb.png"): DOORS[door](tmp_path/"bomb.png")
    with pytest.raises(ForeignFileError, match="bomb.png"): read_image_folder(classes(tmp_path/"bomb.png"))


def test_an_empty_cell_is_named():
    data = Dataset.from_dict({"image": [drawn(), None]}).cast_column("image", ImageFeature())
    with pytest.raises(ValueError, match="row 1 has no picture"): list(column_pictures(data))
    with pytest.raises(ValueError, match="row 1 has no picture"): UnlearnDataset.from_dataset(data)


def test_formats_and_transforms_of_the_caller(tmp_path):
    data = column(write_ways(tmp_path)["hidden_orange"])
    for kind in ("numpy", "torch"):
        assert (np.asarray(next(column_pictures(data.with_format(kind)))) == drawn()).all()
    black = data.with_transform(lambda rows: {"image": [Image.new("RGB", (4, 4)) for _ in rows["image"]]})
    assert np.asarray(next(column_pictures(black))).shape == (4, 4, 3)


def test_what_is_passed_over_is_counted(tmp_path):
    Image.fromarray(drawn()).save(tmp_path/"a.png")
    good = (tmp_path/"a.png").read_bytes()
    for name in ("x/fox/1.png", "x/fox/._1.png", "x/fox/2.heic", "x/fox/3.heic", "x/__MACOSX/fox/1.png"):
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/name).write_bytes(good)
    os.mkfifo(tmp_path/"x"/"fox"/"pipe.png")
    said = "5 files passed over \\(2 hidden, 2 .heic, 1 no file\\)"
    with pytest.warns(UserWarning, match=said): assert len(read_image_folder(tmp_path/"x")) == 1
    with pytest.warns(UserWarning, match=said): assert len(UnlearnDataset.from_folder(tmp_path/"x")) == 1
    assert [len(files) for files in picture_folders(tmp_path/"x", "*.png").values()] == [1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image_folder(classes(tmp_path/"a.png"))


def test_a_list_names_files_of_its_own_folder(tmp_path):
    for place in ("ds/train/fox", "ds/val/images", "secret"): (tmp_path/place).mkdir(parents=True)
    for place in ("ds/train/fox/a.png", "ds/val/images/b.png", "secret/s.png"):
        Image.fromarray(drawn()).save(tmp_path/place)
    said = tmp_path/"ds"/"val"/"val_annotations.txt"
    said.write_text("b.png\tfox\n")
    assert len(folder_data(tmp_path/"ds").test) == 1
    for line in (
        "../../../secret/s.png\tfox",
        f"{tmp_path}/secret/s.png\tfox",
        "absent.png\tfox",
        "b.png fox",
    ):
        said.write_text(f"b.png\tfox\n{line}\n")
        with pytest.raises(ForeignFileError, match="val_annotations.txt, line 2"): folder_data(tmp_path/"ds")


def test_the_middle_is_taken_everywhere(tmp_path):
    wide = np.concatenate([drawn()*0 + 7, drawn(), drawn()*0 + 9], 1)[:, 8:-8]
    Image.fromarray(wide).save(tmp_path/"wide.png")
    middle = torch.from_numpy(drawn()).permute(2, 0, 1)
    assert torch.equal(DOORS["pixel_batches"](tmp_path/"wide.png"), last(middle))
    assert torch.equal(read_image_folder(classes(tmp_path/"wide.png"), size=SIDE).images[0], middle)
    with torch.random.fork_rng(): judge = Judge({"entity": ["fox", "key"]}, (4, 4, 4, 4)).eval()
    both = [judge.probabilities(as_images([picture]))["entity"] for picture in (tmp_path/"wide.png", drawn())]
    assert torch.equal(*both)


def test_two_sizes_are_named(tmp_path):
    Image.fromarray(drawn()).save(tmp_path/"a.png")
    Image.fromarray(drawn()).resize((8, 4)).save(tmp_path/"b.png")
    both = [tmp_path/"a.png", tmp_path/"b.png"]
    with pytest.raises(ValueError, match="b.png has 8x4 pixels and the first picture 16x16"):
        read_pictures(both)
    with pytest.raises(ValueError, match="picture 1 has 8x4 pixels"): as_images(both)
