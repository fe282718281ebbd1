"What CONTRIBUTING.md says a newcomer has to write is enough."
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
from vision_unlearning.unlearners.base import METHODS, get_method, load_edit
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
print("found, trained, saved")
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
print("found, saved")
"""


def recipe(title: str) -> str:
    "The Python of a section of CONTRIBUTING.md."
    section = (ROOT/"CONTRIBUTING.md").read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    return re.search(r"```python\n(.*?)```", section, flags=re.DOTALL)[1]


@pytest.mark.parametrize(
    ("title", "script"), [("Add an unlearner", METHOD), ("Add a kind of edit", KIND)], ids=["method", "kind"]
)
def test_the_recipe_of_the_page_is_enough(title, script, tmp_path):
    (tmp_path/"recipe.py").write_text(recipe(title))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
