"""The rules of the house that a machine can check: CONTRIBUTING.md says why they are there."""
import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from sources import sources

from vision_unlearning.finding import find_classes

root = Path(__file__).resolve().parents[1]
package, nbs = root / "vision_unlearning", root / "nbs"
config = ConfigParser(delimiters=["="])
config.read(root / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]


class Notebook:
    "What the rules below ask of a notebook."
    def __init__(self, path):
        self.path, self.name = path, path.relative_to(nbs).as_posix()
        self.cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for c in self.cells: c["source"] = "".join(c["source"])
        self.code = [c["source"] for c in self.cells if c["cell_type"] == "code"]
        self.words = sum(len(c["source"].split()) for c in self.cells if c["cell_type"] == "markdown")
        self.characters = sum(map(len, self.code))
        self.exports = [c for c in self.code if re.search(r"^#\|\s*export", c, re.M)]
        self.hidden = sum(bool(re.search(r"^#\|\s*hide\b", c, re.M)) for c in self.code)
        self.module = next(
            (m[1] for c in self.code for m in [re.search(r"^#\|\s*default_exp\s+(\S+)", c, re.M)] if m), None
        )
        self.band = self.name.split("/")[0] if re.match(r"\d[a-z]?_[a-z]+/", self.name) else None
        self.parameters = [c for c in self.cells if "parameters" in c.get("metadata", {}).get("tags", [])]


notebooks = [Notebook(p) for p in sources(nbs)]
of_folder = lambda folder: [nb for nb in notebooks if nb.path.parent.name == folder]
modules = {
    p.relative_to(package).with_suffix("").as_posix().replace("/", "."): p
    for p in sorted(package.rglob("*.py"))
}


def project_files():
    """Tracked files and those that git would take; a source archive has no git, and then nothing to leak into
    it."""
    try:
        out = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError): pytest.skip("not a git checkout")
    return [
        p for name in out.stdout.split("\0") if name and (p := root / name).is_file() and not p.is_symlink()
    ]


# Export and clean

