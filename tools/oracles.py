"""Trains the oracles of text-to-image unlearning: emoji-sd as it would be, had it never seen some emoji.

    python tools/oracles.py

Which oracles there are, and what each never sees, is said in nbs/0_models/02_embedded.
The schedule is that on emoji-sd's card: a text tower, then three runs of the UNet, the last of both together.
The autoencoder is the package's, which has seen all drawings: it is a codec, and knows no names.
Everything lies in build/oracles; a run that was killed goes on from its last checkpoint.
What the next run needs of a finished one is put into nbs/training/oracles, to be committed until the oracle
is whole: a fresh clone goes on after it.
A whole oracle is put among the embedded models, all but its card."""
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from vision_unlearning.models.embedded import ORACLES, embedded_folder
from vision_unlearning.store import write_json

ROOT = Path(__file__).resolve().parents[1]
FOLDER, TRAINING = ROOT/"build"/"oracles", ROOT/"nbs"/"training"
KEPT = TRAINING/"oracles"  # in the layout of `FOLDER`


@dataclass(frozen=True)
class Run:
    "One notebook of nbs/training with its parameters."
    name: str  # of its folder
    notebook: str
    needed: str  # folder of what the next run reads
    parameters: dict

    @property
    def done(self) -> str:  # in its folder
        "What is there when it is complete."
        return f"{self.needed.partition('/')[0]}/README.md"


def runs(folder: Path) -> list[Run]:
    "The schedule of emoji-sd, one run from the last."
    clip, sd = "03_emoji_clip.ipynb", "04_emoji_sd.ipynb"
    tower = dict(clip=str(folder/"tower"/"model"))
    after = lambda name: tower | dict(start=str(folder/name/"emoji-sd"/"unet"))
    shares = {"emoji": .27, "emoji_people": .18, "emoji_canvas": .55}
    last = dict(num_steps=1800, learning_rate=6e-4, train_tower=True, shares=shares)
    return [
        Run("tower", clip, "model", dict(role="tower", num_steps=700)),
        Run("run1", sd, "emoji-sd/unet", tower | dict(num_steps=3700)),
        Run("run2", sd, "emoji-sd/unet", after("run1") | dict(num_steps=2600, learning_rate=7e-4)),
        Run("run3", sd, "emoji-sd/unet", after("run2") | last),
    ]


def keep(name: str, run: Run):
    "Put what the next run needs beside the notebooks, in halves."
    from safetensors.torch import load_file, save_file
    made, kept = FOLDER/name/run.name, KEPT/name/run.name
    shutil.copytree(made/run.needed, kept/run.needed, dirs_exist_ok=True)
    for path in kept.rglob("*.safetensors"):
        halves = {key: value.half() if value.is_floating_point() else value
                  for key, value in load_file(path).items()}
        save_file(halves, path, metadata={"format": "pt"})
    shutil.copy(made/run.done, kept/run.done)  # last: it says that the rest is there


def train_oracle(name: str):
    "Run what is not complete yet."
    import papermill
    folder, without = FOLDER/name, list(ORACLES[name])
    for run in runs(folder):
        out = folder/run.name
        if not (out/run.done).exists() and (KEPT/name/run.name/run.done).exists():
            shutil.copytree(KEPT/name/run.name, out, dirs_exist_ok=True)
        if (out/run.done).exists(): continue
        out.mkdir(parents=True, exist_ok=True)
        parameters = run.parameters | dict(out=str(out), without=without)
        print(name, run.name, flush=True)
        papermill.execute_notebook(TRAINING/run.notebook, out/"run.ipynb", parameters, progress_bar=False)
        keep(name, run)
    ship(name, folder/"run3"/"emoji-sd")


def ship(name: str, made: Path):
    "Put a whole oracle among the embedded models."
    folder = embedded_folder(name)
    shutil.copytree(made, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("README.md"))
    for path in folder.rglob("*.json"):
        said = json.loads(path.read_text(encoding="utf-8"))
        if "_name_or_path" in said: write_json(path, {k: v for k, v in said.items() if k != "_name_or_path"})


if __name__ == "__main__":
    for name in ORACLES:
        if not (embedded_folder(name)/"model_index.json").exists(): train_oracle(name)
