"""A task says how its pictures are drawn: steps, guidance, size and scheduler, and other pictures never join
them."""
import numpy as np
import pytest
from kills import in_this_process
from PIL import Image

from vision_unlearning import tasks
from vision_unlearning.explore.attention import save_fingerprints
from vision_unlearning.interference.generate import generate_array, generate_off
from vision_unlearning.interference.pair import check_twins
from vision_unlearning.models import load_pipeline
from vision_unlearning.models.tiny import TINY_FAMILIES, tiny_pipeline
from vision_unlearning.running.cli import main
from vision_unlearning.running.own import new_task
from vision_unlearning.running.session import plan_sessions, task_entities
from vision_unlearning.running.stages import check_parameters
from vision_unlearning.store import Store, read_json, read_record, write_json
from vision_unlearning.tasks import MODELS_OWN, get_task

RED, BLUE = ("fox", "key", "red apple", "tomato"), ("crab", "bell", "castle", "wolf")
COLOURS = dict.fromkeys(RED, "red") | dict.fromkeys(BLUE, "blue")
NAMES = [{"name": name, "colour": colour} for name, colour in COLOURS.items()]
WIDE = dict(num_inference_steps=2, guidance_scale=2., height=40, width=48, scheduler="EulerDiscreteScheduler")


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch):
    "Each test opens its own base folders."
    monkeypatch.setattr(tasks, "_opened", {})


@pytest.fixture
def store(tmp_path): return Store(tmp_path/"results")


def wide(store, **changed):
    "A task that says everything, on the tiny pipeline."
    new_task(store, "wide", NAMES, model="tiny", clip="tiny", judge="", **WIDE | changed)
    return get_task("wide")


def test_a_command_says_it_and_every_stage_knows(store, tmp_path, capsys):
    table = tmp_path/"names.csv"
    rows = [f"{name},{colour}" for name, colour in COLOURS.items()]
    table.write_text("\n".join(["name,colour", *rows]))
    words = [w for name, value in WIDE.items() for w in (f"--{name.replace('_', '-')}", str(value))]
    main(["task", "new", "wide", "--table", str(table), *words, "--base-folder", str(store.base)])
    assert "drawn with: height 40, width 48, scheduler EulerDiscreteScheduler" in capsys.readouterr().out
    assert get_task("wide").drawing == WIDE
    asked = {"task": "wide", "base_folder": str(store.base)}
    assert WIDE.items() <= check_parameters("generate", asked).items()
    assert check_parameters("generate", asked | {"height": 64})["height"] == 64
    assert MODELS_OWN.items() <= check_parameters("generate", {}).items()


@pytest.mark.parametrize("asked, said", [
    (dict(height=100), "height must be a multiple of 8 pixels, or 0 for the model's own, got 100"),
    (dict(width=-8), "width must be a multiple of 8"),
    (dict(width=True), "width must be a multiple of 8"),
    (dict(scheduler="EulerScheduler"), "unknown scheduler 'EulerScheduler'"),
    (dict(scheduler="FlowMatchEulerDiscreteScheduler"), "FlowMatchEulerDiscreteScheduler"),
    (dict(scheduler="DDIMInverseScheduler"), "walks from the picture to the noise"),
    (dict(num_inference_steps=0), "num_inference_steps must be a whole number of at least 1"),
    (dict(guidance_scale=float("nan")), "guidance_scale must be a finite number"),
])
def test_nonsense_is_one_line_and_no_task(store, asked, said):
    with pytest.raises(ValueError) as refused: new_task(store, "odd", NAMES, **asked)
    assert said in str(refused.value) and "\n" not in str(refused.value)
    assert not store.base.exists()


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_size_and_scheduler_act_and_nothing_else_does(family):
    pipe, prompts = load_pipeline(family), ["An image of fox"]*2
    def drawn(**how): return generate_array(pipe, [1, 2], prompts, num_inference_steps=2, **how)
    own = dict(zip(("height", "width"), drawn().shape[1:3]))
    assert np.array_equal(drawn(**own, scheduler=type(pipe.scheduler).__name__), drawn())
    assert drawn(height=24, width=16).shape == (2, 24, 16, 3)
    flow = "FlowMatch" in type(pipe.scheduler).__name__
    other = "FlowMatchHeunDiscreteScheduler" if flow else "EulerDiscreteScheduler"
    if family == "tiny-flux":  # whose shift depends on the size, which Heun's walk does not know
        with pytest.raises(ValueError, match="FlowMatchHeunDiscreteScheduler [^\n]*$"): drawn(scheduler=other)
    else: assert (drawn(scheduler=other) != drawn()).any()
    with pytest.raises(ValueError, match="height must be a multiple of 8 pixels"): drawn(height=42)


