from __future__ import annotations

import sys
from typing import Annotated, Literal

import pytest
from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf, open_dict
from pydantic import Field

from ecgexp import CONF
from ecgexp.commands.plan import plan
from ecgexp.config.resolvers import register_resolvers
from ecgexp.config.schema import accepts, check, locate, plain
from ecgexp.errors import UserError
from ecgexp.models import ConvBlocks, Recurrent


class Net:
    """A class of a user's own, with annotated arguments."""

    def __init__(
        self,
        outputs: int,
        leads: int = 12,
        samples: int = 1000,
        width: Annotated[int, Field(ge=1)] = 8,
        pooling: Literal["mean", "max"] = "mean",
        sizes: list[int] | None = None,
        anything=None,
    ) -> None:
        pass


class Vague:
    def __init__(self, outputs: NoSuchType, **others) -> None:  # type: ignore[name-defined] # noqa: F821
        pass


class Shapeless:
    """A dataset that takes neither leads nor samples nor names of labels."""

    def __init__(self, size: int = 1) -> None:
        pass


@pytest.fixture
def cfg():
    register_resolvers()
    (composed,) = plan(CONF, get_args_parser().parse_args([])).configurations
    return composed


def with_model(cfg, target=Net, **arguments):
    with open_dict(cfg):
        cfg.model = {"_target_": f"{target.__module__}.{target.__qualname__}", "outputs": 5, **arguments}
    return cfg


def refusal(cfg):
    with pytest.raises(UserError) as refused:
        check(cfg)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


@pytest.mark.parametrize(
    "arguments",
    [{}, {"width": 1}, {"pooling": "max"}, {"sizes": [1, 2]}, {"sizes": None}, {"anything": {"a": [1]}}],
)
def test_arguments_that_a_class_of_ones_own_takes_pass(cfg, arguments):
    check(with_model(cfg, **arguments))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"height": 3}, ("model.height", "width", "pooling")),
        ({"width": 0}, ("model.width",)),
        ({"width": "wide"}, ("model.width", "wide")),
        ({"pooling": "min"}, ("model.pooling", "mean", "max")),
        ({"sizes": [1, "b"]}, ("model.sizes",)),
    ],
)
def test_what_a_class_of_ones_own_does_not_take_is_named(cfg, arguments, words):
    sentence = refusal(with_model(cfg, **arguments))
    assert all(word in sentence for word in words)


@pytest.mark.parametrize(("net", "heads"), [(ConvBlocks, 8), (Recurrent, 4)])
def test_hidden_sizes_that_the_heads_do_not_divide_are_named_before_anything_is_built(cfg, net, heads):
    sentence = refusal(with_model(cfg, net, hidden=60, heads=7))
    assert all(word in sentence for word in ("'model.hidden' is 60", "model.heads=7", "56 or 63"))
    assert f"model.heads={heads}" in refusal(with_model(cfg, net, hidden=42))
    check(with_model(cfg, net, hidden=56))


def test_annotations_that_cannot_be_read_are_left_to_the_class(cfg):
    check(with_model(cfg, Vague, whatever="x"))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (None, "_target_"),
        ("nowhere.at.All", "nowhere.at.All"),
        ("collections.NoSuchThing", "collections.NoSuchThing"),
        ("no dots or sense", "no dots or sense"),
    ],
)
def test_a_target_that_cannot_be_imported_is_named(cfg, target, words):
    with open_dict(cfg):
        cfg.model = {"_target_": target} if target else {}
    assert words in refusal(cfg)


