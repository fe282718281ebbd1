"""The embedded transformer: what it shares, its small files, and that everything takes it by name."""
import pytest
import torch
from shell import refused, vu

from vision_unlearning.core import initial_latents
from vision_unlearning.data.emoji import emoji_entities
from vision_unlearning.interference.generate import generate_array
from vision_unlearning.metrics.classification import JudgeAccuracy
from vision_unlearning.models import embedded_path, load_pipeline
from vision_unlearning.models.mmdit import read_towers, shared_towers
from vision_unlearning.models.sampling import latent_shape, sample
from vision_unlearning.running.session import plan_sessions
from vision_unlearning.store import Store
from vision_unlearning.tasks import get_prompt
from vision_unlearning.unlearners.tuned import held_out_record, tuned_settings

PROMPT, MEGABYTE = "An image of fox", 2**20


@pytest.fixture(scope="module")
def pipe(): return load_pipeline("emoji-mmdit")


def test_its_files_are_small_and_nothing_is_there_twice():
    folder = embedded_path("emoji-mmdit")
    sizes = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    assert max(sizes.values()) < 16*MEGABYTE and sum(sizes.values()) < 25*MEGABYTE
    assert {name.partition("/")[0] for name in sizes if name.endswith(".safetensors")} == {"transformer"}


def test_towers_are_those_of_its_neighbours(pipe):
    plain = load_pipeline("emoji-sd")
    for mine, theirs in ((pipe.vae, plain.vae), (pipe.text_encoder.text_model, plain.text_encoder)):
        found = mine.state_dict()
        for name, tensor in theirs.state_dict().items(): assert torch.equal(found[name], tensor)
    assert not shared_towers(embedded_path("emoji-sd"))
    assert read_towers(torch.float16)["vae"].dtype == torch.float16


def test_the_call_that_draws_is_the_pipelines_own(pipe):
    noise = initial_latents([42], [PROMPT], latent_shape(pipe))
    how = dict(prompt=[PROMPT], num_inference_steps=2, guidance_scale=3., output_type="pt")
    ours = sample(pipe, [42], [PROMPT], **how).images
    assert torch.equal(ours, pipe(latents=noise, max_sequence_length=1, **how).images)
    assert not torch.equal(ours, pipe(latents=noise, **how).images)  # 256 zeros, as plain diffusers has it


def test_saved_as_a_whole_it_draws_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path/"whole")
    how = dict(prompt=[PROMPT], num_inference_steps=2, output_type="pt")
    again = load_pipeline(tmp_path/"whole")
    pictures = [sample(p, [42], [PROMPT], **how).images for p in (pipe, again)]
    assert torch.equal(*pictures)


@pytest.mark.long(5)
def test_it_draws_what_it_is_asked_for(pipe):
    "The card says 99 of 100; of twenty in few steps the judge must name nearly all."
    entities = emoji_entities("emoji")
    asked = [e["name"] for e in entities][::5]
    prompts = [get_prompt("emoji", name) for name in asked]
    pictures = generate_array(pipe, [42]*len(asked), prompts, num_inference_steps=8)
    judge = JudgeAccuracy("emoji", entities)
    judge.update(torch.from_numpy(pictures).permute(0, 3, 1, 2), asked)
    assert int(judge.per_item().sum()) >= 18


def test_settings_of_the_unet_are_not_borrowed(tmp_path):
    planned = plan_sessions(Store(tmp_path), "emoji", "esd", ["fox"], "emoji-mmdit")[0].settings
    assert all(planned[n] == v for n, v in tuned_settings("emoji", "esd", "emoji-mmdit").items())
    assert tuned_settings("emoji", "esd", "emoji-mmdit") != tuned_settings("emoji", "esd")


@pytest.mark.parametrize("method", ["uce", "spm", "esd", "distil"])
def test_twenty_emitters_are_forgotten_on_it_and_the_others_kept(method):
    record = held_out_record("emoji", method, "emoji-mmdit")
    rows = record["rows"]
    named = sum(row["same_after"] + row["other_after"] for row in rows)
    before = sum(row["same_before"] + row["other_before"] for row in rows)
    assert (record["model"], len(rows), sum(row["after"] for row in rows)) == ("emoji-mmdit", 20, 0)
    assert named/before >= .95


@pytest.mark.long(40)
def test_batch_takes_it_by_name(tmp_path, capsys):
    "From prepare to report, with the command that everybody else's model takes."
    few = "-p seeds=42 -p num_inference_steps=2 -p metrics=rmse,clip_diff --quiet"
    ask = "--task emoji_canvas --model emoji-mmdit --methods uce --entities cat"
    vu(f"batch {ask} {few} --base-folder {tmp_path}", capsys)
    assert "emoji-mmdit" in vu(f"status --base-folder {tmp_path}", capsys)
    vu(f"report --task emoji_canvas --model emoji-mmdit --quick --quiet --base-folder {tmp_path}", capsys)
    other = ask.replace("mmdit", "sd")
    assert "was made with other settings" in refused(f"batch {other} {few} --base-folder {tmp_path}", capsys)
