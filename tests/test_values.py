"""Every parameter of every stage is refused where its value means nothing, before a kernel starts."""
import subprocess
import sys

import pytest

from vision_unlearning.running import values
from vision_unlearning.running.cli import main
from vision_unlearning.running.stages import PIPELINES, check_parameters, pipeline_parameters

# wrong value -> what is said; for each name that a notebook may have
WRONG = {
    "seeds": {(): "is empty", (42, 42): "given twice"},
    "attention_seeds": {(1, 1): "given twice"},
    "num_inference_steps": {-1: "at least 1", -5: "at least 1"},
    "guidance_scale": {float("nan"): "finite", float("inf"): "finite", -2.: "at least 0"},
    "height": {-8: "multiple of 8", 100: "multiple of 8"},
    "width": {4: "multiple of 8"},
    "scheduler": {"EulerScheduler": "unknown scheduler", "nope": "unknown scheduler"},
    "batch_size": {0: "at least 1", "many": "at least 1"},
    "n_permutations": {-5: "at least 1"},
    "max_figures": {-1: "at least 0"},
    "size": {-1: "at least 1"},
    "entities": {("fox", "fox"): "given twice"},
    "forget": {("3", "3"): "given twice"},
    "kinds": {("class", "class"): "given twice"},
    "evidence": {("layers", "layers"): "given twice"},
    "num_models": {1: "at least 2"},
    "methods": {("uce", "uce"): "given twice"},
    "metrics": {
        ("nope",): "unknown pair metric",
        ("rmse", "rmse"): "given twice",
        ("rmse",): "need judge_diff or clip_diff",
    },
    "pair_metrics": {("nope",): "unknown pair metric"},
    "templates": {("Nope",): "unknown result template", ("SimilarityMatrix",): "asked anyway"},
    "similarities": {("nope",): "unknown similarity"},
    "entity_metric": {"nope": "unknown entity metric"},
    "clip": {"nope": "unknown CLIP", "emoji-sd": "unknown CLIP", "/nope": "no such folder"},
    "judge": {"nope": "unknown judge"},
    "encoder": {"nope": "unknown image encoder"},
    "model": {"nope": "unknown pipeline", "emoji-clip": "unknown pipeline"},
    "revision": {"main": "emoji-sd is none"},
    "device": {"nope": "cannot be used"},
    "dtype": {"nope": "unknown dtype"},
    "variant": {"fp16": "emoji-sd is none"},
    "offload": {"nope": "unknown offload"},
    "compiled": {True: "compiled is for CUDA"},
    "track": {"nope": "unknown tracker"},
    "method": {"ucee": "did you mean 'uce'"},
    "sources": {(): "leave sources out"},
    "scale": {"smoke": "leave scale out"},
    "legacy": {True: "leave legacy out"},
    "retain": {"half": "a share and a seed", "half-a,half-a": "given twice", "": "one at least"},
}
# anything of their type, or checked where sessions and runs are planned
FREE = {"task", "overrides", "base_folder", "notes", "title", "embed", "attention_slicing"}
BENCHMARKS = {
    "classifiers": {"architecture", "options", "training", "folder", "methods"},
    "canvas": {"styles", "objects", "pictures", "style_classifier", "object_classifier", "fid"},
}


def typed(value, kind):
    "A hashable wrong value as its parameter has it."
    if kind == "dict": return {"images": "x"}
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("stage", PIPELINES)
def test_every_parameter_of_a_stage_refuses_what_means_nothing(stage, tmp_path):
    for name, parameter in pipeline_parameters(stage).items():
        free = FREE | BENCHMARKS.get(stage, set())
        if name in free: continue
        assert name in WRONG, f"say in this file what {name} of {stage} refuses, or that it is free"
        for value, said in WRONG[name].items():
            asked = {name: typed(value, parameter.type), "base_folder": str(tmp_path)}
            with pytest.raises((ValueError, OSError), match=said) as found: check_parameters(stage, asked)
            assert "\n" not in str(found.value)


