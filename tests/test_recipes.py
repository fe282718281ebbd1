"What CONTRIBUTING.md says a newcomer has to write is enough."
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
METHOD = """
import sys, torch
import vision_unlearning.unlearners.diffusion as wing
wing.__path__.append(sys.argv[1])
from vision_unlearning.data.splits import make_split
from vision_unlearning.models import tiny_pipeline
from vision_unlearning.unlearners.base import get_method, load_edit
from vision_unlearning.unlearners.methods import METHODS
from vision_unlearning.unlearners.methods import known_methods, method_color, method_label
method = get_method("suppress")
assert (method_label("suppress"), method_color("suppress")) == ("suppression", "#3B6E22")
order = list(known_methods())
assert order.index("munba") < order.index("suppress") < order.index("lora_negation")
try: method(learning_rat=1.)
except ValueError as error: assert "did you mean 'learning_rate'" in str(error)
else: raise AssertionError("a wrong name was taken")
forget, retain = make_split("emoji", "fox", per_entity=1)
inputs = torch.ones(1, 4, 8, 8), torch.tensor([500])
for family in ("sd1", "sd2"):
    pipe = tiny_pipeline(family=family)
    text = pipe.encode_prompt(["An image of fox"], "cpu", 1, False)[0]
    predict = torch.no_grad()(lambda p: p.unet(*inputs, text).sample)
    before = predict(pipe)
    edit = method(learning_rate=1e-3).unlearn(pipe, forget, retain)
    assert torch.equal(predict(pipe), before)
    edit.save_pretrained(f"{sys.argv[1]}/{family}")
    fresh, loaded = tiny_pipeline(family=family), load_edit(f"{sys.argv[1]}/{family}")
    with edit.on(pipe), loaded.on(fresh):
        assert torch.equal(predict(pipe), predict(fresh)) and not torch.equal(predict(pipe), before)
"""
KIND = """
import sys, torch
import vision_unlearning.unlearners as porch
porch.__path__.append(sys.argv[1])
from vision_unlearning.models import tiny_unet
from vision_unlearning.unlearners.base import edit_kinds, load_edit
edit = edit_kinds()["offset"]({"offset": torch.tensor(2.)}, {"method": "recipe"})
unet = tiny_unet()
predict = torch.no_grad()(lambda: unet(torch.ones(1, 4, 8, 8), 500, torch.ones(1, 7, 32)).sample)
before = predict()
edit.save_pretrained(f"{sys.argv[1]}/edit")
with load_edit(f"{sys.argv[1]}/edit").on(unet, scale=.5):
    assert torch.allclose(predict(), before + 1, atol=1e-5)
assert torch.equal(predict(), before)
"""
WORLD = """
import sys, numpy as np, torch
sys.path.insert(0, sys.argv[1])
from PIL import Image
from vision_unlearning.interference.pair import plot_receivers, score_session
from vision_unlearning.interference.tables import read_pair
from vision_unlearning.store import Session, Store, atomic_path, image_name, write_json
store, session, names = Store(sys.argv[1]), Session("emoji", "fox", 0, "uce"), ["fox", "key", "bell"]
write_json(store.metadata("emoji"), [{"name": n, "index": i} for i, n in enumerate(names)])
off, on = (store.baseline("emoji"), "off", (90, 90, 90)), (store.generated(session), "on", (20, 90, 80))
for folder, state, greys in (off, on):
    for name, grey in zip(names, greys):
        with atomic_path(folder/image_name(state, 42, f"An image of {name}")) as path:
            Image.new("RGB", (16, 16), (grey,)*3).save(path)
"""
METRIC = WORLD + """
from recipe import MeanError
metric = MeanError(batch_size=2)
images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
metric.update(images, images)
assert metric.per_item().tolist() == [metric.unchanged]*3
assert metric.plot().get_ylabel() == "mean error (grey levels) (lower is better)"
table = score_session(store, session, [42], [MeanError(), "rmse"]).pivot(
    index="receiver", columns="metric", values="value")
assert table["mean_error"].loc[names].tolist() == table["rmse"].loc[names].tolist() == [70, 0, 10]
"""
PAIR_METRIC = WORLD + """
from vision_unlearning.interference.pair import choose_metrics
assert "brightness_diff" not in [m.name for m in choose_metrics("emoji")]
table = score_session(store, session, [42], ["recipe:BRIGHTNESS", "rmse"])
assert "brightness_diff" in [m.name for m in choose_metrics("emoji")]
values = table[table.metric == "brightness_diff"].set_index("receiver")
assert values["value"].to_dict() == {"fox": -70, "key": 0, "bell": -10} and values["off"].tolist() == [90]*3
assert store.features("emoji", "brightness").is_file()
ax = plot_receivers(table, "brightness_diff", emitter="fox", top=1)
assert ax.get_ylabel() == "brightness change ↑" and ax.texts[0].get_text() == "fox"
from vision_unlearning.interference.entity import InterferencePerEntity
from vision_unlearning.interference.names import metric_label
fox = InterferencePerEntity(task="emoji", base_folder=sys.argv[1]).compute()[0]
assert fox["metric_uce_0_emitter_worst_interfered_brightness_diff (↑)"] == -70
assert fox["metric_uce_0_emitter_number_of_interfered_worse_than_zero_brightness_diff (↓)"] == 2
assert metric_label("emitter_average_brightness_diff") == "mean brightness change, caused ↑"
from vision_unlearning.results.matrix import ResultTemplateInterferenceMatrix
ask = ResultTemplateInterferenceMatrix(
    task="emoji", unlearning_algorithm="uce", interference_pair="brightness_diff", base_folder=sys.argv[1])
drawn = ask.plot(ask.compute())
assert "brightness change ↑" in [a.get_ylabel() for a in drawn.figure.axes]
"""