def test_a_size_for_which_a_transformer_has_no_places_is_one_line():
    with pytest.raises(ValueError, match="height of StableDiffusion3Pipeline is 32 pixels at most, got 40"):
        generate_array(load_pipeline("tiny-sd3"), [1], ["An image of fox"], num_inference_steps=2, height=40)


def test_pictures_of_another_size_or_scheduler_never_join(store):
    task, pipe = wide(store), tiny_pipeline()
    prompts = ["An image of fox"]
    def draw(seed, **changed):
        return generate_off(pipe, store, "wide", prompts, [seed], model="tiny", **task.drawing | changed)
    assert draw(1) == 1
    mark = read_json(store.baseline("wide")/"settings.json")
    assert WIDE.items() <= mark.items()
    for changed in (dict(height=32), dict(width=0), dict(scheduler=""), dict(scheduler="DDIMScheduler")):
        with pytest.raises(ValueError, match="now asked with [^\n]*$"): draw(2, **changed)
    assert draw(1) == 0


def test_what_is_the_models_own_leaves_no_mark(store):
    "Folders that are older than the choice go on, also where the model's own size is spelt out."
    pipe, how = tiny_pipeline(), dict(model="tiny", num_inference_steps=2)
    generate_off(pipe, store, "emoji", ["An image of fox"], [1], **how)
    mark = read_json(store.baseline("emoji")/"settings.json")
    assert not MODELS_OWN.keys() & mark.keys()
    tall, broad = Image.open(next(store.baseline("emoji").glob("*.png"))).size
    spelt = dict(height=tall, width=broad, scheduler=type(pipe.scheduler).__name__)
    assert generate_off(pipe, store, "emoji", ["An image of fox"], [2], **how, **spelt) == 1


def test_twins_of_two_schedulers_are_refused(store):
    "Also where only one of them says which."
    session = plan_sessions(store, "emoji", "uce", ["fox"], "tiny")[0]
    write_json(store.baseline("emoji")/"settings.json", {"scheduler": "EulerDiscreteScheduler"})
    write_json(store.generated(session)/"settings.json", {})
    with pytest.raises(ValueError, match="scheduler 'EulerDiscreteScheduler' off, '' on"):
        check_twins(store, session)


def test_fingerprints_are_drawn_as_the_task_says(store):
    wide(store)
    save_fingerprints(store, "wide", tiny_pipeline(), [1], num_inference_steps=1)
    about = read_json(store.fingerprints("wide", "tiny"))["metadata"]
    assert {name: WIDE[name] for name in MODELS_OWN}.items() <= about.items()


@pytest.mark.long(20)
@in_this_process()
def test_a_batch_draws_and_reports_it(store):
    wide(store)
    base = ["--base-folder", str(store.base), "-q"]
    quick = ["-p", "seeds=42", "-p", "n_permutations=19", "-p", "max_figures=1", "-p", "embed=false"]
    main(["batch", "--task", "wide", "--methods", "uce", "--entities", "fox", *quick, *base])
    (session,) = plan_sessions(store, "wide", "uce", ["fox"])
    stages = read_record(store.record(session))["stages"]
    assert WIDE.items() <= stages["generate"].items()
    pictures = [*store.baseline("wide").glob("*.png"), *store.generated(session).glob("*.png")]
    assert {Image.open(path).size for path in pictures} == {(48, 40)}
    assert len(pictures) == 2*len(task_entities(store, "wide"))
    pages = [path.read_text() for path in store.base.rglob("*.html")]
    assert any("height 40; width 48; scheduler EulerDiscreteScheduler" in page for page in pages)
