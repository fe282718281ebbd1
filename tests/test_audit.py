"""An edit of somebody else is judged as one's own: the same table from every form that holds it."""
from pathlib import Path

import pandas as pd
import pytest
import torch

from vision_unlearning.core import ForeignFileError, UnknownNameError
from vision_unlearning.models.tiny import tiny_pipeline
from vision_unlearning.running.audit import Budget, audit, describe_change
from vision_unlearning.running.audit_page import save_audit
from vision_unlearning.running.cli import main
from vision_unlearning.running.erase import erase
from vision_unlearning.running.foreign import audit_session
from vision_unlearning.running.own import new_task
from vision_unlearning.running.report import write_report
from vision_unlearning.running.session import chosen_sessions
from vision_unlearning.store import Store, read_json, read_record
from vision_unlearning.unlearners.diffusion.foreign import FORMS
from vision_unlearning.unlearners.diffusion.lora import LoraEdit, adapter_edit, trainable_adapter
from vision_unlearning.unlearners.diffusion.prompt_filter import FilterPrompts
from vision_unlearning.unlearners.diffusion.uce import UCE
from vision_unlearning.unlearners.methods import check_known_method, method_label

pytestmark = pytest.mark.long

NAMES = ["red", "yellow", "cyan", "green"]
FOLDERS = ("pipeline", "pipeline/unet", "edit")  # the other forms in which edits are published
ROUNDING = 1  # grey levels by which it may move a pixel


class Colours:
    "A CLIP that knows four colours by the mean of a picture."
    def encode_images(self, images): return self.unit(images.float().mean((2, 3)) / 255)

    def encode_texts(self, texts):
        rows = [[name == "red", name in ("yellow", "green"), name == "cyan"] for name in self.names(texts)]
        return self.unit(torch.tensor(rows).float())

    def names(self, texts): return [text.split()[-1] for text in texts]

    def unit(self, colour): return torch.nn.functional.normalize(colour - .5, dim=1)


SMALL = dict(
    candidates=NAMES[1:],
    clip=Colours(),
    neighbours=1,
    others=1,
    seeds=(0,),
    paraphrases=("{}",),
    num_inference_steps=2,
)


@pytest.fixture(scope="module")
def tiny(): return tiny_pipeline()


@pytest.fixture(scope="module")
def erasure(tiny): return erase(tiny, "red", **SMALL)


@pytest.fixture(scope="module")
def lora(tiny):
    with trainable_adapter(tiny.unet, 2, 6.) as (parameters, config):
        for p in parameters: p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
        return adapter_edit(tiny.unet, config, {"method": "test"})


def folders(edit, tiny, tmp_path):
    "The forms that are folders."
    with edit.on(tiny): tiny.save_pretrained(tmp_path/"pipeline")
    edit.save_pretrained(tmp_path/"edit")


@pytest.mark.long(7)
def test_weights_of_every_form_give_the_table_of_the_erasure(tiny, erasure, tmp_path):
    edit = erasure.edit
    folders(edit, tiny, tmp_path)
    sources = {form: edit.export(form, tmp_path/f"{form}.safetensors", tiny) for form in FORMS}
    sources |= {name: tmp_path/name for name in FOLDERS}
    for name, source in sources.items():
        found = audit(tiny, source, "red", **SMALL)
        assert found.change.tensors == len(edit.tensors), name
        assert found.verdict == erasure.verdict, name
        if name in ("kohya", "diffusers", "spm"):  # as factors, which are exact to rounding
            assert abs(found.pictures.astype(int) - erasure.pictures).max() <= ROUNDING, name
            kept = ["group", "name", "prompt", "seed", "recognised_before", "recognised_after", "clip_before"]
            pd.testing.assert_frame_equal(found.table[kept], erasure.table[kept], check_exact=True)
            assert (found.table["clip_after"] - erasure.table["clip_after"]).abs().max() < .05, name
        else: pd.testing.assert_frame_equal(found.table, erasure.table, check_exact=True)


@pytest.mark.long(6)
def test_a_lora_of_every_form_gives_one_table(tiny, lora, tmp_path):
    lora.save_pretrained(tmp_path/"edit")
    wanted = audit(tiny, lora, "red", **SMALL)
    for form in ("kohya", "diffusers", "spm"):
        found = audit(tiny, lora.export(form, tmp_path/f"{form}.safetensors"), "red", **SMALL)
        pd.testing.assert_frame_equal(found.table, wanted.table, check_exact=True)
        assert found.change.tensors == wanted.change.tensors
    found = audit(tiny, tmp_path/"edit", "red", **SMALL)
    pd.testing.assert_frame_equal(found.table, wanted.table, check_exact=True)
    found = audit(tiny, lora.export("esd", tmp_path/"esd.safetensors", tiny), "red", **SMALL)
    assert abs(found.pictures.astype(int) - wanted.pictures).max() <= ROUNDING
    with pytest.raises(ValueError, match="'uce' holds keys and values"):
        lora.export("uce", tmp_path/"uce.safetensors", tiny)