def test_a_module_whose_import_fails_is_named_with_its_error(cfg, tmp_path, monkeypatch):
    (tmp_path / "broken_on_import.py").write_text("raise ValueError('no licence today')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with open_dict(cfg):
        cfg.model = {"_target_": "broken_on_import.Net"}
    sentence = refusal(cfg)
    assert "broken_on_import.Net" in sentence
    assert "no licence today" in sentence
    assert "broken_on_import" not in sys.modules


@pytest.mark.parametrize("name", ["leads", "samples"])
@pytest.mark.parametrize("value", [0, "many", None, 1.5])
def test_the_sizes_of_a_dataset_are_positive_whole_numbers(cfg, name, value):
    with open_dict(cfg):
        cfg.dataset = {
            "_target_": f"{__name__}.Shapeless",
            "leads": 2,
            "samples": 10,
            "label_names": ["a"],
            name: value,
        }
    assert f"dataset.{name}" in refusal(with_model(cfg))


def test_a_dataset_need_not_take_its_shape_as_arguments(cfg):
    with open_dict(cfg):
        cfg.dataset = {"_target_": f"{__name__}.Shapeless", "leads": 2, "samples": 10, "label_names": ["a"]}
    check(with_model(cfg))


def test_the_first_of_several_mistakes_is_reported(cfg):
    cfg.lr, cfg.batch_size = -1.0, 0
    assert "lr" in refusal(cfg)


@pytest.mark.parametrize("key", ["lr", "dataset", "scheduler", "early_stopping", "tracking"])
def test_a_missing_key_is_named(cfg, key):
    with open_dict(cfg):
        del cfg[key]
    assert key in refusal(cfg)


@pytest.mark.parametrize("value", ["???", "${no.such.key}"])
def test_what_cannot_be_resolved_is_named(cfg, value):
    with open_dict(cfg):
        cfg.model.width = value
    sentence = refusal(cfg)
    assert "model.width" in sentence


@pytest.mark.parametrize("key", ["lr", "memory_budget", "target.threshold"])
@pytest.mark.parametrize("value", [True, "1", None, float("inf"), float("nan")])
def test_a_number_has_to_be_a_number(cfg, key, value):
    OmegaConf.update(cfg, key, value)
    if (key, value) == ("memory_budget", float("inf")):
        check(cfg)
    else:
        assert key in refusal(cfg)


@pytest.mark.parametrize("value", ["sometimes", None, 2])
def test_compile_is_auto_or_yes_or_no(cfg, value):
    cfg.compile = value
    assert refusal(cfg).startswith("Config key 'compile' is")


@pytest.mark.parametrize(
    ("key", "value"),
    [("lr", 1), ("target.threshold", 0), ("target.threshold", 1), ("memory_budget", 0), ("seed", 2**32 - 1)],
)
def test_the_ends_of_the_ranges_are_allowed(cfg, key, value):
    OmegaConf.update(cfg, key, value)
    check(cfg)


@pytest.mark.parametrize(
    ("key", "name"),
    [("monitor", "val/mlcm_f1/NORM"), ("monitor", "train/loss"), ("objective", "best/train/f1/NORM")],
)
def test_every_metric_may_be_watched_or_aimed_at(cfg, key, name):
    cfg[key] = name
    check(cfg)


# --- records with exactly one label


class Focal:
    """A loss of a user's own, without the attribute `fits`."""


def composed(*words):
    register_resolvers()
    (composed,) = plan(CONF, get_args_parser().parse_args(list(words))).configurations
    return composed


FOLDER = ("dataset=wfdb", "dataset.labels=[N,V]")
ONE_LABEL = (*FOLDER, "target=multiclass")


@pytest.mark.parametrize(
    ("words", "objective"),
    [
        ((), "best/val/mlcm_f1_macro"),
        (FOLDER, "best/val/mlcm_f1_macro"),
        ((*ONE_LABEL, "loss=cross_entropy"), "best/val/f1_macro"),
        ((*ONE_LABEL, "loss=cross_entropy", "objective=best/val/recall/V"), "best/val/recall/V"),
        ((*ONE_LABEL, "loss=cross_entropy", "model=constant"), "best/val/f1_macro"),
    ],
)
def test_the_objective_follows_the_dataset_unless_it_is_chosen(words, objective):
    cfg = composed(*words)
    check(cfg)
    assert cfg.objective == objective


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (ONE_LABEL, ("BinaryCrossEntropy", "exactly one label", "loss=cross_entropy")),
        ((*FOLDER, "loss=cross_entropy"), ("CrossEntropy", "loss=bce", "target=multiclass")),
        (("loss=cross_entropy",), ("CrossEntropy", "loss=bce")),
        ((*ONE_LABEL, "loss=cross_entropy", "objective=best/val/mlcm_f1_macro"), ("objective", "best/val/f1_macro")),
        ((*ONE_LABEL, "loss=cross_entropy", "monitor=val/subset_accuracy"), ("monitor", "val/f1_macro")),
        (("objective=best/val/balanced_accuracy",), ("objective", "best/val/mlcm_f1_macro")),
        ((*ONE_LABEL, "loss=cross_entropy", "loss.beta=1"), ("loss.beta",)),
        ((*ONE_LABEL, "loss=cross_entropy", "loss.class_weights=some"), ("loss.class_weights", "effective_number")),
    ],
)
def test_what_does_not_fit_records_with_exactly_one_label_is_refused(words, named):
    sentence = refusal(composed(*words))
    assert all(word in sentence for word in named), sentence


