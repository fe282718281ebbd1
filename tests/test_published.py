"Answers have the published form, and say the names of what they were computed from and of nothing else."
import inspect
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

import vision_unlearning.benchmarks as benchmarks
from vision_unlearning.interference.entity import InterferencePerEntity
from vision_unlearning.interference.names import parse_column
from vision_unlearning.results.base import simulate_store
from vision_unlearning.results.displacement import simulate_embeddings
from vision_unlearning.store import Session, Store, read_entities, read_json, write_json

# Methods of the published classes, copied as data: parameters in order; a default of `plot` that is None here
# is the template's own
METHODS = """
MetricSimilarityAlignment.plot(data, figsize=(6, 5), return_fig=False)
MetricSimilarityAlignment._compute_from_scratch(exclude_diagonal=True)
MetricSimilarityAlignmentMulti.plot(data, figsize=(6, 15), return_fig=False)
MetricSimilarityAlignmentMulti._compute_from_scratch(exclude_diagonal=True, entity_col='name')
MetricSimilarityAlignmentMulti._get_partial_path_local()
SignificantRelationshipNumerical.plot(data, figsize=(6, 5), return_fig=False)
SignificantRelationshipCategorical.plot(data, extra_title='', figsize=(6, 5), return_fig=False)
CountSignificantRelationship.plot(data, figsize=(6, 5), return_fig=False)
InterferenceVisualSummary.plot(data, figsize=(18, 4), return_fig=False)
InterferenceVisualSummary._resolve_entity()
Matrix.plot(data, figsize=None, cmap=None, title='', xlabel=None, ylabel=None, return_fig=False)
Matrix.plot_make_title(data)
InterferenceMatrix.plot(data, figsize=None, cmap=None, title='', xlabel=None, ylabel=None, return_fig=False)
SimilarityMatrix.plot(data, figsize=None, cmap=None, title='', xlabel=None, ylabel=None, return_fig=False)
SimilarityMatrix._get_partial_path_local()
MethodComparisonByMetricEntity.plot(data, figsize=(6, 5), return_fig=False)
"""


def wanted(inner):
    "parameter -> default, as `inspect` has them, from the text between the brackets"
    made = {}
    exec(f"def stated({inner}): pass", made)
    return [(p.name, p.default) for p in inspect.signature(made["stated"]).parameters.values()]


@pytest.mark.parametrize("line", METHODS.strip().splitlines())
def test_method(line):
    "Published parameters come first and by position; what we add is given by name."
    name, inner = line[:-1].split("(", 1)
    template, method = name.split(".")
    function = inspect.getattr_static(getattr(benchmarks, f"ResultTemplate{template}"), method, None)
    found = inspect.signature(getattr(getattr(benchmarks, f"ResultTemplate{template}"), method))
    parameters = [p for n, p in found.parameters.items() if n != "self"]
    expected = wanted(inner)
    assert function is not None and [(p.name, p.default) for p in parameters[:len(expected)]] == expected
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[len(expected):])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "Five emitters that were unlearned, and their table of entities."
    made = simulate_store(Store(tmp_path_factory.mktemp("five")), "emoji_people", emitters=range(5))
    made.per_entity("emoji_people").unlink()
    InterferencePerEntity(task="emoji_people", base_folder=str(made.base)).compute()
    return made


def ask(store, **more):
    return dict(task="emoji_people", base_folder=str(store.base), **more)


def test_plots_take_the_published_positions(store):
    Matrix = benchmarks.ResultTemplateInterferenceMatrix
    data = Matrix(**ask(store, unlearning_algorithm="uce", interference_pair="clip_diff")).compute()
    figure, ax = Matrix.plot(data, (5, 4), "magma", "a title", "across", "down", True)
    assert figure.get_size_inches().tolist() == [5, 4] and ax.images[0].get_cmap().name == "magma"
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("a title", "across", "down")
    Groups = benchmarks.ResultTemplateSignificantRelationshipCategorical
    asked = ask(store, unlearning_algorithm="uce", interference_entity="receiver_average_clip_diff")
    data = Groups(**asked, attribute="gender", n_permutations=20).compute()
    figure, ax = Groups.plot(data, "of five", (7, 3), True)
    assert ax.get_title().endswith("of five") and figure.get_size_inches().tolist() == [7, 3]
    with pytest.raises(TypeError, match="colour"): Groups.plot(data, colour="red")
    plt.close("all")


