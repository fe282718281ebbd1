"""Every name of the published API: it imports, takes its documented parameters with their defaults, and the
tables of somebody else answer its questions.

The lists below are the interface as documented, copied as data: names, parameters in order, defaults.
"""
import ast
import inspect
import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import vision_unlearning.benchmarks as benchmarks
from vision_unlearning.core import MissingSessionError
from vision_unlearning.interference.published import holdings
from vision_unlearning.store import Store, read_json, write_json

FUNCTIONS = """
convert_params_from_gui_to_backend(params)
get_interference_per_pair_path(task, index, method, num_train_epochs, base_folder='assets')
get_interference_per_pair(task, index, method, num_train_epochs, max_identities=100, base_folder='assets')
exists_interference_per_pair(task, index, method, num_train_epochs, base_folder='assets')
save_interference_per_pair(interference_per_pair, task, index, method, num_train_epochs, base_folder='assets')
get_interference_per_pair_inverse(task, index, method, num_train_epochs, index_start=0, max_identities=100)
get_interference_per_entity_path(task, base_folder='assets')
get_interference_per_entity(task, max_identities=100, base_folder='assets')
save_interference_per_entity(task, metadata_filtered, base_folder='assets')
choose_metric_column_interference_per_entity(unlearning_algorithm, interference_entity, metric_cols)
find_worst_interfered(interference_per_pair, metric, is_worst_biggest)
metric_of_worst_interfered(interference_per_pair, metric, is_worst_biggest)
is_worst_interfered_target(interference_per_pair, metric, is_worst_biggest, target)
number_of_interfered_worse_than_target(interference_per_pair, metric, is_worst_biggest, target)
number_of_interfered_worse_than_threshold(interference_per_pair, metric, is_worst_biggest, threshold)
average_metric(interference_per_pair, metric)
_encode_image_file(img_path, max_dim=1024)
_decode_image(image_data)
explanation_to_dict(expl)
dict_to_explanation(d)
load_dino_model(model_name=EMBEDDING_MODEL, force_device=None)
embed_image_with_dino(image_path, model, transform, device)
embed_forgetting_session(dataset_folder, seeds, prompts, metadata_filtered, lora_state, task,
    embed_image_fn=None)
embed_forgetting_session_batched(dataset_folder, seeds, prompts, metadata_filtered, lora_state, task, model,
    transform, device, batch_size=32)
jacc_metric_score(entity_1, entity_2, metadata_filtered, entity_col='name')
display_interesting_interferences(metadata_filtered, interference_per_pair, index, task, method,
    num_train_epochs, metric, is_worst_biggest, seed=42, save_path=None)
analyze_relationship_regression(df, x, y, expected_positive=True, plot=True)
analyze_relationship_category(df, metric, category, plot=True)
analyze_relationship_numerical(df, attribute, metric, plot=False, plot_only_significant=False)
analyze_relationship_categorical(df, attribute, metric, plot=False, plot_only_significant=False,
    show_axhline=None, min_samples_per_category=5, extra_title='')
analyze_correlation_between_pairwise_metrics(df1, df2, metric1_name, metric2_name, exclude_diagonal=True,
    plot=True, plot_only_significant=True)
check_eval_results(eval_results, name, threshold, operator)
get_metadata_filtered(task, base_folder='assets')
get_metadata_filtered_path(task, base_folder='assets')
get_target_overwrite(task, method, target)
get_generated_dataset_file(lora_state, seed, prompt)
huggingface_dataset_file_exists(dataset_repository, dataset_path, token)
huggingface_dataset_file_download(folder_datasets, dataset_repository, file_path, token,
    folder_cache='/tmp/huggingface_cache')
huggingface_dataset_upload(folder_datasets, dataset_repository, dataset_config, token)
huggingface_dataset_file_upload(file_path, dataset_repository, dataset_path, token)
huggingface_dataset_download(folder_datasets, dataset_repository, dataset_config, token, clean=False,
    folder_cache='/tmp/huggingface_cache', clean_cache=False)
"""
CLASSES = """
InterferencePerEntity(task='people', base_folder='assets',
    remote_repository_name='LeonardoBenitez/VisionUnlearningEvaluationTestbeds', save_outputs=True,
    recompute_if_exists=False)
ResultTemplate(recompute_if_exists=False, save_outputs=True, base_folder='assets',
    remote_repository_name='LeonardoBenitez/VisionUnlearningEvaluationTestbeds')
ResultTemplateMetricMetricAlignment(model='sd1.4', task='people', unlearning_algorithm,
    interference_entity_1, interference_entity_2)
ResultTemplateMetricSimilarityAlignment(model='sd1.4', task='people', unlearning_algorithm,
    interference_pair, similarity_metric, significance_threshold=0.05)
ResultTemplateMetricSimilarityAlignmentMulti(model='sd1.4', task='people', unlearning_algorithm,
    interference_pair, similarity_metric_list, significance_threshold=0.05,
    include_attribute_diff_similarity=True, include_attribute_value_similarity=True,
    regression_algorithm='linear_regression', random_state=42, test_size=0.3)
ResultTemplateSignificantRelationshipNumerical(model='sd1.4', task='people', unlearning_algorithm,
    interference_entity, attribute, significance_threshold=0.05)
ResultTemplateSignificantRelationshipCategorical(model='sd1.4', task='people', unlearning_algorithm,
    interference_entity, attribute, attribute_value=None, min_samples_per_category=5,
    significance_threshold=0.05)
ResultTemplateCountSignificantRelationship(model='sd1.4', task='people', unlearning_algorithm_list,
    interference_entity_list, attribute_list, top_n=10)
ResultTemplateImplicitAssociationTest(model='sd1.4', task='people', unlearning_algorithm, attribute_1,
    attribute_2, latent_embedding)
ResultTemplateMinimumCutInterference(model='sd1.4', task='people', unlearning_algorithm, interference_pair,
    entity_1, entity_2)
ResultTemplateUnlearningVisualSummary(model='sd1.4', task='people', unlearning_algorithm)
ResultTemplateInterferenceVisualSummary(model='sd1.4', task='people', unlearning_algorithm,
    interference_pair, entity=None, entity_index=None, seed=42, images_max_dim=124)
ResultTemplateMatrix(metric_key_name)
ResultTemplateInterferenceMatrix(model='sd1.4', task='people', unlearning_algorithm, interference_pair,
    metric_key_name='interference_pair')
ResultTemplateSimilarityMatrix(model='sd1.4', task='scenes', similarity_metric='clip',
    metric_key_name='similarity_metric')
ResultTemplateMethodComparisonByMetricEntity(model='sd1.4', task='people', interference_entity,
    unlearning_algorithm_list)
"""
DATA = {
    "domain_unlearning_algorithm": ["FADE", "Munba", "UCE"],
    "domain_task": ["Breeds", "Scenes", "People"],
    "domain_model": ["Stable Diffusion 1.4"],
    "domain_mp": ["Delta Clip", "Delta Brisque", "RMSE", "SSIM"],
    "domain_me": ["Emitter worst interfered brisque diff", "Emitter worst interfered clip diff"],
    "domain_s": ["Clip Cosine Similarity", "Jacc Similarity"],
    "domain_l": ["Clip Embedding"],
    "EMBEDDING_MODEL": "dinov2_vits14",
    "EMBEDDING_DIM": 384,
    "domain_attribute": None,
    "domain_entity": None,
    "GUI_TO_BACKEND": None,
    "unlearning_algorithm_to_epochs": None,
    "s_to_direction": None,
    "rt_name_to_class": None,
    "rt_name_to_params": None,
}
TYPES = {
    "type_task": {"scenes", "objects", "breeds", "people", "emoji", "emoji_people", "emoji_canvas"},
    "type_unlearning_algorithm": {"munba", "uce", "distil"},
    "type_model": {"sd1.4", "emoji-sd"},
    "type_mp": {"clip_diff", "brisque_diff", "rmse", "ssim"},
    "type_me": {"emitter_worst_interfered_brisque_diff", "emitter_minus_receiver_average_ssim"},
    "type_s": {"clip", "jacc"},
    "type_l": {"clip_embedding"},
}
ERRORS = ["InvalidAttributeTypeError", "InsufficientSamplesError"]


