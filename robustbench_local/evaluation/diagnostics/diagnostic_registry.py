"""All diagnostics that ask a model, in the order of the report."""

from __future__ import annotations

from robustbench_local.evaluation.diagnostics.blocking_operators import BlockingOperators
from robustbench_local.evaluation.diagnostics.changing_answers import ChangingAnswers
from robustbench_local.evaluation.diagnostics.chosen_members import ChosenMembers
from robustbench_local.evaluation.diagnostics.class_order import ClassOrderCheck
from robustbench_local.evaluation.diagnostics.diagnostic import Diagnostic
from robustbench_local.evaluation.diagnostics.gradient_agreement import GradientAgreement
from robustbench_local.evaluation.diagnostics.gradient_reach import GradientReach
from robustbench_local.evaluation.diagnostics.inner_optimization import InnerOptimization
from robustbench_local.evaluation.diagnostics.input_form import InputForm
from robustbench_local.evaluation.diagnostics.input_range import InputRange
from robustbench_local.evaluation.diagnostics.input_scale import InputScale
from robustbench_local.evaluation.diagnostics.kept_state import KeptState
from robustbench_local.evaluation.diagnostics.logit_scale import LogitScale
from robustbench_local.evaluation.diagnostics.missing_graph import MissingGraph
from robustbench_local.evaluation.diagnostics.output_form import OutputForm
from robustbench_local.evaluation.diagnostics.probability_output import ProbabilityOutput
from robustbench_local.evaluation.diagnostics.random_noise import RandomNoise
from robustbench_local.evaluation.diagnostics.saturated_softmax import SaturatedSoftmax
from robustbench_local.evaluation.diagnostics.training_mode import TrainingMode
from robustbench_local.evaluation.diagnostics.unbounded_attack import UnboundedAttack
from robustbench_local.evaluation.diagnostics.vanishing_gradient import VanishingGradient

DIAGNOSTICS: tuple[Diagnostic, ...] = (
    InputRange(),
    OutputForm(),
    TrainingMode(),
    ChangingAnswers(),
    KeptState(),
    ProbabilityOutput(),
    MissingGraph(),
    VanishingGradient(),
    SaturatedSoftmax(),
    GradientAgreement(),
    LogitScale(),
    InputScale(),
    ClassOrderCheck(),
    InnerOptimization(),
    BlockingOperators(),
    GradientReach(),
    InputForm(),
    ChosenMembers(),
    UnboundedAttack(),
    RandomNoise(),
)
"""Those that take most passes stand last, and get what the others leave."""