def executed_notebook():
    "What a run leaves in its store: a notebook that nbdev_export and nbdev_clean would both change."
    notebook = json.loads((nbs / "pipelines" / "1_prepare.ipynb").read_text(encoding="utf-8"))
    notebook["metadata"]["papermill"] = {"duration": 1.5}
    notebook["cells"].append(dict(notebook["cells"][-1], source="#| default_exp stray\n#| export\nx = 1"))
    return json.dumps(notebook)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    "A copy of the project, with a run beside a tutorial, after an export from nothing and a cleaning."
    copy = tmp_path_factory.mktemp("copy")
    for name in ["settings.ini", "pyproject.toml", "setup.py"]: shutil.copy(root / name, copy)
    shutil.copytree(nbs, copy / "nbs", symlinks=True, ignore=shutil.ignore_patterns(".*", "assets"))
    run = copy / "nbs" / "tutorials" / "assets" / "a_run" / "notebooks" / "1_prepare_emoji.ipynb"
    run.parent.mkdir(parents=True)
    run.write_text(executed_notebook(), encoding="utf-8")
    shutil.copytree(package, copy / package.name, ignore=shutil.ignore_patterns("embedded", "__pycache__"))
    for p in (copy / package.name).rglob("*.py"):
        if p.name != "__init__.py": p.unlink()
    # nbdev does nothing while it believes that it runs inside a test.
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    for command in ["export", "clean"]:
        do = [sys.executable, root / "tools" / "sources.py", command]
        done = subprocess.run(do, cwd=copy, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return copy


def differences(a, b, files):
    "Relative paths of files that are not the same in two folders."
    same = lambda f: (a / f).exists() and (b / f).exists() and (a / f).read_bytes() == (b / f).read_bytes()
    return sorted(str(f) for f in set(files) if not same(f))


def python_files(folder):
    return [p.relative_to(folder) for p in folder.rglob("*.py") if "embedded" not in p.parts]


def test_export_changes_nothing(exported):
    made = exported / package.name
    changed = differences(package, made, python_files(package) + python_files(made))
    assert not changed, (
        f"not what the notebooks say (make prepare, or a module without a notebook): {changed}"
    )
    assert (root / "pyproject.toml").read_text() == (exported / "pyproject.toml").read_text()


def test_clean_changes_nothing(exported):
    "Nor the tag of the cell of parameters, which nbdev takes away unless it is told not to."
    changed = differences(nbs, exported / "nbs", [nb.name for nb in notebooks])
    assert not changed, f"not clean (make prepare): {changed}"


def test_runs_beside_notebooks_are_passed_over(exported):
    "A run is no page and no test, makes no module, and is not ours to clean."
    (run,) = (exported / "nbs").rglob("1_prepare_emoji.ipynb")
    found = [p.relative_to(exported / "nbs").as_posix() for p in sources(exported / "nbs")]
    assert found == [nb.name for nb in notebooks]
    assert run.read_text(encoding="utf-8") == executed_notebook()
    assert not list(exported.rglob("stray.py"))


# Notebooks

RULES = []  # each asserts something of one notebook


def rule(check):
    "One of `RULES`."
    RULES.append(check)
    return check


@rule
def budget(nb):
    long = [f"{c.splitlines()[-1]!r}: {len(c)} characters" for c in nb.code if len(c) > 4000]
    assert not long, f"a cell holds one symbol, in at most 4,000 characters: {long}"
    assert nb.characters <= 28000, f"{nb.characters} characters of code: two ideas, two notebooks"
    assert not nb.exports or nb.words*60 >= nb.characters, (
        f"{nb.words} words of prose for {nb.characters} characters of code (a word for 60)"
    )
    assert len(nb.code) <= 6 or nb.hidden < 0.15 * len(nb.code), (
        f"{nb.hidden} of {len(nb.code)} code cells are hidden"
    )
    assert nb.path.stat().st_size <= 2**20, f"{nb.path.stat().st_size / 2**20:.1f} MB"


@rule
def lines_fit(nb):
    "One statement a line is ruff's to check (E702), and so are the lines of code; prose is ours."
    lines = [line for c in nb.cells for line in c["source"].splitlines()]
    # An address cannot be broken: `[colab]: https://...`, alone in its line, may be longer.
    wide = [line for line in lines if len(line) > 110 and not re.fullmatch(r"\[\w+\]: https://\S+", line)]
    assert not wide, f"{len(wide)} lines over 110 characters, the first: {wide[0]}"


@rule
def title_and_promise_stand_alone(nb):
    "nbdev makes the head of a page out of the title cell and drops whatever else stands in it."
    lines = nb.cells[0]["source"].splitlines()
    assert nb.cells[0]["cell_type"] == "markdown" and len(lines) == 3, "`# Title` and `> promise` alone"
    assert lines[0].startswith("# ") and not lines[1] and lines[2].startswith("> "), lines
    docstring = f'"""{lines[2][2:]}"""'
    assert len(docstring) <= 110, f"the promise becomes the docstring: {len(docstring)} characters"


@rule
def every_described_picture_is_there(nb):
    "A figure that cannot be drawn leaves its text and an error that nobody reads."
    if nb.path.parent.name in ("pipelines", "training"): return
    blind = [c["source"].splitlines()[-1] for c in nb.cells
             if re.search(r"^#\|\s*fig-alt:", c["source"], re.M)
             and not any(m.startswith("image/") for o in c["outputs"] for m in o.get("data", {}))]
    assert not blind, f"no picture came of: {blind}"


@rule
def every_picture_is_described(nb):
    "For those who cannot see it: `#| fig-alt: \"...\"` in the cell that draws, text in brackets in markdown."
    silent = [c["source"].splitlines()[-1] for c in nb.cells
              if any(mime.startswith("image/") for o in c.get("outputs", []) for mime in o.get("data", {}))
              and not re.search(r'^#\|\s*fig-alt:\s*".{12,}"$', c["source"], re.M)]
    silent += [link for c in nb.cells if c["cell_type"] == "markdown"
               for link in re.findall(r"!\[\]\([^)]*\)", c["source"])]
    assert not silent, f"no description of what is seen: {silent}"


def shown(source: str) -> bool:
    "Whether a cell has something to show for certain: it draws, or ends in an expression that is no call."
    if re.search(r"^#\|\s*(export|hide|default_exp|slow|notest|eval: false)", source, re.M): return False
    if re.search(r"^#\|\s*fig-alt:", source, re.M): return True
    try: last = ast.parse(source).body[-1:]
    except SyntaxError: return False  # a command of the shell
    calls = (ast.Call, ast.Constant)  # which may give None
    is_value = bool(last) and isinstance(last[0], ast.Expr) and not isinstance(last[0].value, calls)
    return is_value and not source.rstrip().endswith(";")


@rule
def lessons_show_what_they_end_in(nb):
    "A page whose values are missing promises and does not show."
    if nb.path.parent.name in ("pipelines", "training"): return
    silent = [c["source"].splitlines()[-1] for c in nb.cells
              if c["cell_type"] == "code" and not c["outputs"] and shown(c["source"])]
    assert not silent, f"make outputs NB=nbs/{nb.name}: {silent}"


@rule
def pages_keep_results_only(nb):
    "What libraries mutter while a cell runs is none, and a warning has a path of the machine it came from."
    loud = [c["source"].splitlines()[-1] for c in nb.cells
            if any(o.get("name") == "stderr" for o in c.get("outputs", []))]
    assert not loud, f"make outputs NB=nbs/{nb.name}: {loud}"


@pytest.mark.parametrize("nb", of_folder("tutorials"), ids=lambda nb: nb.name)
def test_imports_of_tutorials_are_visible(nb):
    imports = [c for c in nb.code if re.search(r"^(import|from) ", c, re.M)]
    hidden = [c for c in imports if re.search(r"^#\|\s*hide\b", c, re.M)]
    assert not hidden, f"an example is pasted with its imports: {hidden}"


@rule
def cell_ids_are_unique(nb):
    ids = [c.get("id") for c in nb.cells]
    assert None not in ids and len(set(ids)) == len(ids), "exported modules name their cells by id"


@rule
def import_cells_contain_imports_only(nb):
    """nbdev runs every cell with an import on its own, in a fresh namespace, to make the docs of a notebook
    that exports."""
    mixed = []
    for c in nb.code if nb.exports else []:
        try: body = ast.parse(c).body
        except SyntaxError: continue  # a magic: nbdev leaves it alone too
        if re.search(r"^#\|\s*(export|eval:\s*false)", c, re.M | re.I): continue
        is_import = lambda node: isinstance(node, (ast.Import, ast.ImportFrom))
        if any(is_import(n) for b in body for n in ast.walk(b)) and not all(map(is_import, body)):
            mixed.append(c[:80])
    assert not mixed, f"imports and other code in one cell: {mixed}"


@pytest.mark.parametrize("nb", notebooks, ids=lambda nb: nb.name)
def test_rules(nb):
    broken = []
    for check in RULES:
        try: check(nb)
        except AssertionError as error: broken.append(f"{check.__name__}: {str(error).splitlines()[0]}")
    if broken: pytest.fail("\n".join(broken), pytrace=False)


@pytest.mark.parametrize("nb", of_folder("pipelines"), ids=lambda nb: nb.name)
def test_pipeline(nb):
    assert len(nb.parameters) == 1, (
        f"{len(nb.parameters)} cells are tagged parameters: papermill wants exactly one"
    )
    assert not any(c.get("outputs") for c in nb.cells), "outputs belong to the session, not to the repository"
    assert not nb.exports and nb.module is None, "library code lives in the numbered notebooks"
    assert len(nb.cells) <= 25, f"{len(nb.cells)} cells"


@pytest.mark.parametrize("nb", of_folder("training"), ids=lambda nb: nb.name)
def test_training_can_be_scaled_down(nb):
    assert len(nb.parameters) == 1 and re.search(
        r'^scale\s*(:\s*\w+\s*)?=\s*"full"', nb.parameters[0]["source"], re.M
    ), 'tests shrink a training notebook through one cell tagged parameters that says scale = "full"'


def test_sidebar_lists_every_notebook():
    import sidebar
    text = sidebar.config.read_text(encoding="utf-8")
    assert sidebar.updated(text) == text, "make sidebar"
    missing = [nb.name for nb in notebooks if f"- {nb.name}\n" not in text]
    assert not missing, f"in no section of tools/sidebar.py: {missing}"


def test_readme_is_the_index():
    import readme
    index = nbs / "index.ipynb"
    if not index.exists(): pytest.skip("no nbs/index.ipynb yet")
    assert not (old := readme.stale(*readme.render(index))), f"make readme: {[p.name for p in old]}"


# Imports

def imported(path, top_level_only=False):
    "Absolute names of what a module imports; relative imports are resolved."
    tree, names = ast.parse(path.read_text(encoding="utf-8")), set()
    parts = list(path.relative_to(root).with_suffix("").parts)
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import): names |= {a.name for a in node.names}
        if isinstance(node, ast.ImportFrom):
            base = (
                ".".join(parts[: -node.level] + ([node.module] if node.module else []))
                if node.level
                else node.module
            )
            names |= {base} | {f"{base}.{a.name}" for a in node.names}
    return names