def test_the_words_of_the_menu_are_names_too(store):
    Comparison = benchmarks.ResultTemplateMethodComparisonByMetricEntity
    asked = ask(store, unlearning_algorithm_list=["uce"])
    template = Comparison(**asked, interference_entity="Receiver average clip diff")
    assert template.interference_entity == "receiver_average_clip_diff"
    with pytest.raises(ValueError, match="did you mean 'emitter_average_clip_diff'"):
        Comparison(**asked, interference_entity="emiter_average_clip_diff")


def test_counted_rows_say_what_they_are_about(store):
    "With five emitters a group may be one entity, for which scipy has no answer a column."
    rows = read_json(store.per_entity("emoji_people"))
    metrics = [parts[2] for c in rows[0] if (parts := parse_column(c))]
    asked = ask(store, unlearning_algorithm_list=["uce"], interference_entity_list=metrics)
    for attribute in ("tone", "occupation"):
        found = benchmarks.ResultTemplateCountSignificantRelationship(
            **asked, attribute_list=[attribute], n_permutations=20
        ).compute()["result"]["rows"]
        assert len(found) == len(metrics)
    row = found[0]
    assert (row["model"], row["task"], row["method_label"]) == ("emoji-sd", "emoji_people", "UCE")
    assert row["metric_label"] and row["interference_entity"] in metrics


def test_grid_repeats_what_it_swept(store):
    asked = dict(base_folder=str(store.base), tasks=["emoji_people"], unlearning_algorithms=["uce"])
    found = benchmarks.ResultTemplateMostSimilarMostInterferedGrid(
        **asked, interference_pairs=["clip_diff", "rmse"], similarity_metrics=["attr"], n_permutations=20
    )
    result = found.compute()["result"]
    assert (result["top_k"], result["interference_pairs"]) == (1, ["clip_diff", "rmse"])
    assert result["similarity_metrics"] == ["attr"] and result["max_per_cell"] == 100*2*1


def test_a_cut_needs_two_entities(store):
    asked = ask(store, unlearning_algorithm="uce", interference_pair="clip_diff")
    with pytest.raises(ValueError, match="entity_1 and entity_2 are both"):
        benchmarks.ResultTemplateMinimumCutInterference(**asked, entity_1="a b", entity_2="a_b")


def test_an_emitter_is_resolved_in_place(store):
    Summary = benchmarks.ResultTemplateInterferenceVisualSummary
    asked = ask(store, unlearning_algorithm="uce", interference_pair="clip_diff")
    names = [e["name"] for e in read_entities(store, "emoji_people")]
    template = Summary(**asked, entity_index=3)
    template._resolve_entity()
    assert (template.entity, template.entity_index) == (names[3], 3)
    with pytest.raises(ValueError, match="has index 3, not 4"):
        Summary(**asked, entity=names[3], entity_index=4)._resolve_entity()
    with pytest.raises(ValueError, match="give entity or entity_index"): Summary(**asked)._resolve_entity()


def test_the_diagonal_counts_where_it_is_asked_for(store):
    template = benchmarks.ResultTemplateMetricSimilarityAlignment(
        **ask(store, unlearning_algorithm="uce", interference_pair="clip_diff", similarity_metric="attr"),
        n_permutations=20,
    )
    without, whole = (template._compute_from_scratch(exclude_diagonal=d) for d in (True, False))
    assert (without["n_pairs"], whole["n_pairs"]) == (5*99, 5*100)
    assert without["mantel_statistic"] == whole["mantel_statistic"]
    assert without["pearson_statistic"] != whole["pearson_statistic"]


@pytest.fixture(scope="module")
def embedded(store):
    "Embeddings of the baseline and of the five sessions; the encoder says what it is."
    generator, people = np.random.default_rng(0), read_entities(store, "emoji_people")
    off = generator.normal(size=(100, 8))
    simulate_embeddings(store, "emoji_people", off)
    ons = []
    for i in range(5):
        ons.append(off + .3*generator.normal(size=off.shape))
        session = Session("emoji_people", people[i]["name"], i, "uce", 0)
        simulate_embeddings(store, "emoji_people", ons[-1], session)
    return people, off, ons


