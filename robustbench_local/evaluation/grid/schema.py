"""The schema of a grid file: models, data, defenses, attacks and gates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from robustbench_local.classifier.abstention_declaration import parse_abstention
from robustbench_local.classifier.literals import BINARY_OUTPUT_REMEDY, Precision
from robustbench_local.config.display_names import check_display_name
from robustbench_local.config.gate_entry import GateEntry, check_gate_ids
from robustbench_local.config.strict_yaml import StrictModel, parse_yaml, read_yaml, validate
from robustbench_local.errors import ConfigError, did_you_mean
from robustbench_local.evaluation.grid.data_entries import DataEntry, Size, TrainingEntry
from robustbench_local.evaluation.grid.declarations import Declarations
from robustbench_local.evaluation.grid.example_grids import read_example
from robustbench_local.evaluation.grid.preprocessing_entry import PreprocessingEntry
from robustbench_local.evaluation.grid.stop_entry import Stop
from robustbench_local.evaluation.grid.twin_checks import check_twin, expand_twin
from robustbench_local.models.endpoint_options import EndpointOptions, remove_credentials

MAX_NAME_LENGTH = 100
"""Longest id of a model or name of a grid: they become file names."""

NO_DEFENSE = "none"
"""The entry in a list of defenses that means the baseline model."""

DisplayName = Annotated[str, AfterValidator(check_display_name)]
"""The name of an entry in tables: printable and short. It affects neither verdicts nor cells."""
PREPROCESSING_SETTINGS = ("normalize", "input_size", "preprocessing")
"""Keys of a model that say how it takes its images."""
Normalization = str | dict[Literal["mean", "std"], list[float]]


class _PlainDumper(yaml.SafeDumper):
    """Writes a repeated value out instead of an alias, which the grid reader would refuse."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        return True


class DefenseEntry(StrictModel):
    """A defense: a card or ``none``, and parameters that override the card."""

    model_config = ConfigDict(extra="allow", frozen=True)

    card: str
    """Name of a defense's card, or ``none``. Every other key overrides a parameter of the card."""
    name: DisplayName | None = None
    """Label in tables and figures. Gates refer to the card's name."""

    @property
    def overrides(self) -> dict[str, Any]:
        """The parameters that override the card's."""
        return dict(self.model_extra or {})

    def dump_entry(self) -> str | dict[str, Any]:
        """Return the entry as written in a grid file."""
        named = {} if self.name is None else {"name": self.name}
        changes = {**named, **self.overrides}
        return {"card": self.card, **changes} if changes else self.card


def _expand_card_names(entries: Any) -> Any:
    """Expand a card without overrides that is written as its bare name."""
    if not isinstance(entries, list):
        return entries
    return [{"card": entry} if isinstance(entry, str) else entry for entry in entries]


Defenses = Annotated[list[DefenseEntry], BeforeValidator(_expand_card_names), Field(min_length=1)]


def _check_class_count(value: Any) -> Any:
    """Refuse a single class: one output is not one class."""
    if value in (1, "1"):
        raise ValueError(
            f"a classifier has at least 2 classes; {BINARY_OUTPUT_REMEDY}, and leave num_classes out"
        )
    return value


def _check_abstention(declared: Any) -> Any:
    """Refuse a declaration of rejected images that cannot be read."""
    try:
        parse_abstention(declared)
    except ConfigError as error:
        raise ValueError(f"{error.what}; {error.remedy}") from None
    return declared