# The two wings, and unlearners and metrics: what each may not know, besides all that comes after it.
strangers = {
    "3b_classifiers": {"3a_diffusion"},
    "4_metrics": {"3_unlearners", "3a_diffusion", "3b_classifiers"},
}


def arrows():
    "(module, module that it imports) within the package, submodules of the same name left out."
    names = {f"{package.name}.{module.removesuffix('.__init__')}": path for module, path in modules.items()}
    return {(name, other) for name, path in names.items() for other in imported(path) & set(names) - {name}}


def test_imports_point_to_lower_bands():
    band = {f"{package.name}.{nb.module.removesuffix('.__init__')}": nb.band
            for nb in notebooks if nb.module and nb.band is not None}
    wrong = [f"{name} ({band[name]}) imports {other} ({band[other]})"
             for name, other in sorted(arrows()) if name in band and other in band
             if band[other] > band[name] or band[other] in strangers.get(band[name], ())]
    assert not wrong, "\n".join(wrong)


def test_modules_import_in_no_circle():
    import networkx
    circles = list(networkx.simple_cycles(networkx.DiGraph(sorted(arrows()))))
    assert not circles, circles


def defined_names(path):
    "The names in `__all__` that a module makes itself, and does not pass on."
    public, made = set(), set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): made.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        made |= {t.id for t in targets if isinstance(t, ast.Name)}
        is_list = any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets)
        if is_list and isinstance(node.value, ast.List):
            # what is starred is passed on
            public = {n.value for n in node.value.elts if isinstance(n, ast.Constant)}
    return public & made