def test_what_would_change_nothing_is_refused():
    with pytest.raises(ValueError, match="neither is asked"):
        check_parameters("interference", {"encoder": "emoji-clip", "embed": False})
    asked = {"encoder": "emoji-clip", "embed": False, "metrics": ["dino_diff", "clip_diff"]}
    check_parameters("interference", asked)
    with pytest.raises(ValueError, match="munba trains"):
        check_parameters("unlearn", {"method": "munba", "dtype": "float16"})
    with pytest.raises(ValueError, match="no sources of their own"):
        check_parameters("prepare", {"task": "people", "scale": "smoke", "legacy": True})


def test_names_on_the_hub_and_folders_pass(tmp_path):
    for name in ("openai/clip-vit-base-patch16", str(tmp_path)): values.check_network("CLIP", name, ["tiny"])


@pytest.mark.parametrize("words", [
    "batch --entities nope",
    "batch --task people --entities nope",
    "batch --entities fox -p metrics=nope",
    "batch --entities fox -p clip=nope",
    "batch --entities fox -p n_permutations=-5",
    "batch --entities fox -p seeds=[]",
    "batch --methods uce,uce",
    "batch --methods uce,munba -p dtype=float16",
    "batch --methods uce,munba --dtype float16",
    "batch --device nope",
    "batch --device cpu -p device=cpu",
    "run generate --batch-size many",
    "run generate --offload layers",
    "run prepare --offload model",
    "batch -q --task digits --offload model",
    "run unlearn -p entities=nope",
    "run explore -p clip=nope",
    "report --entities nope",
    "batch -q --task digits -p forget=nope",
    "batch -q --task digits -p folder=/nope",
    "batch -q --task digits -p architecture=nope",
    "batch -q --task digits -p training={\"num_epochs\":0}",
])
def test_nothing_is_written_for_a_wrong_value(words, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop: main([*words.split(), "--base-folder", str(tmp_path)])
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1) and err.startswith("error: ")
    assert "not foreseen" not in err and not list(tmp_path.iterdir())


def test_another_judge_scores_again(tmp_path):
    "And another encoder; what an older record does not say was the task's own."
    from types import SimpleNamespace
    from unittest import mock

    import pandas as pd

    from vision_unlearning.running.session import score_images
    from vision_unlearning.store import Session, Store, read_record, write_json
    store, session, scored = Store(tmp_path), Session("emoji", "fox", 0, "uce"), []
    write_json(
        store.record(session),
        dict(
            key=session.key,
            status="unlearned",
            session=vars(session),
            stages={
                "unlearn": dict(seconds=0.0, peak_memory=0, edit_bytes=0, generator_seed=0),
                "generate": dict(seeds=[42]),
            },
        ),
    )
    def score(*args, **given):
        scored.append((given["judge"].name, getattr(given["encoder"], "name", "")))
        store.scores(session).touch()
        return pd.DataFrame({"metric": ["judge_diff"], "off": [1.]})
    one, other = SimpleNamespace(name="emoji-judge"), SimpleNamespace(name="mine")
    how = dict(clip=SimpleNamespace(name="emoji-clip"))
    with (
        mock.patch("vision_unlearning.interference.pair.score_session", score),
        mock.patch("vision_unlearning.running.session.read_scores"),
    ):
        for judge in (one, one, other, other): score_images(store, session, [42], judge=judge, **how)
        assert [name for name, _ in scored] == ["emoji-judge", "mine"]
        record = read_record(store.record(session))
        del record["stages"]["interference"]["judge"]  # as older versions wrote it
        write_json(store.record(session), record)
        score_images(store, session, [42], judge=one, **how)
        assert len(scored) == 2
        for encoder in (None, other, other):
            score_images(store, session, [42], judge=one, metrics=["dino_diff"], encoder=encoder, **how)
        assert [name for _, name in scored[2:]] == ["", "mine"]


def test_an_empty_batch_does_not_wait_for_diffusers():
    "Parameters are looked at without an import of what draws."
    command = """
import sys
from vision_unlearning.running.stages import PIPELINES, check_parameters
for stage in PIPELINES: check_parameters(stage, {})
print(*({"diffusers", "transformers", "peft"} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert not ran.stdout.strip(), ran.stdout