class ModelEntry(StrictModel):
    """A classifier: its source, how it is loaded, and the attacker's access to it."""

    id: Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)]
    """Name of the model in gates, CSV files and file names; unique in the grid."""
    name: DisplayName | None = None
    """Label in tables and figures. Gates refer to the id."""
    source: str
    """Where the model comes from: ``torchvision:NAME``, ``timm:NAME``, ``hf:FOLDER``, ``clip:FOLDER``,
    ``checkpoint:FILE``, ``python:FILE.py:NAME``, ``maite:FILE.py:NAME``, ``torchscript:FILE.pt``,
    ``export:FILE.pt2``, ``onnx:FILE.onnx``, ``litert:FILE.tflite``, ``openvino:FILE.xml``, ``http(s)://...``
    or ``zoo:NAME``."""
    weights: str | None = None
    """A weights file, or the name of published weights such as ``DEFAULT``; random weights if it is left
    out."""
    entry: str | None = None
    """Which part of a weights file to load, as a dotted path, where several parts fit."""
    architecture: str | None = None
    """The network that a checkpoint belongs to: ``torchvision:NAME``, ``timm:NAME``, ``hf:FOLDER``, or a name
    from ``rbl list models``."""
    num_classes: Annotated[int, BeforeValidator(_check_class_count), Field(ge=2)] | None = None
    """Number of classes; by default read from the weights, else the data's number."""
    normalize: Normalization | None = None
    """``imagenet``, ``cifar10``, ``none``, or ``{mean: [...], std: [...]}``. It is applied inside the
    model; attacks work on pixels in [0, 1]."""
    input_size: Size | None = None
    """Side, or ``[height, width]``, that the network takes; other images are resized inside,
    differentiably."""
    preprocessing: PreprocessingEntry | None = None
    """What else differs from the preprocessing of the source: ``{interpolation: bicubic, resize: 256}``,
    ``{channel_order: bgr, value_scale: 255}``."""
    class_names: list[str] | None = None
    """One name for each output; lets labels be matched by name."""
    access: Literal["gradients", "scores", "labels"] | None = None
    """What an attacker may use: ``gradients``, ``scores`` or ``labels``."""
    output: str | int | None = None
    """Which entry of a tuple or dict holds the logits. For a model with one output: ``sigmoid`` or
    ``logit``."""
    abstain: Annotated[Any, BeforeValidator(_check_abstention)] = None
    """How the model rejects images, if it does: ``last`` or the index of the rejecting output, ``nan`` for
    logits of NaN, or ``{output: ENTRY, threshold: 0.5}`` for an entry of a tuple or dict that accepts. A
    rejected clean image is not correct, and an attack succeeds only on an accepted one. ``num_classes`` is
    without the rejecting output."""
    sha256: str | None = None
    """SHA-256 that the weights file must have."""
    revision: str | None = None
    """Commit of a repository on the Hugging Face hub; a branch or tag is resolved and recorded."""
    templates: Annotated[list[str], Field(min_length=1)] | None = None
    """Prompts of ``clip:``, each with ``{}`` for the name of a class; by default ``a photo of a {}.``"""
    trust_pickle: str | None = None
    """``sha256:HASH`` of a pickle, a TorchScript archive or an exported program whose origin you trust; no
    other one is loaded, unless ``--allow-code`` allows programs."""
    endpoint: EndpointOptions | None = None
    """How an HTTP service is called."""
    defenses: Defenses | None = None
    """Defenses of this model only, in place of the grid's list."""
    twin: Annotated[ModelEntry | None, BeforeValidator(expand_twin)] = None
    """The float network that this model was made from: the id of another model, a source, or a mapping of
    model keys. Attacks search with its gradients; success is decided by this model."""
    twin_queries: Annotated[int, Field(ge=0)] | None = None
    """Queries of this model for each image that the search through the twin leaves; by default 500."""

    def list_preprocessing(self) -> dict[str, Any]:
        """Return the preprocessing that the entry sets, as the arguments of `load_classifier`."""
        normalize, size = self.normalize, self.input_size
        return {
            "normalize": (normalize["mean"], normalize["std"]) if isinstance(normalize, dict) else normalize,
            "input_size": (size, size) if isinstance(size, int) else size,
            "preprocessing": self.preprocessing and self.preprocessing.list_values(),
        }