def parsed(text):
    "name -> {parameter: default as text, or None}"
    found = {}
    # a signature goes on in the lines that are indented
    for line in text.strip().replace("\n    ", " ").splitlines():
        name, inner = line[:-1].split("(", 1)
        arguments = [p.strip() for p in inner.split(", ")] if inner else []
        found[name] = {p.split("=", 1)[0]: p.split("=", 1)[1] if "=" in p else None for p in arguments}
    return found


functions, classes = parsed(FUNCTIONS), parsed(CLASSES)
value = lambda text: benchmarks.EMBEDDING_MODEL if text == "EMBEDDING_MODEL" else ast.literal_eval(text)


def get(name):
    """The name as `from vision_unlearning.benchmarks import name` gives it; the templates of issue 4 come
    from several notebooks."""
    try: return getattr(benchmarks, name)
    except AttributeError as error: raise AssertionError(f"not offered: {error}") from error


def test_the_lists_are_whole():
    assert len(functions) == 41 and len(classes) == 16 and len(DATA) + len(TYPES) == 23 and len(ERRORS) == 2


@pytest.mark.parametrize("name", functions)
def test_function(name):
    "Documented parameters come first and in order, with their defaults; what we add has a default."
    parameters = list(inspect.signature(get(name)).parameters.values())
    wanted = functions[name]
    assert [p.name for p in parameters[:len(wanted)]] == list(wanted)
    for parameter, default in zip(parameters, wanted.values()):
        assert parameter.default == (inspect.Parameter.empty if default is None else value(default)), (
            parameter
        )
    assert all(
        p.default is not inspect.Parameter.empty or p.kind is p.VAR_KEYWORD for p in parameters[len(wanted) :]
    )
    assert get(name).__doc__


