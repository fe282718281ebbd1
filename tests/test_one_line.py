"""What cannot be done is refused in one line that names the thing: devices, folders, recipes, pipelines,
disks."""
import errno
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from vision_unlearning.core import ForeignFileError
from vision_unlearning.models import load_pipeline, tiny_pipeline
from vision_unlearning.models.embedded import embedded_path
from vision_unlearning.models.optimizers import make_optimizer, parse_call
from vision_unlearning.models.schedules import make_schedule
from vision_unlearning.running import cli
from vision_unlearning.running.cli import error_line, main


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    "A tiny pipeline in a folder."
    folder = tmp_path_factory.mktemp("saved")/"tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path): return Path(shutil.copytree(saved, tmp_path/"copy"))


def refused(source, words):
    "That a source is refused, in one line that has these words."
    with pytest.raises((ValueError, OSError), match=words) as found: load_pipeline(source)
    assert "\n" not in error_line(found.value)


def test_the_embedded_pipeline_runs_in_plain_diffusers():
    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained(embedded_path("emoji-sd"))
    pipe.set_progress_bar_config(disable=True)
    assert {m.dtype for m in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}
    generator = torch.Generator().manual_seed(0)
    assert pipe("An image of fox", num_inference_steps=1, generator=generator).images[0].size == (64, 64)


@pytest.mark.parametrize("device", ["nope", "cuda:77", "meta", ""])
def test_a_device_that_is_not_there(device):
    with pytest.raises(ValueError, match="cannot be used on this machine"):
        load_pipeline("tiny", device=device)


def weights(folder, part): return next((folder/part).glob("*.safetensors"))


def test_half_precision_alone_is_loaded(copy):
    weights(copy, "unet").rename(copy/"unet"/"diffusion_pytorch_model.fp16.safetensors")
    assert load_pipeline(copy).unet.dtype == torch.float32


def test_folders_that_are_nearly_a_pipeline(saved, tmp_path):
    def change(part, how):
        place = Path(shutil.copytree(saved, tmp_path/f"{part}-{how.__name__}", dirs_exist_ok=True))
        how(place/part)
        return place
    def gone(path): shutil.rmtree(path) if path.is_dir() else path.unlink()
    def nothing(path): path.write_text("{}")
    def cut(path): weights(path.parent, path.name).write_bytes(b"x")
    def pickle(path): weights(path.parent, path.name).rename(path/"pytorch_model.bin")
    def broken(path): path.write_text("{")
    refused(change("tokenizer", gone), "lacks tokenizer/")
    refused(change("unet", gone), "lacks unet/")
    refused(change("unet", cut), "does not load as a pipeline")
    refused(change("vae", pickle), "is a pickle")
    refused(change("model_index.json", gone), "no model_index.json")
    refused(change("model_index.json", broken), "is not JSON")
    refused(change("model_index.json", nothing), "_class_name: Field required")
    refused(weights(saved, "unet"), "is a single file")
    refused(saved/"unet", "no model_index.json")
    refused("nobody/nothing", "no pipeline 'nobody/nothing'")


