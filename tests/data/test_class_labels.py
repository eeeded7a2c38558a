"""Labels of the data against the classes of the model, and class names in cards."""

from __future__ import annotations

import pytest
import torch

from robustbench_local.config.class_lookup import resolve_classes
from robustbench_local.data.class_labels import fit_labels
from robustbench_local.data.dataset import Dataset, as_dataset, build_class_names
from robustbench_local.errors import ConfigError, DataError

IMAGENET = ("tench", "goldfish", "English springer", *(f"thing {index}" for index in range(3, 1000)))


def make(labels, class_names, **changes) -> Dataset:
    return Dataset(
        images=torch.zeros(len(labels), 3, 4, 4),
        labels=torch.tensor(labels),
        ids=tuple(f"made/{row}" for row in range(len(labels))),
        class_names=tuple(class_names),
        name="made",
        **changes,
    )


def signs(count=43):
    return tuple(f"sign {index}" for index in range(count))


def test_named_data_and_a_nameless_model_of_the_same_size_keep_indices_and_the_datas_names():
    data = make([14, 1, 42], signs())
    fitted = fit_labels(data, 43)
    assert fitted.labels.tolist() == [14, 1, 42]
    assert fitted.class_names == signs()
    assert fitted.notes == ()


def test_labels_with_gaps_are_kept_where_the_counts_agree():
    fitted = fit_labels(make([0, 14, 40], signs()), 43, signs())
    assert fitted.labels.tolist() == [0, 14, 40]
    assert fitted.label_map == {"sign 0": 0, "sign 14": 14, "sign 40": 40}


def test_folders_are_found_in_imagenet_by_name():
    data = make([0, 1, 2, 2], ["english_springer", "Goldfish", "tench"], label_map={"a": 0, "b": 1, "c": 2})
    fitted = fit_labels(data, 1000, IMAGENET)
    assert fitted.labels.tolist() == [2, 1, 0, 0]
    assert fitted.class_names == IMAGENET
    assert fitted.label_map == {"a": 2, "b": 1, "c": 0}
    assert "by name" in fitted.notes[-1]


def test_one_of_several_synonyms_is_enough():
    names = ("goldfish, Carassius auratus", "tench, Tinca tinca", "tinca tinca", "crane", "crane, lifter")
    fitted = fit_labels(make([0, 1, 2], ["Carassius auratus", "tench", "Tinca_tinca"]), 5, names)
    assert fitted.labels.tolist() == [0, 1, 2]  # the whole name comes first
    with pytest.raises(DataError, match="the data has 2 classes"):
        fit_labels(make([0, 1], ["crane", "auratus"]), 5, names)
    with pytest.raises(DataError, match=r"'fish' matches 2 .* \[0, 1\]"):
        fit_labels(make([2, 1], ["a", "tench", "fish"]), 3, ("fish, a", "fish, b", "tench"))


def test_the_same_names_in_another_order_are_matched_by_name():
    fitted = fit_labels(make([0, 1, 2], ["bird", "cat", "dog"]), 3, ["dog", "cat", "bird"])
    assert fitted.labels.tolist() == [2, 1, 0]
    assert fitted.class_names == ("dog", "cat", "bird")


def test_the_same_names_in_the_same_order_need_no_note():
    assert fit_labels(make([0, 1], ["cat", "dog"]), 2, ["cat", "dog"]).notes == ()


def test_three_unknown_folders_and_imagenet_are_refused_with_the_remedy():
    with pytest.raises(DataError) as caught:
        fit_labels(make([0, 1, 2], ["apple", "pear", "plum"]), 1000, IMAGENET)
    message = str(caught.value)
    assert "3 classes (apple, pear, plum)" in message
    assert "1000 (tench, goldfish, English springer, ...)" in message
    assert "num_classes 3" in message
    assert "\n" not in message


def test_named_data_with_fewer_classes_than_a_nameless_model_is_refused():
    with pytest.raises(DataError, match=r"model has 1000 \(without names\)"):
        fit_labels(make([0, 1, 2], ["apple", "pear", "plum"]), 1000)


def test_the_remedy_counts_the_names_of_the_data_and_not_those_that_occur():
    with pytest.raises(DataError) as caught:
        fit_labels(make([3, 7, 14], signs()), 3)
    message = str(caught.value)
    assert "the data has 43 classes (" in message
    assert "; 3 occur) and the model has 3 (without names)" in message
    assert "Give the model class_names" in message
    assert message.endswith("or load a model with num_classes 43")
    names = [signs()[label] for label in (3, 7, 14)]
    assert fit_labels(make([3, 7, 14], signs()), 3, names).labels.tolist() == [0, 1, 2]