class AttackEntry(StrictModel):
    """An attack or certificate: a card, its overrides, and the images and models it runs on."""

    model_config = ConfigDict(extra="allow", frozen=True)

    card: str
    """Name of a card, of a method such as ``pgd``, or of an attack of another library such as
    ``torchattacks:MIFGSM``. Every other key overrides the card's threat model or a hyper-parameter;
    ``eps`` may be a list."""
    name: DisplayName | None = None
    """Label in tables and figures. Gates refer to the identifier."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Run the attack on at most this many of the images, as even over the classes as possible."""
    transfer_from: str | None = None
    """Id of the surrogate model on which the adversarial examples are crafted."""
    models: Annotated[list[str], Field(min_length=1)] | None = None
    """Ids of the models to attack; by default all."""
    each_target: bool = False
    """Pursue a goal of several target classes as one set, and each target alone."""
    test_views: Annotated[int, Field(ge=1)] | None = None
    """Stickers and patches: number of held-out views of each sign that decide the result."""

    @property
    def overrides(self) -> dict[str, Any]:
        """The parameters that override the card's."""
        return dict(self.model_extra or {})

    @property
    def settings(self) -> dict[str, Any]:
        """The keys that do not concern the card's content."""
        return self.model_dump(include=set(AttackEntry.model_fields))


Cost = Annotated[float, Field(ge=0, le=1)]


class Grid(StrictModel):
    """A whole grid file."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    """Version of the file format."""
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)] | None = None
    """Name of the run; by default the file's name. The run directory is ``runs/NAME``."""
    question: str | None = None
    """The question at the top of the report."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of every random choice."""
    data: DataEntry
    """The images to evaluate on."""
    training: TrainingEntry | None = None
    """The images to train on; needed only if ``defenses`` holds a training recipe."""
    models: Annotated[list[ModelEntry], Field(min_length=1)]
    """The models to evaluate."""
    defenses: Defenses = Field(default_factory=lambda: [DefenseEntry(card=NO_DEFENSE)])
    """Cards of defenses, or ``none`` for the model without a defense. Each entry is a variant of every
    model."""
    attacks: Annotated[list[AttackEntry], BeforeValidator(_expand_card_names), Field(min_length=1)]
    """Cards of attacks and certificates."""
    gates: list[GateEntry] = Field(default_factory=list)
    """Limits that decide the exit code."""
    stop: Stop | None = None
    """When the run ends before its last image: ``decided``, once the images left cannot change the verdict
    of any gate, or ``{precision: 2%}``; by default it runs on all images."""
    severity: Annotated[dict[int | str, Cost], Field(min_length=1)] | None = None
    """Cost between 0 and 1 of misclassifying an image as each class, for targeted attacks."""
    gallery: Annotated[int, Field(ge=0)] = 8
    """Number of adversarial examples of each cell that are kept as images."""
    search_precision: Precision = "fp32"
    """``bf16`` lets attacks search in bfloat16; every success is verified in float32."""
    skip_verified: bool = False
    """Whether attacks leave out images that a certificate has already proven robust."""
    declared: Declarations | None = None
    """Statements for the checklist of the report, and the clean accuracies that models should have. They
    decide no verdict."""
    allow_batch_dependence: bool = False
    """Whether to run models whose output depends on the rest of the batch or on earlier calls; every
    number is marked."""

    @model_validator(mode="after")
    def _check_ids(self) -> Grid:
        ids = [model.id for model in self.models]
        twice = sorted({model_id for model_id in ids if ids.count(model_id) > 1})
        if twice:
            raise ValueError(f"the model id {twice[0]!r} is used twice")
        for entry in self.attacks:
            if entry.transfer_from is not None:
                _check_surrogate_id(entry.transfer_from, ids)
            for name in entry.models or ():
                if name not in ids:
                    raise ValueError(f"{entry.card} names the model {name!r}; {did_you_mean(name, ids)}")
        _check_names_differ("attacks", [(entry.name, None) for entry in self.attacks])
        _check_names_differ("models", [(entry.name, entry.id) for entry in self.models])
        for where, entries in self._list_defense_lists():
            _check_names_differ(where, [(entry.name, entry.card) for entry in entries])
        for model in self.models:
            check_twin(model, ids)
        for gate in self.gates:
            if gate.model is not None and gate.model not in ids:
                raise ValueError(f"a gate names the model {gate.model!r}; {did_you_mean(gate.model, ids)}")
        check_gate_ids(self.gates)
        for name in self.declared.clean_accuracy if self.declared else ():
            if name not in ids:
                raise ValueError(f"declared names the model {name!r}; {did_you_mean(name, ids)}")
        return self

    def _list_defense_lists(self) -> list[tuple[str, list[DefenseEntry]]]:
        """Return the lists of defenses, each with its key in the grid."""
        own = [(f"model {entry.id!r}, defenses", entry.defenses) for entry in self.models if entry.defenses]
        return [("defenses", self.defenses), *own]

    def dump_resolved(self) -> dict[str, Any]:
        """Return the grid as plain data, with every default and without credentials of services."""
        content = self.model_dump(mode="json", by_alias=True)
        for model, entry in zip(content["models"], self.models, strict=True):
            model["source"] = remove_credentials(model["source"])
            if model["twin"] is not None:
                model["twin"]["source"] = remove_credentials(model["twin"]["source"])
            model["defenses"] = None if entry.defenses is None else _dump_defenses(entry.defenses)
        content["defenses"] = _dump_defenses(self.defenses)
        content["attacks"] = [{**entry.settings, **entry.overrides} for entry in self.attacks]
        return content

    def dump_without_names(self) -> dict[str, Any]:
        """Return the same without the table names of entries, which affect no verdict."""
        content = self.dump_resolved()
        for model in content["models"]:
            model["defenses"] = model["defenses"] and [_drop_name(entry) for entry in model["defenses"]]
        named = {
            key: [_drop_name(entry) for entry in content[key]] for key in ("models", "attacks", "defenses")
        }
        return content | named

    def to_yaml(self) -> str:
        """Return the resolved grid as YAML text."""
        return yaml.dump(self.dump_resolved(), Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)