# What every module that makes a testbed offers under one name; `running.testbeds.Testbed` says what it is.
offered_by_testbeds = {"SOURCES", "standin_sources"}


def test_no_public_name_has_two_meanings():
    where = {}
    for module, path in modules.items():
        for name in defined_names(path) - offered_by_testbeds: where.setdefault(name, []).append(module)
    twice = {name: places for name, places in where.items() if len(places) > 1}
    assert not twice, f"one name, one thing: {twice}"


def test_names_of_notebooks_have_no_letters():
    lettered = [
        nb.name for nb in notebooks if nb.path.parent != nbs and not re.match(r"\d\d?_", nb.path.name)
    ]
    assert not lettered, f"a number and a name, the band is the folder: {lettered}"


def normal(requirement): return re.split(r"[\s<>=!~\[;]", requirement)[0].lower().replace("_", "-")


def test_top_level_imports_are_requirements():
    # These come with the requirements that are named.
    brought = {"numpy", "matplotlib", "pillow", "pyarrow", "typing-extensions"}
    declared = {normal(r) for r in cfg["requirements"].split()} | brought
    distributions = importlib.metadata.packages_distributions()
    unknown = {
        f"{module}: {top}"
        for module, path in modules.items()
        for top in {n.split(".")[0] for n in imported(path, True)}
        if top not in sys.stdlib_module_names | {package.name}
        and not declared & {normal(d) for d in distributions.get(top, [top])}
    }
    assert not unknown, f"neither a requirement nor imported where it is used (an extra): {sorted(unknown)}"


def test_importing_the_package_is_light():
    heavy = ("torch diffusers transformers datasets pandas matplotlib scipy sklearn networkx seaborn "
             "pydantic").split()
    command = f"import sys, vision_unlearning as vu; dir(vu); print(*(set({heavy}) & set(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", command], cwd=root, capture_output=True, text=True, check=True
    )
    assert not out.stdout.strip(), f"`import {package.name}` imports {out.stdout}"


