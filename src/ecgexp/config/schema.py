"""Checks the composed configuration before data are read or a trial is trained."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

from ecgexp.config.components import build_target
from ecgexp.config.upgrade import refuse_old_keys
from ecgexp.errors import UserError, first_line, summarised
from ecgexp.metrics.names import COSTS, escape_labels
from ecgexp.paths import check_address
from ecgexp.targets import Target
from ecgexp.tracking.names import best_metric, split_metric

# A net and its target need these keys of a dataset. They are part of every dataset's config. They are passed to its
# constructor only if it takes them, and compared with the data after loading.
SIZES = {
    "lead": "leads",
    "time": "samples",
    "channel": "channels",
    "row": "height",
    "column": "width",
    "feature": "features",
}
"""Config keys of a dataset for the lengths of the axes of its inputs."""
DATA_SHAPE = tuple(SIZES.values())
DATA_KEYS = (*DATA_SHAPE, "label_names")

REPETITIONS = ("seed", "dataset.val_fold")
"""Keys whose values repeat a trial: the same settings with other random numbers or records."""

# Splits that a trial measures.
MEASURED = ("train", "val")
Component = dict[str, Any]
Name = Annotated[str, Field(pattern=r"^[\w.-]+$")]
# Keys of the trainer group in conf/. A user may add other arguments of Lightning's Trainer.
_TRAINER_KEYS = {"accelerator", "devices", "strategy", "threads"}
_NO_TEXT = {"int_type", "float_type", "bool_type"}
SPECIAL = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


class Checked(BaseModel):
    """A config group that refuses unknown keys and wrong types."""

    model_config = ConfigDict(extra="forbid", strict=True)


Model = TypeVar("Model", bound=Checked)


class _Schedule(Checked):
    interval: Literal["epoch", "step"]
    schedule: Component | None


class _EarlyStopping(Checked):
    patience: Annotated[int, Field(ge=1)] | None
    min_delta: Annotated[float, Field(ge=0)]


class _Init(Checked):
    run: Annotated[str, Field(min_length=1)] | None
    freeze: list[Annotated[str, Field(min_length=1)]]
    reset: list[Annotated[str, Field(min_length=1)]]


class _Tracking(Checked):
    root: str
    uri: str | None
    experiment: Annotated[str, Field(min_length=1)]
    log_model: Literal["all", "best", "none"]
    system_metrics: bool
    patience: Annotated[float, Field(ge=0)]


class _Sweep(Checked):
    name: Annotated[str, Field(min_length=1, pattern=r"^[\w.-]+$")] | None
    max_retries: Annotated[int, Field(ge=0)]
    max_failures: Annotated[int, Field(ge=1)] | None
    jobs_per_gpu: Annotated[int, Field(ge=1)]


class _Privacy(Checked):
    patients: Literal["hash", "keep"]


class _Trial(Checked):
    dataset: Component
    target: Component
    model: Component
    loss: Component
    optimizer: Component
    scheduler: _Schedule
    metrics: dict[Name, Component]
    callbacks: dict[Name, Component]
    statistics: dict[Name, Component]
    trainer: dict[str, Any]
    tracking: _Tracking
    sweep: _Sweep
    privacy: _Privacy
    resume: bool
    early_stopping: _EarlyStopping
    init: _Init
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    batch_size: Annotated[int, Field(ge=1)]
    max_epochs: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    precision: Literal[32, "bf16-mixed", "16-mixed", "auto"]
    compile: Literal["auto", True, False]
    fast: bool
    monitor: str
    objective: str | Annotated[list[str], Field(min_length=1)]
    memory_budget: Annotated[float, Field(ge=0)]
    cache_dir: str


def check(cfg: DictConfig) -> None:
    """Refuse a configuration that cannot be trained.

    Raises
    ------
    UserError
        For the first unknown key, wrong type or impossible value, naming its key.
    """
    refuse_old_keys(OmegaConf.to_container(cfg, resolve=False))
    try:
        values = plain(cfg)
    except MissingMandatoryValue as error:
        raise UserError(f"Config key '{error.full_key}' has no default: set it, {error.full_key}=VALUE.") from error
    except OmegaConfBaseException as error:
        missing = next((size for size in DATA_SHAPE if f"'dataset.{size}' not found" in str(error)), None)
        if missing is not None:
            raise UserError(
                f"Config key '{error.full_key}' is that of 'dataset.{missing}', which this dataset does not have: "
                "choose a net for its kind of record, or model=mlp, which takes any."
            ) from error
        message = summarised(error).rstrip(".")
        raise UserError(f"Config key '{error.full_key}' cannot be resolved: {message}.") from error
    validated(_Trial, values)
    check_address(values["tracking"]["uri"])
    _check_init(values["init"])
    _check_component("dataset", values["dataset"])
    for name in DATA_SHAPE:
        if name in values["dataset"]:
            _check_size(name, values["dataset"][name])
    _check_label_names(values["dataset"].get("label_names"))
    _check_component("target", values["target"])
    for group in ("metrics", "callbacks", "statistics"):
        for name, component in values[group].items():
            _check_component(f"{group}.{name}", component)
    target = build_target(cfg)
    for group in ("model", "loss", "optimizer"):
        _check_component(group, values[group])
    _check_loss(values["loss"], target)
    if values["scheduler"]["schedule"] is not None:
        _check_component("scheduler.schedule", values["scheduler"]["schedule"])
    _check_trainer(values["trainer"], values["batch_size"])
    _check_metric("monitor", values["monitor"], tuple(split_metric(split, "") for split in MEASURED), target)
    first, *others = objectives(cfg)
    for objective in (first, *(other for other in others if other not in COSTS)):
        _check_metric("objective", objective, tuple(best_metric(split, "") for split in MEASURED), target)


def objectives(cfg: DictConfig) -> list[str]:
    """Metrics that a trial returns to the sweeper; the first ranks the trials of a sweep."""
    return [cfg.objective] if isinstance(cfg.objective, str) else list(cfg.objective)


def validated(model: type[Model], values: dict[str, Any], key: str = "") -> Model:
    """Values of a config group, checked against a model.

    Raises
    ------
    UserError
        For the first unknown key or wrong value, naming its key below `key`.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(_sentence(key, values, error)) from error