def test_a_copy_is_no_success(tiny, lora, tmp_path):
    tiny.save_pretrained(tmp_path/"copy")
    idle = LoraEdit({n: t*(not n.endswith("up.weight")) for n, t in lora.tensors.items()}, lora.info)
    for copy in (tmp_path/"copy", tmp_path/"copy"/"unet", tiny_pipeline(), idle):
        found = audit(tiny, copy, "red", budget=Budget(1, 1), **SMALL)
        assert (found.verdict.answer, found.go, found.edit, found.probes) == ("NO-VERDICT", False, None, None)
        assert "nothing was changed" in str(found) and "GO:" not in str(found).replace("NO-GO:", "")
    written = save_audit(found, tmp_path/"page")
    assert read_json(written/"audit.json")["verdict"] == "NO-VERDICT"
    assert "nothing was changed" in (written/"audit.html").read_text()
    with pytest.raises(ValueError, match="there is no edit"):
        audit_session(found, tiny, Store(tmp_path/"store"), "emoji")


def test_what_is_no_edit_of_this_model_is_one_line(tiny, lora, tmp_path):
    other = tiny_pipeline(family="sdxl")
    foreign = UCE().unlearn(other, "red").export("kohya", tmp_path/"x.safetensors", other)
    (tmp_path/"x.bin").write_bytes(b"x")
    for source, words in ((foreign, "is of another model"), (tmp_path/"x.bin", "is a pickle.*save_file")):
        with pytest.raises(ForeignFileError, match=words) as caught: audit(tiny, source, "red", **SMALL)
        assert "\n" not in str(caught.value)
    with lora.on(tiny), pytest.raises(ValueError, match="detach it first"): audit(tiny, lora, "red", **SMALL)


def test_an_edit_of_calls_says_that_no_weights_changed(tiny):
    change = describe_change(FilterPrompts().unlearn(tiny, "red"), tiny)
    assert change.tensors == 0 and "no weights were changed" in str(change)


def test_a_text_encoder_is_audited(tiny, tmp_path):
    erased = tiny_pipeline()
    with torch.no_grad(): erased.text_encoder.final_layer_norm.weight.mul_(2)
    erased.text_encoder.save_pretrained(tmp_path/"words")
    found = audit(tiny, tmp_path/"words", "red", budget=Budget(1, 1, pictures=2), **SMALL)
    assert found.change.table["component"].tolist() == ["text_encoder"]
    assert found.probes["steps"].tolist() == [0, 0, 1, 1]
    assert torch.equal(
        tiny.text_encoder.final_layer_norm.weight,
        tiny_pipeline().text_encoder.final_layer_norm.weight,
    )


def test_a_foreign_edit_is_a_session_like_any_other(tiny, erasure, tmp_path):
    store = Store(tmp_path)
    new_task(store, "colours_seen", [dict(name=n) for n in NAMES], model="tiny", clip="tiny", judge="clip")
    path = erasure.edit.export("esd", tmp_path/"somebody.safetensors")
    result = audit(tiny, path, "red", **SMALL)
    session = audit_session(result, tiny, store, "colours_seen", name="somebody", num_inference_steps=1)
    record = read_record(store.record(session))
    assert record["status"] == "complete" and record["session"]["method"] == "foreign_somebody"
    assert record["foreign"]["sha256"] == result.sha256 and record["foreign"]["source"] == str(path)
    page = write_report(store, "colours_seen", [session]).read_text()
    assert "foreign_somebody" in page and "What it became" in page


def test_results_know_a_foreign_edit_by_its_name():
    assert check_known_method("foreign_somebody") == "foreign_somebody"
    assert method_label("foreign_somebody") == "somebody (foreign)"
    with pytest.raises(UnknownNameError, match="unknown method 'foreigner'"): check_known_method("foreigner")
    with pytest.raises(UnknownNameError): chosen_sessions(Store("nowhere"), "emoji", ["uccee"])
    assert chosen_sessions(Store("nowhere"), "emoji", ["foreign_somebody"]) == []


def test_the_command_draws_a_tasks_pictures_as_the_task_says(erasure, tmp_path, monkeypatch, capsys):
    "What the user says of steps holds for the task too; what nobody says is the task's."
    monkeypatch.chdir(tmp_path)
    drawing = dict(num_inference_steps=2, guidance_scale=1.5)
    networks = dict(model="tiny", clip="tiny", judge="clip")
    erasure.edit.export("esd", tmp_path/"somebody.safetensors")
    asked = "audit --original tiny --edited somebody.safetensors --concept red --task colours --clip tiny"
    for name, more, steps in (("first", "", 2), ("second", "--num-inference-steps 1", 1)):
        new_task(Store(f"in_{name}"), "colours", [dict(name=n) for n in NAMES], **networks, **drawing)
        with pytest.raises(SystemExit) as stop:
            main(f"{asked} --name {name} --base-folder in_{name} --out {name} {more}".split())
        assert stop.value.code in (0, 1, 3), capsys.readouterr().err
        (path,) = Path(f"in_{name}").rglob("record.json")
        drawn = read_json(path)["stages"]["generate"]
        assert (drawn["num_inference_steps"], drawn["guidance_scale"]) == (steps, 1.5)
