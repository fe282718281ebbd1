"""Evidence about classifiers: what the notebooks of KLOM, layers and shadow models leave to tests."""
from vision_unlearning.unlearners.classifiers.base import first_names, get_classifier_method, settings_of_today


def test_runs_from_before_a_setting_are_found():
    "A setting that came later has, in the names of the first version, no place where it does what was done."
    now = get_classifier_method("salun")().model_dump(mode="json")
    before = first_names("salun", now)
    assert "passes" not in before and settings_of_today("salun", before) == now
    assert first_names("salun", now | {"passes": "in_turn"})["passes"] == "in_turn"