def locate(group: str, component: Component) -> Callable[..., Any]:
    """Class or function that a component's ``_target_`` names.

    Raises
    ------
    UserError
        If there is no ``_target_``, or it cannot be imported or called.
    """
    target = component.get("_target_")
    if not isinstance(target, str):
        raise UserError(f"Config key '{group}' needs a '_target_' that names a class, such as 'mypackage.MyNet'.")
    found = find(f"Config key '{group}._target_'", target)
    if not callable(found):
        raise UserError(f"Config key '{group}._target_' names '{target}', which is no class and no function.")
    return found


def find(key: str, name: str) -> Any:
    """Import the object of a dotted name.

    Parameters
    ----------
    key : str
        Config key of the name, for the error message.
    name : str
        Such as 'mypackage.nets.MyNet'.

    Raises
    ------
    UserError
        With the true cause: if a module fails, ``pkgutil.resolve_name`` would say that it does not exist.
    """
    parts = name.split(".")
    try:
        for end in range(1, len(parts)):
            module = ".".join(parts[:end])
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as error:
                if error.name != module or end == 1:
                    raise
                break  # the name continues with an attribute of a class
        return pkgutil.resolve_name(name)
    except Exception as error:  # a user's module may raise anything
        raise UserError(f"{key} names '{name}', which cannot be imported: {first_line(error).rstrip('.')}.") from error


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A configuration as plain dictionaries and lists, resolved."""
    values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    return {str(key): value for key, value in values.items()} if isinstance(values, dict) else {}


def accepts(target: Callable[..., Any], name: str) -> bool:
    """Whether `target` can be called with the keyword `name`."""
    parameters = inspect.signature(target).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _check_component(group: str, component: Component) -> None:
    target = locate(group, component)
    signature = inspect.signature(target)
    hints = _hints(target)
    for key, value in component.items():
        if key in SPECIAL or (group == "dataset" and key in DATA_KEYS):
            continue
        if not accepts(target, key):
            known = ", ".join(signature.parameters)
            raise UserError(f"Unknown config key '{group}.{key}': {component['_target_']} takes {known}.")
        if key in hints and not isinstance(value, dict):
            _check_type(f"{group}.{key}", value, hints[key])
    if hasattr(target, "check_arguments"):  # conditions on several arguments
        target.check_arguments(**{key: value for key, value in component.items() if key not in SPECIAL})


def _check_size(name: str, value: Any) -> None:
    """Refuse a value that is neither the length of an axis nor a mapping of inputs to lengths."""
    for key, size in value.items() if isinstance(value, dict) else [("", value)]:
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            key = f"dataset.{name}.{key}".rstrip(".")
            raise UserError(f"Config key '{key}' must be a positive whole number, but is {size!r}.")


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # annotations that only a type checker can read
        return {}


def _check_type(key: str, value: Any, hint: Any) -> None:
    try:
        adapter = TypeAdapter(hint)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):  # not a plain type, e.g. a Tensor
        return
    try:
        adapter.validate_python(value, strict=False)
    except ValidationError as error:
        raise UserError(_sentence(key, value, error)) from error
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError as error:
        # Pydantic may convert a value to a list or a path, but must not convert a text or a bool to a number.
        wrong = [one for one in error.errors() if one["type"] in _NO_TEXT and isinstance(one["input"], str | bool)]
        if len(wrong) == error.error_count():
            message = wrong[0]["msg"][0].lower() + wrong[0]["msg"][1:]
            other = "a text" if isinstance(wrong[0]["input"], str) else "true or false"
            raise UserError(f"Config key '{key}' is {value!r}: {message}, and not {other}.") from error


def _check_trainer(trainer: dict[str, Any], batch_size: int) -> None:
    added = trainer.keys() - _TRAINER_KEYS
    if added:  # imported only here: it takes 2 s, and a sweep's own process does not need it
        from pytorch_lightning import Trainer

        for key in sorted(added):
            if not accepts(Trainer, key):
                raise UserError(f"Unknown config key 'trainer.{key}': it is no argument of Lightning's Trainer.")
    threads, devices = trainer.get("threads"), trainer.get("devices")
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise UserError(f"Config key 'trainer.threads' must be null or a positive whole number, but is {threads!r}.")
    if not isinstance(devices, int) or isinstance(devices, bool) or devices < 1:
        raise UserError(f"Config key 'trainer.devices' must be a positive whole number, but is {devices!r}.")
    if batch_size % devices:
        raise UserError(
            f"Config key 'batch_size' is {batch_size}, which trainer.devices={devices} cannot share equally."
        )


def _check_init(init: dict[str, Any]) -> None:
    """Refuse to freeze or reset what starts anew in any case."""
    for key in ("freeze", "reset"):
        if init[key] and init["run"] is None:
            raise UserError(
                f"Config key 'init.{key}' is [{', '.join(init[key])}], but there are no weights to start from: name "
                "their run with init.run, or leave it out."
            )


def _check_label_names(names: Any) -> None:
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int) for name in names):
        raise UserError(f"Config key 'dataset.label_names' must name the labels, in order, but is {names!r}.")
    escape_labels([str(name) for name in names])


def _check_loss(loss: Component, target: Target) -> None:
    fits = getattr(locate("loss", loss), "fits", (target.kind,))  # a user's loss may not define it
    if target.kind not in fits:
        raise UserError(
            f"The loss {loss['_target_']} does not fit target={target.kind}, {target.records}: choose "
            f"loss={target.default_loss}, or target={' or '.join(fits)} where the records are such."
        )


def _check_metric(key: str, value: str, prefixes: tuple[str, ...], target: Target) -> None:
    prefix = next((p for p in prefixes if value.startswith(p)), None)
    name = value.removeprefix(prefix or "")
    if prefix is not None and target.find_metric(name) is not None:
        return
    first, slash, _ = name.partition("/")
    if prefix is not None and slash and first in [one.name for one in target.all_metrics() if one.per_output]:
        known = ", ".join(escape_labels(target.names))
        raise UserError(f"Config key '{key}' is '{value}', but the labels are {known}.")
    starts = " or ".join(f"'{p}'" for p in prefixes)
    raise UserError(
        f"Config key '{key}' is '{value}', which no trial measures on {target.records}: "
        f"it is {starts} and a metric, such as '{prefixes[-1]}{target.main_metric}'"
        + (f", or beside that one of {', '.join(COSTS)}." if key == "objective" else ".")
    )


def _sentence(key: str, values: Any, error: ValidationError) -> str:
    first, *others = error.errors()
    path = ".".join([key] * bool(key) + _keys(first["loc"], values))
    if first["type"] == "extra_forbidden":
        return f"Unknown config key '{path}': python -m ecgexp --cfg job shows the known keys."
    if first["type"] == "missing":
        return f"Config key '{path}' is missing."
    given = "null" if first["input"] is None else repr(first["input"])
    if first["type"] in ("model_type", "dict_type"):
        return f"Config key '{path}' is {given}, where keys of its own are expected{_examples(path)}."
    # A value that may be of several types has an error for each of them.
    same = [
        one
        for one in others
        if one["loc"][:1] == first["loc"][:1] and _keys(one["loc"], values) == _keys(first["loc"], values)
    ]
    reasons = dict.fromkeys(one["msg"][0].lower() + one["msg"][1:] for one in (first, *same))
    return f"Config key '{path}' is {given}: {', or '.join(reasons)}."


def _keys(place: tuple[int | str, ...], values: Any) -> list[str]:
    """The keys in a location of `values`; other parts are types or item numbers."""
    keys = []
    for part in place:
        if not isinstance(values, dict):
            break
        keys.append(str(part))
        values = values.get(part)
    return keys


def _examples(group: str) -> str:
    field = _Trial.model_fields.get(group)
    model = field.annotation if field else None
    if not (isinstance(model, type) and issubclass(model, Checked)):
        return ""
    names = [
        f"{group}.{name}={'null' if type(None) in get_args(inner.annotation) else 'VALUE'}"
        for name, inner in model.model_fields.items()
    ]
    return f": leave it out, or set {' or '.join(names)}"
