"""The app: visitors do not mix, nothing escapes, and a browser erases a fox, attacks it, takes it home."""
from __future__ import annotations

import importlib.util
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from vision_unlearning.models import tiny_pipeline
from vision_unlearning.running import app as the_app
from vision_unlearning.running.cli import main
from vision_unlearning.running.live import Live, at_strength, download, erase_live, load_live
from vision_unlearning.unlearners.base import attached, load_edit

SPACE = Path(__file__).parents[1] / "nbs" / "9_commands" / "space"
FEW = dict(neighbours=1, others=1, num_inference_steps=1, paraphrases=())


class ColourClip:
    "Sees the mean colour."
    colours = {"red": (1, 0, 0), "yellow": (1, 1, 0), "cyan": (0, 1, 1)}
    def unit(self, colour): return torch.nn.functional.normalize(colour - .5, dim=1)
    def encode_images(self, images): return self.unit(images.float().mean((2, 3)) / 255)
    def encode_texts(self, texts):
        return self.unit(torch.tensor([self.colours.get(t.split()[-1], (1, 1, 1)) for t in texts]).float())


@pytest.fixture(scope="module")
def tiny(): return Live("tiny", tiny_pipeline(), ColourClip())


def asked(live, concept, seed):
    "One visitor, from the first picture to the last."
    trial = erase_live(live, concept, seed=seed, candidates=["yellow", "cyan", "key", "violin"], **FEW)
    half = at_strength(live, trial, .5)
    return [trial.erasure.pictures, half.pictures, *trial.erasure.edit.tensors.values()]


def test_visitors_at_once_get_what_they_get_alone(tiny):
    weights = {k: v.clone() for k, v in tiny.pipe.unet.state_dict().items()}
    visitors = [("red", 1), ("key", 2), ("cyan", 3)]
    alone = [asked(tiny, *visitor) for visitor in visitors]
    found = {}
    def come(visitor): found[visitor] = asked(tiny, *visitor)
    threads = [threading.Thread(target=come, args=(visitor,)) for visitor in visitors]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    for visitor, expected in zip(visitors, alone):
        for here, there in zip(found[visitor], expected, strict=True): assert np.array_equal(here, there)
    assert not np.array_equal(alone[0][1], alone[1][1])
    assert not attached(tiny.pipe)
    assert all(torch.equal(weights[k], v) for k, v in tiny.pipe.unet.state_dict().items())


def test_an_error_in_the_middle_leaves_the_pipeline_free(tiny):
    trial = erase_live(tiny, "red", candidates=["yellow", "cyan", "key"], **FEW)
    with pytest.raises(ValueError, match="finite"): at_strength(tiny, trial, float("nan"))
    assert not attached(tiny.pipe) and not tiny.lock.locked()
    other = Live("another", tiny.pipe, tiny.clip)
    with pytest.raises(ValueError, match="was erased from tiny, not another"): at_strength(other, trial, 1.)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "../fox", "<b>fox</b>", "C:\\x"])
def test_a_name_of_a_visitor_is_never_a_path(tiny, tmp_path, name):
    trial = erase_live(tiny, name, candidates=["yellow", "cyan", "key"], **FEW)
    inside = tmp_path / "inside"
    inside.mkdir()
    for form in ("folder", "uce"): assert download(tiny, trial, form, inside).parent == inside
    assert [p.name for p in tmp_path.iterdir()] == ["inside"]
    with pytest.raises(ValueError, match="unknown form"): download(tiny, trial, "../uce", inside)