def test_tokens_of_another_model(copy):
    for path in (copy/"tokenizer").iterdir(): path.unlink()
    (copy/"tokenizer"/"tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    with pytest.raises(ForeignFileError): load_pipeline(copy)


def test_pipelines_that_want_a_picture():
    from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline

    from vision_unlearning.interference.generate import generate_array
    pipe = tiny_pipeline()
    parts = {**pipe.components, "safety_checker": None}
    for cls in (StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline):
        with pytest.raises(ValueError, match=f"{cls.__name__} wants image"):
            generate_array(cls(**parts, requires_safety_checker=False), [42], ["An image of fox"])


def test_the_size_of_a_network_in_two_numbers():
    from diffusers import StableDiffusionPipeline

    from vision_unlearning.data.splits import make_split
    from vision_unlearning.interference.generate import generate_array
    from vision_unlearning.unlearners.diffusion.inputs import encode_dataset
    def sized(height, width):
        parts = tiny_pipeline().components
        parts["unet"].register_to_config(sample_size=[height, width])
        return StableDiffusionPipeline(**parts, requires_safety_checker=False)
    forget, _ = make_split("emoji", "fox", per_entity=1)
    plain, square, wide = tiny_pipeline(), sized(8, 8), sized(8, 16)
    drawn, same, wider = (
        generate_array(pipe, [42], ["An image of fox"], num_inference_steps=1)
        for pipe in (plain, square, wide)
    )
    assert (drawn == same).all() and wider.shape == (1, 16, 32, 3)
    assert torch.equal(encode_dataset(plain, forget).mean, encode_dataset(square, forget).mean)
    with pytest.raises(ValueError, match="16x8 latents"): encode_dataset(wide, forget)


@pytest.mark.parametrize(
    "text", ["SGD(lr=1, lr=2)", "SGD(lr=" + "-" * 10_000 + "1)", "SGD(lr=" + "[" * 900 + ")"]
)
def test_recipes_that_cannot_be_read(text):
    with pytest.raises(ValueError, match="is not a name with literal keyword arguments") as found:
        parse_call(text)
    assert len(str(found.value)) < 250


def test_recipes_with_wrong_values():
    weight = [torch.zeros(1, requires_grad=True)]
    with pytest.raises(ValueError, match="betas"): make_optimizer("Adam(betas=(.9,))", weight)
    texts = [
        "Step(milestones='x')",
        "Cyclic(base_lr='x', max_lr=1)",
        "OneCycle(warmup='x')",
        "OneCycle(warmup=True)",
    ]
    for text in texts:
        with pytest.raises(ValueError, match="of the schedule"): make_schedule(text, 2, 2)
    assert make_schedule("Step(milestones=(1, 2))", 4, 1)(3) == pytest.approx(.01)


def test_one_row_and_batch_norm():
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    from vision_unlearning.unlearners.classifiers.base import get_classifier_method
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))
        rows = TensorDataset(torch.rand(5, 1, 8, 8), torch.arange(5))
    method = get_classifier_method("finetune")(num_train_epochs=1)
    with pytest.raises(ValueError, match="retain has a batch of one row, of which BatchNorm"):
        method.unlearn(net, rows, DataLoader(rows, batch_size=4), generator=torch.Generator().manual_seed(0))


def test_whatever_stops_a_command_is_one_line(monkeypatch, capsys):
    def raising(error):
        def status(*_): raise error
        monkeypatch.setattr("vision_unlearning.running.batch.batch_status", status)
        with pytest.raises(SystemExit) as stop: main(["status"])
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        return stop.value.code, err
    assert raising(OSError(errno.ENOSPC, "No space left on device", "x.json"))[0] == 2
    assert "not foreseen" in raising(KeyError("seconds"))[1]
    assert raising(KeyboardInterrupt()) == (130, f"{cli.STOPPED['status']}\n")


@pytest.mark.parametrize("words", [
    "run prepare -q --base-folder /dev/null",
    "run prepare -q --base-folder /proc/nothing",
    "run unlearn -p overrides=[[",
    "run unlearn -p overrides=" + "["*3000,
    "run unlearn -p entities=,",
    "batch --methods ,",
    "report --n-permutations -5",
    "run --forse",
    "nothing",
    "erase --concept fox --out NEW --settings [1]",
    "erase --concept fox --out NEW --settings null",
    "erase --concept fox --out NEW --settings " + "["*3000,
    "erase --concept fox --out NEW --kohya",
    "erase --concept fox --out NEW --model tiny --clip tiny --device meta",
    "erase --concept fox --out NEW --num-inference-steps -5",
])
def test_commands_that_cannot_be_done(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop: main(words.split())
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
    assert "not foreseen" not in err and not list(tmp_path.iterdir())


def test_another_python_under_the_same_name(tmp_path, monkeypatch):
    from vision_unlearning.running.notebooks import SharedKernel
    spec = tmp_path/"kernels"/"python3"
    spec.mkdir(parents=True)
    argv = ["/nowhere/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    about = {"argv": argv, "display_name": "x", "language": "python"}
    (spec/"kernel.json").write_text(json.dumps(about))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    with SharedKernel() as kernel:
        assert kernel.ready().kernel_spec.argv[0] == sys.executable