@pytest.mark.parametrize("words", [FOLDER, ONE_LABEL])
def test_a_loss_of_ones_own_is_for_any_records(words):
    cfg = composed(*words)
    with open_dict(cfg):
        cfg.loss = {"_target_": f"{__name__}.Focal"}
    check(cfg)


@pytest.fixture
def own_conf(tmp_path):
    """A folder with a dataset that chooses its loss, and an experiment that chooses the dataset."""
    dataset = "defaults:\n  - wfdb\n  - override /loss@_global_.loss: cross_entropy\n"
    dataset += "  - override /target@_global_.target: multiclass\nlabels: [N, V]\n"
    experiment = "# @package _global_\ndefaults:\n  - override /dataset: beats\n"
    for name, text in (("dataset/beats", dataset), ("experiment/study", experiment)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.yaml").write_text(text)
    return ("--config-dir", str(tmp_path))


@pytest.mark.parametrize(
    ("words", "loss"),
    [
        (["dataset=beats"], "CrossEntropy"),
        (["dataset=beats", "loss=bce", "target=multilabel"], "BinaryCrossEntropy"),
        (["experiment=study"], "CrossEntropy"),
        (["experiment=study", "loss=bce", "target=multilabel"], "BinaryCrossEntropy"),
        (["experiment=study", "dataset=synthetic"], "BinaryCrossEntropy"),
    ],
)
def test_a_dataset_may_choose_target_and_loss_but_the_command_line_wins(own_conf, words, loss):
    cfg = composed(*own_conf, *words)
    assert cfg.loss._target_ == f"ecgexp.losses.{loss}"
    assert cfg.target._target_ == f"ecgexp.targets.{'MultiClass' if loss == 'CrossEntropy' else 'MultiLabel'}"
    check(cfg)


def test_locate_finds_what_a_target_names():
    assert locate("model", {"_target_": "collections.OrderedDict"}).__name__ == "OrderedDict"
    assert locate("model", {"_target_": f"{__name__}.Net"}) is Net


def test_accepts_knows_named_and_other_keywords():
    assert accepts(Net, "width")
    assert not accepts(Net, "height")
    assert accepts(Vague, "height")


def test_plain_resolves_to_dictionaries_and_lists():
    nested = OmegaConf.create({"a": 1, "b": {"c": "${a}", "d": [1, "${a}"]}})
    values = plain(nested)
    assert values == {"a": 1, "b": {"c": 1, "d": [1, 1]}}
    assert type(values["b"]) is dict
    assert type(values["b"]["d"]) is list


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("from torch import nothing_of_this_name", "ImportError: cannot import name 'nothing_of_this_name'"),
        ("raise OSError('libgomp.so.1: cannot open it')", "OSError: libgomp.so.1: cannot open it"),
        ("class Other: pass", "AttributeError: module 'broken_{number}.nets' has no attribute 'Net'"),
    ],
)
def test_a_module_that_fails_while_it_is_imported_is_reported_with_its_own_error(tmp_path, monkeypatch, body, cause):
    number = abs(hash(body))  # of a package that no other case has imported
    (tmp_path / f"broken_{number}").mkdir()
    (tmp_path / f"broken_{number}" / "__init__.py").write_text("")
    (tmp_path / f"broken_{number}" / "nets.py").write_text(f"{body}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError) as refused:
        locate("model", {"_target_": f"broken_{number}.nets.Net"})
    assert cause.replace("{number}", str(number)) in str(refused.value)


def test_what_is_within_a_class_is_found():
    assert locate("model", {"_target_": "collections.abc.Mapping.get"})


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        (
            "objective",
            [],
            "Config key 'objective' is []: input should be a valid string, or list should have at least 1",
        ),
        (
            "objective",
            None,
            "Config key 'objective' is null: input should be a valid string, or input should be a valid",
        ),
        (
            "sweep",
            None,
            "Config key 'sweep' is null, where keys of its own are expected: leave it out, or set sweep.name=",
        ),
        (
            "early_stopping",
            None,
            "leave it out, or set early_stopping.patience=null or early_stopping.min_delta=VALUE.",
        ),
        (
            "privacy",
            3,
            "Config key 'privacy' is 3, where keys of its own are expected: leave it out, or set privacy.pat",
        ),
        ("scheduler.schedule", 3, "Config key 'scheduler.schedule' is 3, where keys of its own are expected."),
    ],
)
def test_a_refused_value_is_named_by_a_key_that_there_is(cfg, key, value, sentence):
    with open_dict(cfg):
        OmegaConf.update(cfg, key, value, force_add=True)
    message = refusal(cfg)
    assert sentence in message
    assert " _" not in message