def load_grid(source: Path | str | dict[str, Any] | None) -> tuple[Grid, Path]:
    """Read a grid file, a mapping, or the embedded grid.

    Args:
        source: A file; a mapping with the same content; None for the embedded grid.

    Returns:
        The grid, named after its file if it has no name, and the folder that its relative paths start from.

    Raises:
        ConfigError: If the file cannot be read or is wrong; the message names the key and its line.
    """
    if isinstance(source, dict):
        return _set_default_name(validate(Grid, source, where="grid", error=ConfigError), "grid"), Path.cwd()
    if source is None:
        content = parse_yaml(read_example("signs"), where="the embedded grid", error=ConfigError)
        return _set_default_name(
            validate(Grid, content, where="the embedded grid", error=ConfigError), "signs"
        ), Path.cwd()
    path = Path(source)
    content = read_yaml(path, ConfigError)
    return _set_default_name(
        validate(Grid, content, where=str(path), error=ConfigError), path.stem
    ), path.resolve().parent


def _check_surrogate_id(surrogate: str, ids: list[str]) -> None:
    """Refuse a ``transfer_from`` that names no model of the grid, or the only one."""
    if surrogate not in ids:
        raise ValueError(f"transfer_from names the model {surrogate!r}; {did_you_mean(surrogate, ids)}")
    if len(ids) == 1:
        raise ValueError("transfer_from needs a second model to evaluate the candidates on")


def _check_names_differ(where: str, entries: list[tuple[str | None, str | None]]) -> None:
    """Refuse a name that two entries of a list share, or that is another entry's id.

    Args:
        where: Name of the list, for messages.
        entries: Name and id of each entry.
    """
    for position, (name, _) in enumerate(entries):
        others = [taken for index, taken in enumerate(entries) if index != position]
        if name is not None and any(name in taken for taken in others):
            raise ValueError(f"{where}: the name {name!r} is used twice")


def _dump_defenses(defenses: list[DefenseEntry]) -> list[str | dict[str, Any]]:
    return [entry.dump_entry() for entry in defenses]


def _drop_name(entry: str | dict[str, Any]) -> str | dict[str, Any]:
    """Return the entry as it would be dumped without its name."""
    if isinstance(entry, str):
        return entry
    content = {key: value for key, value in entry.items() if key != "name"}
    return str(content["card"]) if list(content) == ["card"] else content


def _set_default_name(grid: Grid, name: str) -> Grid:
    return grid if grid.name else grid.model_copy(update={"name": name[:MAX_NAME_LENGTH]})