@pytest.mark.parametrize("name", classes)
def test_class(name):
    """Documented fields with their defaults; a documented field without one may have one here, and fields
    that we add must."""
    fields = get(name).model_fields
    for field, default in classes[name].items():
        assert field in fields, f"{name} has no field {field!r}"
        assert (
            default is None or fields[field].default == value(default) and not fields[field].is_required()
        ), field
    inherited = classes["ResultTemplate"] if issubclass(get(name), benchmarks.ResultTemplate) else {}
    assert not [f for f, info in fields.items() if info.is_required() and f not in classes[name] | inherited]
    assert "compute" in dir(get(name)) and get(name).__doc__


@pytest.mark.parametrize("name", [n for n in classes if n not in ("InterferencePerEntity", "ResultTemplate")])
def test_template_is_drawn_both_ways(name):
    parameters = inspect.signature(get(name).plot).parameters
    assert {"data", "figsize", "return_fig"} <= set(parameters) and parameters["return_fig"].default is False
    for method in (
        "_serialize_parameters",
        "_get_data_path_remote",
        "_get_data_path_local",
        "_fig_to_bytes",
        "_compute_from_scratch",
        "compute",
    ):
        assert callable(getattr(get(name), method)), method


@pytest.mark.parametrize("name", DATA)
def test_data(name):
    "Documented values come first; ours are added behind them."
    found, wanted = get(name), DATA[name]
    assert found[:len(wanted)] == wanted if isinstance(wanted, list) else wanted in (None, found)
    assert found


@pytest.mark.parametrize("name", TYPES)
def test_types(name): assert TYPES[name] <= set(get_args(get(name)))


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name): assert issubclass(get(name), ValueError) and get(name).__name__ == name


