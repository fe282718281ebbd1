"""Build the package from settings.ini, the file that nbdev reads too."""
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

root = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(root / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
suffix = "_requirements"
extras = {key.removesuffix(suffix): value.split() for key, value in cfg.items() if key.endswith(suffix)}
readme = root / "README.md"


class BuildWithPipelines(build_py):
    """Put the papermill notebooks into the wheel, as `vision_unlearning/pipelines/*.ipynb`.

    They live in nbs/pipelines, where people read and edit them, so a checkout (editable install) keeps no
    second copy.
    `running.stages.pipeline_path(name)` looks for `pipelines/<name>.ipynb` beside the package and otherwise
    for `../nbs/pipelines/<name>.ipynb`: the first is a wheel, the second a checkout.
    """

    def run(self):
        # build/ of an earlier build would carry deleted modules into the wheel.
        if not self.editable_mode: shutil.rmtree(Path(self.build_lib) / cfg["lib_path"], ignore_errors=True)
        super().run()
        if self.editable_mode: return
        target = Path(self.build_lib) / cfg["lib_path"] / "pipelines"
        target.mkdir(parents=True, exist_ok=True)
        for notebook in sorted((root / cfg["nbs_path"] / "pipelines").glob("[!_.]*.ipynb")):
            shutil.copy2(notebook, target)


setup(
    # nbdev's pyproject.toml declares these fields dynamic: each must be set here or pip refuses the build.
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    keywords=cfg["keywords"].split(),
    author=cfg["author"],
    license=cfg["license"],
    url=cfg["git_url"],
    project_urls={
        "Documentation": cfg["doc_host"] + cfg["doc_baseurl"],
        "Changes": cfg["git_url"] + "/blob/main/CHANGELOG.md",
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else cfg["description"],
    long_description_content_type="text/markdown",
    python_requires=">=" + cfg["min_python"],
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    # `package_dir` is said so that an editable install is a plain path entry: new modules need no reinstall.
    package_dir={"": "."},
    packages=find_packages(include=[cfg["lib_path"], cfg["lib_path"] + ".*"]),
    package_data={cfg["lib_path"]: ["embedded/**/*", "__init__.pyi"]},
    exclude_package_data={"": ["*.partial", "*.pyc"]},
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"],
    },
    cmdclass={"build_py": BuildWithPipelines},
    zip_safe=False,
)