@pytest.mark.parametrize("target", ["ecgexp.models", "ecgexp.CONF"])
@pytest.mark.parametrize("group", ["model", "loss", "optimizer", "dataset"])
def test_a_target_that_cannot_be_called_is_named(cfg, group, target):
    with open_dict(cfg):
        cfg[group]._target_ = target
    assert f"Config key '{group}._target_' names '{target}', which is no class and no function." == refusal(cfg)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"width": "8"}, "Config key 'model.width' is '8': input should be a valid integer, and not a text."),
        (
            {"sizes": ["8", "9"]},
            "Config key 'model.sizes' is ['8', '9']: input should be a valid integer, and not a text.",
        ),
    ],
)
def test_a_text_of_digits_is_no_number(cfg, arguments, words):
    assert refusal(with_model(cfg, **arguments)) == words


# --- keys of earlier versions


@pytest.mark.parametrize(
    ("word", "new"),
    [
        ("dataset.task=rhythm", "'dataset.labels'"),
        ("+dataset.task=rhythm", "'dataset.labels'"),
        ("dataset.classes=3", "'dataset.label_names'"),
        ("dataset.multiclass=true", "target=multiclass"),
        ("threshold=0.4", "'target.threshold'"),
        ("model.multiclass=true", "'target'"),
    ],
)
def test_a_key_of_an_earlier_version_on_the_command_line_gets_a_sentence_that_names_the_new_one(word, new):
    register_resolvers()
    with pytest.raises(UserError) as refused:
        plan(CONF, get_args_parser().parse_args([word]))
    sentence = str(refused.value)
    assert word.lstrip("+").partition("=")[0] in sentence and new in sentence
    assert "\n" not in sentence and sentence.endswith(".")


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ("dataset:\n  task: rhythm\n", "dataset.task", "'dataset.labels'"),
        ("dataset:\n  multiclass: true\n", "dataset.multiclass", "target=multiclass"),
        ("threshold: 0.4\n", "threshold", "'target.threshold'"),
        ("model:\n  outputs: ${dataset.classes}\n", "dataset.classes", "'dataset.label_names'"),
        ("seed: ${oc.select:dataset.multiclass,0}\n", "dataset.multiclass", "target=multiclass"),
        ("early_stopping:\n  min_delta: ${threshold}\n", "threshold", "'target.threshold'"),
    ],
)
def test_a_key_of_an_earlier_version_in_a_file_of_ones_own_does_too(tmp_path, text, old, new):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}")
    sentence = refusal(composed("--config-dir", str(tmp_path), "experiment=mine"))
    assert f"'{old}'" in sentence and new in sentence


# --- metrics of one's own


class Hits:
    """A metric of a user's own."""

    higher_is_better = True

    def __call__(self, probabilities, targets):
        return float(((probabilities > 0.5) == (targets == 1)).float().mean())


class Misses(Hits):
    higher_is_better = False


class Undecided(Hits):
    higher_is_better = None