def test_numbers_below_the_models_classes_are_its_indices():
    data = as_dataset((torch.zeros(3, 3, 4, 4), torch.tensor([0, 7, 3])))
    fitted = fit_labels(data, 43, signs())
    assert fitted.labels.tolist() == [0, 7, 3]
    assert fitted.class_names == signs()
    assert fit_labels(data, 43).class_names == build_class_names(43)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["1", "2", "0"], [2, 0, 1]),
        (["background", "0", "1", "2"], [1, 2, 3]),
        (["1", "2", "3"], [0, 1, 2]),  # numbered from 1, or nobody knows
        (["0", "0", "1"], [0, 1, 2]),
    ],
)
def test_a_model_whose_names_are_numbers_says_which_output_is_which_class(names, expected):
    data = as_dataset((torch.zeros(3, 3, 4, 4), torch.arange(3)))
    fitted = fit_labels(data, len(names), names)
    assert fitted.labels.tolist() == expected
    assert fitted.class_names == tuple(names)


def test_as_many_numbers_as_classes_close_their_gaps_with_a_note():
    data = as_dataset((torch.zeros(4, 3, 4, 4), torch.tensor([30, 10, 20, 10])))
    fitted = fit_labels(data, 3)
    assert fitted.labels.tolist() == [2, 0, 1, 0]
    assert fitted.class_names == ("10", "20", "30")
    assert fitted.label_map == {"10": 0, "20": 1, "30": 2}
    assert "numbered 0 to 2" in fitted.notes[-1]


def test_the_gaps_are_those_of_the_source_not_of_the_choice():
    everything = {str(label): label for label in range(100)}
    chosen = make([5, 50, 99], build_class_names(100), label_map=everything)
    with pytest.raises(DataError, match="100 classes"):
        fit_labels(chosen, 3)


def test_named_data_without_a_label_map_is_not_closed_up():
    with pytest.raises(DataError, match="model has 2"):
        fit_labels(make([3, 7], signs()), 2)


def test_a_label_without_a_class_names_its_rows():
    data = as_dataset((torch.zeros(4, 3, 4, 4), torch.tensor([0, 10, 2, 12])))
    with pytest.raises(DataError, match=r"rows 1, 3: the data has 4 classes .* model has 10"):
        fit_labels(data, 10)


def test_names_at_other_positions_among_unknown_names_are_refused():
    with pytest.raises(DataError, match=r"'bird' is number 0 in the data and 2 in the model.*no 'car'"):
        fit_labels(make([0, 1, 2], ["bird", "car", "cat"]), 3, ["airplane", "automobile", "bird"])


def test_unknown_names_at_the_same_count_keep_their_positions():
    fitted = fit_labels(make([0, 1], ["plane", "auto"]), 2, ["airplane", "automobile"])
    assert fitted.labels.tolist() == [0, 1]
    assert fitted.class_names == ("plane", "auto")
    assert "by their numbers" in fitted.notes[-1]


def test_a_name_the_model_has_twice_is_settled_by_position_or_refused():
    model = ["crane", "dog", "crane"]
    assert fit_labels(make([0, 1, 2], ["crane", "dog", "crane"]), 3, model).labels.tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"'crane' matches 2 .* \[0, 2\]"):
        fit_labels(make([0, 1], ["dog", "crane"]), 3, model)


def test_two_classes_of_one_name_are_refused():
    with pytest.raises(DataError, match="same name"):
        fit_labels(make([0, 1], ["Stop", "stop"]), 3, ["x", "y", "stop"])


def test_everything_but_the_labels_is_kept():
    data = make([0, 1], ["dog", "cat"], notes=("a note",), quarantined=(("x.png", "empty"),))
    fitted = fit_labels(data, 2, ["cat", "dog"])
    assert fitted.ids == data.ids
    assert fitted.quarantined == data.quarantined
    assert fitted.notes[0] == "a note"
    assert data.labels.tolist() == [0, 1]


NAMES = ("Speed limit (20km/h)", "Speed limit (30km/h)", "Stop", "Yield")


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (["Stop"], (2,)),
        (["stop", 2, "2"], (2,)),
        (["yield", "speed limit (30"], (3, 1)),
        ([3, 0], (3, 0)),
        (["speed_limit_(20km/h)"], (0,)),
        ([], ()),
    ],
)
def test_classes_by_name_number_or_beginning(entries, expected):
    assert resolve_classes(entries, NAMES) == expected


def test_a_digit_that_is_a_name_is_that_name():
    assert resolve_classes(["7"], [str(9 - index) for index in range(10)]) == (2,)


def test_a_whole_name_wins_over_the_beginning_of_another():
    assert resolve_classes(["bus"], ["bus stop", "bus"]) == (1,)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("speed limit", r"ambiguous: 0 Speed limit \(20km/h\), 1 Speed limit \(30km/h\)"),
        ("Stpo", "did you mean Stop"),
        ("zebra", "use one of Speed limit"),
        (4, "0 to 3"),
        ("4", "0 to 3"),
        (-1, "0 to 3"),
        (True, "no class True"),
        ("", "no class ''"),
    ],
)
def test_unknown_classes_are_refused(entry, message):
    with pytest.raises(ConfigError, match=f"(?i){message}"):
        resolve_classes([entry], NAMES)


def test_a_name_where_there_are_only_numbers():
    with pytest.raises(ConfigError, match=r"(?i)write its number"):
        resolve_classes(["Stop"], build_class_names(43))