def test_registries():
    concrete = [
        n.removeprefix("ResultTemplate")
        for n in classes
        if n not in ("InterferencePerEntity", "ResultTemplate", "ResultTemplateMatrix")
    ]
    assert set(concrete) <= set(benchmarks.rt_name_to_class) and set(benchmarks.rt_name_to_class) == set(
        benchmarks.rt_name_to_params
    )
    for name in concrete:
        assert benchmarks.rt_name_to_class[name] is getattr(benchmarks, f"ResultTemplate{name}")
        assert set(classes[f"ResultTemplate{name}"]) <= set(benchmarks.rt_name_to_params[name])


def test_a_wrong_name_is_an_import_error_with_its_neighbour():
    with pytest.raises(ImportError): exec("from vision_unlearning.benchmarks import get_interference_per_pai")
    with pytest.raises(AttributeError, match="did you mean 'average_metric'"):
        getattr(benchmarks, "avrage_metric")  # noqa: B009
    assert set(functions) | set(classes) | set(DATA) | set(TYPES) | set(ERRORS) <= set(dir(benchmarks))


def test_gui_values_convert_and_unknown_keys_pass_through():
    convert = benchmarks.convert_params_from_gui_to_backend
    assert convert(
        {
            "task": "Scenes",
            "unlearning_algorithm": "FADE",
            "interference_pair": "Delta Clip",
            "similarity_metric": "Jacc Similarity",
            "model": "Stable Diffusion 1.4",
            "colour": "FADE",
            "entity": None,
        }
    ) == {
        "task": "scenes",
        "unlearning_algorithm": "distil",
        "interference_pair": "clip_diff",
        "similarity_metric": "jacc",
        "model": "sd1.4",
        "colour": "FADE",
        "entity": None,
    }


# A folder that somebody else made

people = ["George_W_Bush", "Colin_Powell", "Tony_Blair", "Serena_Williams", "Laura_Bush", "Andre_Agassi"]


@pytest.fixture
def published(tmp_path):
    """The published layout, as others wrote it: no index, NaN, padded epochs, names with and without
    underscores."""
    store, rng = Store(tmp_path), np.random.default_rng(0)
    def put(path, data):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data))

    put(
        store.metadata("people"),
        [
            {"name": n, "dataset_n_original": 5, "gender": "MF"[i % 2], "hpi": 60.0 + i}
            for i, n in enumerate(people)
        ],
    )
    for i in range(6):
        row = {
            n if i % 2 else n.replace("_", " "): {
                "clip_diff": float(rng.normal() - 5 * (k == i)),
                "brisque_diff": float(rng.normal()),
                "rmse": float("nan") if k == 3 else 0.01,
                "ssim": 0.9,
            }
            for k, n in enumerate(people)
        }
        if i != 4: put(store.pair("people", i, "distil", 400), row)
    likeness = rng.uniform(40, 90, (6, 6))
    likeness = np.where(np.eye(6, dtype=bool), 100, (likeness + likeness.T) / 2)
    put(
        store.result("SimilarityMatrix", "sd1.4_people_clip"),
        {
            "metadata": {"task": "people"},
            "result": [{"emitter": a, **dict(zip(people, row))} for a, row in zip(people, likeness.tolist())],
        },
    )
    put(
        store.per_entity("people"),
        [
            {
                "name": n,
                "metric_distil_400_emitter_average_clip_diff (↑)": -1.0 - i,
                "metric_uce_000_emitter_average_clip_diff (↑)": -0.5,
            }
            for i, n in enumerate(people)
        ],
    )
    return store


def test_templates_answer_from_a_published_folder(published):
    ask = dict(task="people", base_folder=str(published.base))
    matrix = benchmarks.ResultTemplateInterferenceMatrix(
        **ask, unlearning_algorithm="distil", interference_pair="clip_diff"
    ).compute()
    assert [r["emitter"] for r in matrix["result"]] == people[:4] + people[5:] and matrix["metadata"][
        "summary"
    ]["n_emitters"] == 5
    likeness = benchmarks.ResultTemplateSimilarityMatrix(**ask, similarity_metric="clip").compute()
    assert (
        likeness["result"][0][people[0]] == 100
        and benchmarks.ResultTemplateSimilarityMatrix(**ask, similarity_metric="jacc").compute()["result"]
    )
    alignment = benchmarks.ResultTemplateMetricSimilarityAlignment(
        **ask, unlearning_algorithm="distil", interference_pair="clip_diff", similarity_metric="clip"
    ).compute()["result"]
    assert alignment["n_pairs"] == 25
    comparison = benchmarks.ResultTemplateMethodComparisonByMetricEntity(
        **ask, interference_entity="emitter_average_clip_diff", unlearning_algorithm_list=["distil", "uce"]
    ).compute()["result"]
    assert comparison["distil"]["n"] == 6 and comparison["uce"]["mean"] == -.5