def test_associations_as_published(store, embedded):
    "The published definition, by hand: everybody with everybody, and signs of edits that are flipped."
    people, off, ons = embedded
    def table(vectors):
        unit = vectors/np.linalg.norm(vectors, axis=1, keepdims=True)
        def of(attribute, value): return unit[[p[attribute] == value for p in people]]
        ones, others = (sorted({p[a] for p in people}) for a in ("occupation", "gender"))
        return {a: {b: (of("occupation", a) @ of("gender", b).T).mean() for b in others} for a in ones}
    def numbers(nested): return np.array([list(row.values()) for row in nested.values()], float)
    result = benchmarks.ResultTemplateImplicitAssociationTest(
        **ask(store, unlearning_algorithm="uce", attribute_1="occupation", attribute_2="gender"),
        legacy=True,
        n_permutations=200,
    ).compute()["result"]
    before, deltas = table(off), np.stack([numbers(table(off)) - numbers(table(on)) for on in ons])
    assert list(result["B_original"]) == list(before)
    np.testing.assert_allclose(numbers(result["B_original"]), numbers(before), atol=1e-5)
    np.testing.assert_allclose(numbers(result["delta_B_mean"]), deltas.mean(0), atol=1e-5)
    np.testing.assert_allclose(numbers(result["delta_B_std"]), deltas.std(0), atol=1e-5)
    np.testing.assert_allclose(result["iat_effect_size"], np.abs(deltas.mean(0)).mean(), atol=1e-5)
    generator, extreme = np.random.default_rng(42), 0
    for _ in range(200):
        signs = generator.choice(np.array([-1, 1]), size=5)
        flipped = np.linalg.norm((deltas*signs[:, None, None]).mean(0))
        extreme += flipped >= np.linalg.norm(deltas.mean(0)) - 1e-9
    assert result["permutation_pvalue"] == pytest.approx((1 + extreme)/201)
    assert result["significant"] == (result["permutation_pvalue"] < .05)


def test_a_clip_is_no_dino(store, embedded, tmp_path):
    Test = benchmarks.ResultTemplateImplicitAssociationTest
    asked = ask(store, unlearning_algorithm="uce", attribute_1="occupation", attribute_2="gender")
    with pytest.raises(ValueError, match="made with simulated-dinov2.*latent_embedding='dino_embedding'"):
        Test(**asked, latent_embedding="clip_embedding").compute()


def test_profiles_tell_the_session_from_all_sessions(store, embedded):
    people, _, _ = embedded
    result = benchmarks.ResultTemplateEmbeddingUnlearningProfile(
        **ask(store, unlearning_algorithm="uce", entity=people[2]["name"])
    ).compute()["result"]
    pairs = json.loads(store.pair("emoji_people", 2, "uce", 0).read_text())
    assert result["mp_clip_diffs"] == [pairs[n]["clip_diff"] for n in result["entity_labels"]]
    rows = {r["name"]: r for r in read_json(store.per_entity("emoji_people"))}
    column = next(c for c in rows[people[0]["name"]] if "emitter_minus_receiver_average_clip_diff (" in c)
    assert result["clip_diffs"] == [rows[n][column] for n in result["entity_labels"]]
    assert result["clip_diffs"] != result["mp_clip_diffs"]


def test_no_name_but_that_of_the_model_that_was_edited(tmp_path):
    store = simulate_store(Store(tmp_path), emitters=[0, 1])
    session = {"task": "emoji", "method": "uce", "model": "emoji-sd"}
    write_json(store.record(Session("emoji", "fox", 0, "uce")), {"session": session})
    Matrix = benchmarks.ResultTemplateInterferenceMatrix
    asked = dict(
        task="emoji", base_folder=str(tmp_path), unlearning_algorithm="uce", interference_pair="rmse"
    )
    assert Matrix(**asked).compute()["metadata"]["model"] == "emoji-sd"
    with pytest.raises(ValueError, match="edited emoji-sd, not sd1.4; leave model out"):
        Matrix(**asked, model="sd1.4")


def test_every_published_name_is_imported_at_once():
    found = {}
    exec("from vision_unlearning.benchmarks import *", found)
    assert {"type_task", "average_metric", "ResultTemplateMatrix", "rt_name_to_class"} <= set(found)
    from vision_unlearning.benchmarks import I_care
    from vision_unlearning.benchmarks.I_care import configuration, rt_name_to_class
    from vision_unlearning.benchmarks.unlearn_canvas import canvas_prompts
    assert configuration.type_task is I_care.type_task and len(canvas_prompts("Dogs"))
    assert rt_name_to_class is benchmarks.rt_name_to_class