OWN = (f"+metrics.own._target_={__name__}.Misses",)


def test_a_metric_of_ones_own_may_be_monitor_and_objective_and_defines_its_direction():
    cfg = composed(*OWN, "monitor=val/own", "objective=best/train/own")
    check(cfg)
    assert cfg.scheduler.schedule.mode == "min"
    cfg = composed(f"+metrics.own._target_={__name__}.Hits", "monitor=val/own")
    check(cfg)
    assert cfg.scheduler.schedule.mode == "max"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((f"+metrics.own._target_={__name__}.Undecided",), ("metrics.own", "higher_is_better")),
        ((f"+metrics.auroc_macro._target_={__name__}.Hits",), ("metrics.auroc_macro", "choose another")),
        ((*OWN, "monitor=val/others"), ("monitor", "val/others")),
        ((*OWN, "+metrics.own.size=3"), ("metrics.own.size",)),
        (("+callbacks.own._target_=nowhere.Callback",), ("callbacks.own._target_", "nowhere")),
        ((f"target._target_={__name__}.Hits", "~target.threshold"), ("target", "cannot be built")),
        (("dataset.label_names=[A,A]",), ("'A'", "rename")),
        (("dataset.label_names=3",), ("dataset.label_names",)),
        (("monitor=val/f1/XX",), ("monitor", "NORM, STTC")),
        (("objective=best/val/mlcm_f1/NTL",), ("objective", "NORM, STTC")),
    ],
)
def test_wrong_metrics_targets_and_labels_are_refused_before_anything_is_read(words, named):
    sentence = refusal(composed(*words))
    assert all(word in sentence for word in named), sentence


# --- images


def compose_words(*words):
    register_resolvers()
    (composed,) = plan(CONF, get_args_parser().parse_args(list(words))).configurations
    return composed


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("dataset.name=mnist",), ("dataset.name", "mnist", "bloodmnist")),
        (("dataset.name=organmnist3d",), ("dataset.name", "organamnist")),
        (("dataset.split=random",), ("dataset.split", "toffanetto2024")),
        (("dataset.normalize=per_lead",), ("dataset.normalize", "per_channel")),
        (("dataset.size=big",), ("dataset.size",)),
        (("loss=bce",), ("loss=cross_entropy",)),
        (("dataset.height=0",), ("dataset.height",)),
        (("dataset=images", "dataset.root=nowhere"), ("nowhere", "dataset.root")),
        (("dataset=images", "dataset.labels_csv=labels.csv"), ("dataset.labels", "labels.csv")),
        (("dataset=images", "dataset.labels=[a]", "dataset.resize=pad"), ("dataset.resize", "cover")),
        (("dataset=images", "dataset.labels=[a]", "dataset.crop=0"), ("dataset.crop",)),
        (("dataset=synthetic_cells", "dataset.images=3"), ("dataset.images",)),
        (("dataset=synthetic_cells", "model=ribeiro"), ("model=mlp",)),
    ],
)
def test_a_wrong_setting_of_images_is_refused_before_anything_is_read(words, expected):
    chosen = [] if any(word.startswith("dataset=") for word in words) else ["dataset=medmnist"]
    model = [] if any(word.startswith("model=") for word in words) else ["model=cnn"]
    with pytest.raises(UserError) as error:
        check(compose_words(*chosen, *model, *words))
    message = str(error.value)
    assert all(word in message for word in expected)


def test_sizes_and_labels_of_images_follow_the_set():
    cfg = compose_words("dataset=medmnist", "dataset.name=pneumoniamnist", "dataset.size=64", "model=cnn")
    found = cfg.dataset
    assert (found.channels, found.height, found.width, list(found.label_names)) == (1, 64, 64, ["normal", "pneumonia"])
    assert cfg.objective == "best/val/f1_macro"


def test_the_sub_folders_of_images_are_their_labels(tmp_path):
    for name in ("dog", "cat", ".hidden"):
        (tmp_path / name).mkdir()
    cfg = compose_words("dataset=images", f"dataset.root={tmp_path}", "model=cnn")
    assert list(cfg.dataset.label_names) == ["cat", "dog"] and cfg.model.outputs == 2
