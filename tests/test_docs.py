"""What a reader finds: settings that explain themselves."""
from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import NamedTuple

import pytest
from docs import Renderer
from typing_extensions import NotRequired, TypedDict

import vision_unlearning
from vision_unlearning.core import Config
from vision_unlearning.settings import settings_of


def configs():
    "Every class of the package that can be told something."
    for module in pkgutil.walk_packages(vision_unlearning.__path__, "vision_unlearning."):
        importlib.import_module(module.name)
    found, todo = [], [Config]
    while todo:
        new = todo.pop().__subclasses__()
        found += [c for c in new if c.__module__.startswith("vision_unlearning.")]
        todo += new
    return found


def test_every_setting_is_explained():
    silent = [f"{c.__module__}.{c.__name__}: {setting.name}"
              for c in configs() for setting in settings_of(c) if not setting.comment]
    assert not silent, f"no comment beside the field, or above it: {sorted(silent)}"


def test_help_and_completion_show_every_setting():
    for cls in configs():
        assert list(inspect.signature(cls).parameters) == list(cls.model_fields), cls
        for setting in settings_of(cls):
            assert f"\n{setting.name} : " in inspect.getdoc(cls), (cls, setting.name)
            assert setting.comment.split()[0] in inspect.getdoc(cls), (cls, setting.name)


def exported():
    "Every symbol that a page shows."
    for module in pkgutil.walk_packages(vision_unlearning.__path__, "vision_unlearning."):
        module = importlib.import_module(module.name)
        for name in getattr(module, "__all__", []):
            symbol = getattr(module, name)
            if inspect.isclass(symbol) or inspect.isfunction(symbol): yield symbol


@pytest.mark.long
def test_every_symbol_has_its_place_on_a_page():
    "nbdev parses the source of what it shows, and of a class the constructor, whoever wrote it."
    for symbol in exported():
        shown = Renderer(symbol)
        text = shown._repr_markdown_()
        assert symbol.__name__ in text and symbol.__name__ in repr(shown), symbol
        if inspect.isclass(symbol): assert "*args, **kwargs" not in text, f"what does {symbol} take?"


def of_a_later_type(
    thing: LaterOnThePage,  # noqa: F821
    more: list[LaterOnThePage] | None = None,  # noqa: F821
): "A function above the class that it takes."


def test_a_type_that_is_defined_later_is_shown_by_its_name():
    assert "thing:LaterOnThePage" in Renderer(of_a_later_type)._repr_markdown_()


class Parcel(TypedDict):
    "A thing with keys."
    to: str  # who gets it
    grams: NotRequired[int | None]


class Address(NamedTuple):
    "A thing with fields."
    street: str  # and number


def test_keys_are_shown():
    shown = Renderer(Parcel)._repr_markdown_()
    assert "class Parcel(dict)" in shown and "| `to` | str | who gets it |" in shown
    assert "| `grams` | int \\| None, may be missing |  |" in shown
    assert "| `street` | str | and number |" in Renderer(Address)._repr_markdown_()