def test_every_name_of_the_face_is_there():
    import vision_unlearning as vu
    absent = [name for name in dir(vu) if not hasattr(vu, name)]
    assert not absent, f"vision_unlearning/__init__.pyi names what is not there: {absent}"


def test_the_face_has_every_method_and_metric():
    import face
    text = face.stub.read_text(encoding="utf-8")
    assert face.updated(text) == text, "make face"


# The repository

def test_nothing_points_at_one_machine():
    path = re.compile(r"(?<![\w.\-/:<$}~])/(?:work|root|farm|home/\w+|Users/\w+|tmp/[\w.-]+)/")
    host = re.compile(r"(?:pypi|pythonhosted|npmjs|npmmirror|download\.pytorch)\.(?:org|com)")
    found = []
    for p in project_files():
        if p.suffix in {".webp", ".png", ".jpg", ".safetensors", ".parquet"} or "licenses" in p.parts:
            continue
        text = p.read_text(encoding="utf-8", errors="ignore")
        found += [f"{p.relative_to(root)}: {m}" for m in sorted(set(path.findall(text) + host.findall(text)))]
    assert not found, "\n".join(found)


def test_every_drawing_is_credited():
    table = (root / "THIRD_PARTY.md").read_text(encoding="utf-8").splitlines()
    for index in sorted((package / "embedded" / "emoji").glob("*.json")):
        for style in json.loads(index.read_text(encoding="utf-8")).get("styles", []):
            name, version = style["package"].rsplit("@", 1)
            row = [
                x
                for x in table
                if f"`{style['style']}`" in x and f"`{name}` {version}" in x and f"| {style['license']}" in x
            ]
            assert row, f"THIRD_PARTY.md has no row for {style['style']} as {index.name} describes it"
            assert ("-SA-" in style["license"]) == index.stem.endswith("_sharealike"), (
                f"{style['style']} does not belong in {index.name}"
            )


def test_files_are_small():
    big = [
        f"{p.relative_to(root)}: {p.stat().st_size / 1e6:.0f} MB"
        for p in project_files()
        if p.stat().st_size > 20e6
    ]
    assert not big, big


def test_constraints_cover_the_requirements():
    lines = (root / "constraints.txt").read_text().splitlines()
    pinned = {normal(line) for line in lines if line.strip() and line[0] != "#"}
    wanted = {normal(r) for r in cfg["requirements"].split() + cfg["dev_requirements"].split()}
    assert not wanted - pinned, f"no tested version in constraints.txt: {sorted(wanted - pinned)}"


@pytest.mark.long(5)
def test_wheel_holds_what_runs_without_the_repository(tmp_path):
    copy = tmp_path / "copy"
    skip = shutil.ignore_patterns(
        ".git", ".venv", "assets", "_proc", "_docs", "build", "*.egg-info", "__pycache__", ".*_cache"
    )
    shutil.copytree(root, copy, symlinks=True, ignore=skip)
    # Without isolation, because an isolated build downloads its tools and tests run offline.
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(copy),
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-q",
        "-w",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    import zipfile
    held = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    data = [
        p
        for p in (package / "embedded").rglob("*")
        if p.is_file() and p.suffix != ".partial" and "__pycache__" not in p.parts
    ]
    wanted = {p.relative_to(root).as_posix() for p in [*modules.values(), *data]}
    wanted |= {f"{package.name}/__init__.pyi"}
    wanted |= {f"{package.name}/pipelines/{nb.path.name}" for nb in of_folder("pipelines")}
    assert not wanted - held, f"missing from the wheel: {sorted(wanted - held)}"
    assert any(n.endswith("licenses/THIRD_PARTY.md") for n in held), "the licences travel with the drawings"


def test_one_place_knows_the_denoiser():
    "Whoever holds a pipeline asks its family: only the families' own modules name the component."
    families = {f.module for f in find_classes("vision_unlearning.models", "family", "network").values()}
    for name, path in modules.items():
        if f"vision_unlearning.{name}" in families or "embedded" in path.parts: continue
        text = path.read_text(encoding="utf-8")
        if ".unet" not in text and ".transformer" not in text: continue
        attributes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Attribute)]
        found = [n.lineno for n in attributes if n.attr in ("unet", "transformer")]
        assert not found, f"{name} line {found[0]} names a component; ask models.families.denoiser(pipe)"