def test_a_folder_is_offered_by_the_command_line_only():
    actions = the_app.Actions(the_app.Shared(["emoji-sd"]))
    for model in ("/etc", "../emoji-sd", "somebody/model", ""):
        with pytest.raises(ValueError, match="unknown model"): actions.erase(model, "fox", 1, 4, None)
    assert not actions.shared.loaded


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit) as stop: main(["app"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == 'error: Gradio is missing: pip install "vision-unlearning[app]"\n'


def test_the_requirements_of_a_space_are_ours():
    from configparser import ConfigParser

    from packaging.requirements import Requirement
    settings = ConfigParser()
    settings.read(SPACE.parents[2] / "settings.ini")
    (line,) = [s for s in (SPACE / "requirements.txt").read_text().splitlines() if not s.startswith("--")]
    needed = Requirement(line)
    assert needed.extras == {"app"} and needed.url == f"git+{settings['DEFAULT']['git_url']}"


# With Gradio

has_gradio = importlib.util.find_spec("gradio") is not None
with_gradio = pytest.mark.skipif(not has_gradio, reason="gradio (the extra app) is not installed")


@with_gradio
def test_a_space_is_one_file():
    import gradio
    spec = importlib.util.spec_from_file_location("space_app", SPACE / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert isinstance(module.demo, gradio.Blocks)
    named = [b for b in module.demo.blocks.values() if isinstance(b, gradio.components.Component)]
    unnamed = [b for b in named if not getattr(b, "label", "") and not getattr(b, "value", "")]
    assert [type(b).__name__ for b in unnamed] == ["State"]


@with_gradio
def test_an_error_of_a_button_is_one_line_of_text():
    import gradio
    def fail(): raise ValueError("no <b>fox</b>\nand a second line")
    with pytest.raises(gradio.Error) as caught: the_app.in_one_line(fail)()
    assert caught.value.message == "no &lt;b&gt;fox&lt;/b&gt;"


# In a real browser

def chromium():
    "Debian's, or another one that is called so."
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def missing() -> str:
    "Why no browser can be asked; empty where one can."
    for package in ("gradio", "playwright"):
        if not importlib.util.find_spec(package): return f"{package} is not installed"
    return "" if chromium() else "no chromium on PATH: apt-get install chromium"


browsed = pytest.mark.skipif(bool(missing()), reason=missing() or "never")


@pytest.fixture(scope="module")
def address():
    "Where the app listens."
    built = the_app.build_app(["emoji-sd"])
    _, where, _ = the_app.launch_app(built, prevent_thread_lock=True, quiet=True)
    yield where
    built.close()


@pytest.fixture
def page(address):
    "The page; an error of its script, or anything it asks of another machine, fails the test."
    from playwright.sync_api import sync_playwright
    wrong = []
    with sync_playwright() as play:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = play.chromium.launch(executable_path=chromium(), args=flags)
        page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
        page.set_default_timeout(300_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: wrong.append(r.url) if foreign(r.url, address) else None)
        page.goto(address)
        yield page
        browser.close()
    assert not wrong


def foreign(url, address) -> bool: return url.startswith("http") and not url.startswith(address.rstrip("/"))


def sources(page, when) -> list[str]:
    "The pictures without or with the edit, as they are on the page."
    found = page.locator(f'#pictures img[alt*="{when} the edit"]').evaluate_all("all => all.map(i => i.src)")
    assert found
    return found


def sees(page, prompt, when) -> bool:
    "Whether the judge saw the name of a prompt."
    alt = page.locator(f'#pictures img[alt^="{prompt},"][alt*="{when} the edit"]').get_attribute("alt")
    return alt.endswith(": recognised")


@browsed
@pytest.mark.long(26)
def test_a_fox_goes_comes_back_and_is_taken_home(page, tmp_path):
    page.click("#attack")
    page.wait_for_selector("text=nothing is erased yet")
    page.get_by_label("number input for Steps", exact=True).fill("6")
    page.keyboard.press("Tab")
    page.click("#erase")
    page.wait_for_selector("#pictures img")
    # Claim: the judge sees a fox without the edit, none with it, and a neighbour with it.
    said = [sees(page, "An image of fox", when) for when in ("without", "with")]
    assert said == [True, False] and sees(page, "An image of tiger face", "with")
    assert "6 steps" in page.inner_text("#verdict") and "strength 1 " in page.inner_text("#verdict")
    edited = sources(page, "with")
    assert edited[0] != sources(page, "without")[0]

    page.get_by_label("number input for Strength of the edit", exact=True).fill("0")
    page.keyboard.press("Tab")
    page.wait_for_selector("#verdict >> text=strength 0 ")
    assert sources(page, "with") == sources(page, "without")

    page.click("#attack")
    page.wait_for_selector("#attacked img")
    assert page.locator("#attacked img").count() == 5 and "came back in" in page.inner_text("#attacked")

    page.click("#take")
    page.wait_for_selector("#file a[download]")
    with page.expect_download() as got: page.click("#file a[download]")
    shutil.unpack_archive(got.value.save_as(tmp_path / "edit.zip") or tmp_path / "edit.zip", tmp_path)
    live = load_live("emoji-sd")
    edit = load_edit(tmp_path / "edit")
    assert edit.info["forget"] == ["fox"] and edit.attach(live.pipe) is edit

    for scheme in ("light", "dark"):
        for width in (1400, 390):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("img:not([alt]), img[alt='']").count() == 0