TESTBED = """
import sys
import vision_unlearning.data as band
band.__path__.append(sys.argv[1])
from vision_unlearning.explore.similarity import similarity_matrix
from vision_unlearning.running.testbeds import find_testbeds, prepare_task
from vision_unlearning.store import Store
from vision_unlearning.tasks import find_tasks, get_prompt, overwrite_concept
assert "cars" in find_testbeds() and "cars" in find_tasks()
store = Store(f"{sys.argv[1]}/assets")
table = prepare_task(store, "cars", scale="smoke", progress=False)
assert len(table) == 8 and table == prepare_task(store, "cars", scale="smoke", progress=False)
assert get_prompt("cars", table[0]["name"]).startswith("An image of a")
assert get_prompt("cars", overwrite_concept("cars")) == "An image of a bicycle"
assert similarity_matrix(store, "cars", "attr")[0].shape == (8, 8)
assert len(list(store.pictures("cars").rglob("*.jpg"))) == 8*3
"""
SIMILARITY = """
import sys
import vision_unlearning.explore as band
band.__path__.append(sys.argv[1])
from vision_unlearning.benchmarks import GUI_TO_BACKEND
from vision_unlearning.data.emoji import prepare_emoji
from vision_unlearning.explore.similarity import similarity_label, similarity_matrix
from vision_unlearning.results.base import read_similarity
from vision_unlearning.store import Store
store = Store(f"{sys.argv[1]}/assets")
prepare_emoji(store)
matrix, names = similarity_matrix(store, "emoji", "length")
assert matrix[names.index("fox"), names.index("red apple")] == -6
assert (read_similarity(store, "emoji", "length") == matrix).all()
assert similarity_label("length") == "similarity of lengths"
assert "length" in GUI_TO_BACKEND["similarity_metric"].values()
"""
TEMPLATE = """
import sys
import vision_unlearning.results as band
band.__path__.append(sys.argv[1])
from vision_unlearning.benchmarks import ResultTemplateMeanHarm, rt_name_to_class, rt_name_to_params
from vision_unlearning.results.base import simulate_store
from vision_unlearning.store import Store
assert rt_name_to_class["MeanHarm"] is ResultTemplateMeanHarm and "task" in rt_name_to_params["MeanHarm"]
store = simulate_store(Store(f"{sys.argv[1]}/assets"), effects={"uce": 0.})
ask = dict(task="emoji", unlearning_algorithm="uce", interference_pair="clip_diff", base_folder=store.base)
answer = ResultTemplateMeanHarm(**ask).compute()
assert answer["metadata"]["template"] == "MeanHarm" and len(answer["result"]) == 100
assert ResultTemplateMeanHarm(**ask).compute() == answer
assert len(ResultTemplateMeanHarm.plot(answer).patches) == 100
assert ResultTemplateMeanHarm.headline(answer)["effect"] == answer["result"]["fox"]
from vision_unlearning.running.questions import questions
ask.pop("base_folder")
assert questions(store, "emoji")[-1] == ("MeanHarm", ask)
"""


def recipe(title: str) -> str:
    "The Python of a section of CONTRIBUTING.md."
    section = (ROOT/"CONTRIBUTING.md").read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    return re.search(r"```python\n(.*?)```", section, flags=re.DOTALL)[1]


RECIPES = {
    "Add an unlearner": METHOD,
    "Add a kind of edit": KIND,
    "Add a metric": METRIC,
    "Add a pair metric": PAIR_METRIC,
    "Add a testbed": TESTBED,
    "Add a similarity": SIMILARITY,
    "Add a result template": TEMPLATE,
}


# What a script loads is this one's, whatever the others have loaded; only what is not ours, and the models of
# band 0, are imported once for all.
FORKS = """
import json, os, sys, traceback
import datasets, matplotlib.pyplot, pandas, peft, scipy.stats, seaborn, torch, torchmetrics
from vision_unlearning.models import tiny_pipeline
torch.set_num_threads(1)
tiny_pipeline()
for title, script, folder in json.load(sys.stdin):
    child = os.fork()
    if child:
        if os.waitpid(child, 0)[1]: print(title, flush=True)
        continue
    sys.argv[1:] = [folder]
    try: exec(script, {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
"""


@pytest.mark.long(20)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="each recipe runs in a fork")
def test_the_recipes_of_the_page_are_enough(tmp_path):
    asked = []
    for number, (title, script) in enumerate(RECIPES.items()):
        folder = tmp_path/str(number)
        folder.mkdir()
        (folder/"recipe.py").write_text(recipe(title))
        asked.append((title, script, str(folder)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", FORKS], input=json.dumps(asked), capture_output=True, text=True,
        env=environment, check=False,
    )
    assert not done.stdout and not done.returncode, f"not enough: {done.stdout}{done.stderr[-3000:]}"