def test_what_is_missing_is_named_and_never_zero(published):
    report = holdings(published.base, "people")
    assert any("no table of 1 of 6 emitters: Laura_Bush" in m for m in report["missing"]) and any(
        "5 values of rmse are undefined" in m for m in report["missing"]
    )
    assert any("no dino_diff" in m for m in report["missing"]) and "no dino similarity" in report["missing"]
    table = benchmarks.InterferencePerEntity(task="people", base_folder=str(published.base)).compute()
    assert (
        table[4]["metric_distil_400_emitter_average_rmse (↓)"] is None
        and table[0]["metric_uce_000_emitter_average_clip_diff (↑)"] == -0.5
    )
    assert (
        benchmarks.choose_metric_column_interference_per_entity(
            "distil", "emitter_average_clip_diff", list(table[0])
        )
        == "metric_distil_400_emitter_average_clip_diff (↑)"
    )
    inverse = benchmarks.get_interference_per_pair_inverse(
        "people", 0, "distil", 400, base_folder=str(published.base)
    )
    assert list(inverse) == people[:4] + people[5:]
    with pytest.raises(MissingSessionError):
        benchmarks.get_interference_per_pair("people", 4, "distil", 400, base_folder=str(published.base))


# The hub, from a cache: nothing is sent or fetched

@pytest.fixture
def cached_hub(tmp_path):
    "A cache as huggingface_hub lays it out, with one dataset repository in it."
    root = tmp_path / "hub" / "datasets--me--world"
    files = root / "snapshots" / "abc"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("abc")
    write_json(files / "interference_per_entity_people.json", [{"name": "Ann"}])
    write_json(files / "config" / "deep" / "a.json", {"a": 1})
    return tmp_path / "hub"


def test_a_file_and_a_folder_come_from_the_hub(cached_hub, tmp_path):
    here = tmp_path / "assets"
    benchmarks.huggingface_dataset_file_download(
        str(here), "me/world", "interference_per_entity_people.json", None, str(cached_hub)
    )
    assert read_json(here / "interference_per_entity_people.json") == [{"name": "Ann"}]
    with pytest.raises(MissingSessionError, match="absent.json of me/world"):
        benchmarks.huggingface_dataset_file_download(
            str(here), "me/world", "absent.json", None, str(cached_hub)
        )
    with pytest.raises(ValueError, match="not a path inside"):
        benchmarks.huggingface_dataset_file_download(
            str(here), "me/world", "../x.json", None, str(cached_hub)
        )
    benchmarks.huggingface_dataset_download(
        str(here), "me/world", "config", None, clean=True, folder_cache=str(cached_hub), clean_cache=True
    )
    assert read_json(here / "config" / "deep" / "a.json") == {"a": 1} and not cached_hub.exists()


def test_the_table_of_entities_comes_from_the_hub_when_there_is_nothing_else(
    cached_hub, tmp_path, monkeypatch
):
    from huggingface_hub import constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cached_hub))
    ask = dict(base_folder=str(tmp_path / "assets"), remote_repository_name="me/world")
    assert benchmarks.InterferencePerEntity(task="people", **ask).compute() == [{"name": "Ann"}]
    assert Path(benchmarks.InterferencePerEntity(task="people", **ask)._get_data_path_local()).is_file()
    for task in ("breeds", "emoji"):
        with pytest.raises(MissingSessionError, match=f"no interference of task '{task}'"):
            benchmarks.InterferencePerEntity(task=task, **ask).compute()
