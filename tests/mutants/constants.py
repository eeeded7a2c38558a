"""The constants that decide verdicts, values to either side of each, and the tests that have to notice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VerdictConstant:
    """A constant of the package.

    Args:
        file: Below the package.
        name: Its name.
        mutated_values: Values that have to be noticed: one smaller, one larger.
        tests: Files with tests of it.
    """

    file: str
    name: str
    mutated_values: tuple[str, ...]
    tests: tuple[str, ...]


def _make_constant(file: str, name: str, mutated_values: tuple[str, ...], *tests: str) -> VerdictConstant:
    return VerdictConstant(file, name, mutated_values, tuple(f"tests/{test}" for test in tests))


CHECKS, LABELS = (f"data/checks/test_{name}.py" for name in ("check_dataset", "labels_and_copies"))
AGREEMENT, JOBS, QUEUE = (
    f"evaluation/harness/test_{name}.py" for name in ("answer_agreement", "jobs", "batch_queue")
)
LIMITS, TRUST = "reports/test_report_limits.py", "reports/analysis/test_trust.py"

GRADIENTS = "classifier/test_gradient_limits.py"
ONNX = "models/test_onnx_gradients.py"
PROBES = "evaluation/probes/test_probe_limits.py"
ANSWER_DIFFERENCES, GRADIENT_PROBE, PROBE_IMAGES = (
    f"evaluation/probes/{name}.py" for name in ("answer_differences", "gradient_probe", "probe_images")
)

CONSTANTS = (
    _make_constant(
        "paired_difference.py", "CONTINUITY_CORRECTION", ("0.9", "1.1"), "test_paired_difference.py"
    ),
    _make_constant(
        "reports/analysis/share_change.py",
        "ALPHA",
        ("0.04", "0.06"),
        "reports/analysis/test_share_change.py",
    ),
    _make_constant(
        "evidence_bundle/example_checks.py",
        "NORM_TOLERANCE",
        ("0.9e-6", "1.1e-6"),
        "evidence_bundle/test_example_checks.py",
    ),
    _make_constant(
        "evidence_bundle/proof_readings.py",
        "BOUND_TOLERANCE",
        ("0.9e-3", "1.1e-3"),
        "evidence_bundle/test_proof_readings.py",
    ),
    _make_constant(
        "evidence_bundle/proof_readings.py",
        "VOTE_TOLERANCE",
        ("0.0018", "0.0022"),
        "evidence_bundle/test_proof_readings.py",
    ),
    _make_constant(
        "evidence_bundle/view_readings.py",
        "LIMIT_PROBABILITY",
        ("0.9e-3", "1.1e-3"),
        "evidence_bundle/test_view_readings.py",
    ),
    _make_constant(
        "sequential_decision.py", "SEQUENCE_ERROR", ("0.022", "0.028"), "test_sequential_decision.py"
    ),
    _make_constant(
        "reports/analysis/class_gates.py",
        "FAMILY_ERROR",
        ("0.04", "0.06"),
        "reports/analysis/test_policy_gates.py",
    ),
    _make_constant("load_statistics.py", "TREND_ALPHA", ("0.005", "0.02"), "test_load_statistics.py"),
    _make_constant("load_statistics.py", "TREND_BLOCKS", ("9", "11"), "test_load_statistics.py"),
    *(
        _make_constant("load_test/soak.py", name, values, "load_test/test_run_load_test.py")
        for name, values in (
            ("MIN_SOAK_SAMPLES", ("39", "41")),
            ("DRIFT_SHARE", ("0.08", "0.12")),
            ("LEAK_BYTES", ("1_000_000", "1_100_000")),
        )
    ),
    _make_constant(
        "reports/analysis/load_gates.py",
        "GENERATOR_SHARE",
        ("0.49", "0.51"),
        "reports/analysis/test_load_gates.py",
    ),
    _make_constant("serving/drift.py", "DRIFT_ALPHA", ("0.0095", "0.0105"), "serving/test_drift.py"),
    _make_constant("threats/lp_ball.py", "LINF_SLACK", ("5e-7", "2e-6"), "evaluation/test_verify_limits.py"),
    _make_constant(
        "threats/lp_ball.py", "RELATIVE_SLACK", ("1e-6", "1e-4"), "evaluation/test_verify_limits.py"
    ),
    _make_constant(
        "evaluation/harness/verify.py",
        "FRAGILE_MARGIN_SHARE",
        ("5e-5", "2e-4"),
        "evaluation/test_verify_limits.py",
    ),
    _make_constant(
        "evaluation/harness/sticker_job.py",
        "SIGN_SUCCESS_SHARE",
        ("0.49", "0.51"),
        "evaluation/test_viewing_limits.py",
    ),
    _make_constant(
        "evaluation/harness/twin_agreement.py",
        "MIN_TWIN_AGREEMENT",
        ("0.88", "0.92"),
        "evaluation/harness/test_twin_agreement.py",
    ),
    _make_constant(
        "evaluation/harness/twin_search.py",
        "MAX_PASSES_FOR_TWO_SEARCHES",
        ("995", "1005"),
        "evaluation/harness/test_twin_job.py",
    ),
    _make_constant(
        "classifier/twin_view.py",
        "MAX_SUM_ERROR",
        ("0.018", "0.022"),
        "classifier/test_twin_view.py",
    ),
    _make_constant(
        "store/records.py", "MIN_CLEAN_SHARE", ("0.94", "0.96"), "evaluation/test_viewing_limits.py"
    ),
    _make_constant(
        "classifier/stochastic.py",
        "DEFAULT_VERDICT_DRAWS",
        ("99", "101"),
        "classifier/test_stochastic_limits.py",
    ),
    _make_constant(
        "classifier/stochastic.py", "DEFAULT_DRAWS", ("19", "21"), "classifier/test_stochastic_limits.py"
    ),
    _make_constant(
        "classifier/stochastic.py",
        "MIN_LEAD_STD_ERRORS",
        ("4.8", "5.2"),
        "classifier/test_stochastic_limits.py",
    ),
    _make_constant(
        "classifier/stochastic.py", "TIED_LEAD", ("1e-6", "2e-5"), "classifier/test_stochastic_limits.py"
    ),
    _make_constant(
        "attacks/core/objective.py",
        "CONFIRMED_MARGIN_SHARE",
        ("4e-6", "3e-5"),
        "attacks/test_objective_limits.py",
    ),
    _make_constant(
        "certification/bound_propagation/certificate.py",
        "LINF_SLACK",
        ("5e-7", "2e-6"),
        "certification/test_proof_limits.py",
    ),
    _make_constant(
        "certification/bound_propagation/certificate.py",
        "RELATIVE_SLACK",
        ("5e-6", "2e-5"),
        "certification/test_proof_limits.py",
    ),
    _make_constant(
        "reports/analysis/sticker_controls.py",
        "MAX_RANDOM_COLOURS_SHARE",
        ("0.049", "0.051"),
        "reports/test_control_limits.py",
    ),
    _make_constant(
        "reports/analysis/sticker_controls.py",
        "MAX_NO_VIEWS_P_VALUE",
        ("0.0009", "0.002"),
        "reports/test_control_limits.py",
    ),
    _make_constant(
        "reports/analysis/sticker_controls.py",
        "MIN_WHOLE_SIGN_SHARE",
        ("0.899", "0.901"),
        "reports/test_control_limits.py",
    ),
    _make_constant(
        "reports/analysis/sticker_viewpoints.py",
        "MIN_VIEWS_PER_BIN",
        ("9", "11"),
        "reports/test_control_limits.py",
    ),
    _make_constant(
        "reports/analysis/sticker_viewpoints.py", "ALPHA", ("0.04", "0.06"), "reports/test_control_limits.py"
    ),
    _make_constant(
        "evaluation/harness/success_refinement.py",
        "CLEAR_MARGIN_SHARE",
        ("FRAGILE_MARGIN_SHARE", "3 * FRAGILE_MARGIN_SHARE"),
        "evaluation/test_verify_limits.py",
    ),
    _make_constant("evaluation/harness/answer_agreement.py", "MIN_DISAGREEMENTS", ("1", "3"), AGREEMENT),
    _make_constant(
        "evaluation/harness/answer_agreement.py", "MAX_DISAGREEMENT_SHARE", ("0.24", "0.26"), AGREEMENT
    ),
    _make_constant("evaluation/harness/answer_agreement.py", "MAX_COMPARED_IMAGES", ("3", "5"), AGREEMENT),
    _make_constant(
        "evaluation/harness/adaptation.py",
        "MIN_SAMPLE_IMAGES",
        ("3", "5"),
        "evaluation/harness/test_adaptation.py",
    ),
    _make_constant(
        "evaluation/harness/adaptation.py",
        "MAX_SAMPLE_IMAGES",
        ("15", "17"),
        "evaluation/harness/test_adaptation.py",
    ),
    _make_constant(
        "evaluation/harness/adaptation.py",
        "SAMPLE_SHARE",
        ("0.039", "0.041"),
        "evaluation/harness/test_adaptation.py",
    ),
    _make_constant(
        "evaluation/harness/adaptation.py",
        "MAX_CANDIDATE_FACTOR",
        ("3", "5"),
        "evaluation/harness/test_adaptation.py",
    ),
    _make_constant(
        "evaluation/harness/attack_job.py", "GROUP_REFERENCE_PIXELS", ("3 * 31 * 31", "3 * 33 * 33"), JOBS
    ),
    _make_constant(
        "defenses/training/memory_split.py",
        "MIN_BATCH_NORM_IMAGES",
        ("1", "3"),
        "defenses/training/test_memory_split.py",
    ),
    _make_constant("evaluation/harness/batches.py", "MAX_FAILURES_BEFORE_SUCCESS", ("2", "4"), QUEUE),
    _make_constant("evaluation/harness/batches.py", "MAX_HANGS", ("5", "7"), QUEUE),
    _make_constant("evaluation/harness/batches.py", "MAX_HANGS_BEFORE_SUCCESS", ("2", "4"), QUEUE),
    _make_constant("evaluation/harness/batches.py", "MAX_PROCESS_ENDS", ("199", "201"), QUEUE),
    _make_constant("evaluation/harness/sticker_job.py", "TEST_VIEWS", ("999", "1001"), JOBS),
    _make_constant("evaluation/harness/sticker_job.py", "WHOLE_SIGN_STEP_DIVISOR", ("2", "4"), JOBS),
    _make_constant("evaluation/harness/sticker_scene.py", "APPROACH_FRAMES", ("59", "61"), JOBS),
    _make_constant(
        "threats/transformations.py",
        "DEGREES_PER_SIDE",
        ("299.5", "300.5"),
        "evaluation/test_verify_limits.py",
    ),
    _make_constant(
        "threats/transformations.py",
        "_RELATIVE_SLACK",
        ("1 + 1e-8", "1 + 1e-5"),
        "evaluation/test_verify_limits.py",
    ),
    _make_constant("store/records.py", "MISSING_GRADIENT_SHARE", ("0.49", "0.51"), LIMITS),
    _make_constant("store/outcome_limits.py", "MIN_EXCESS_IMAGES", ("2", "4"), LIMITS),
    _make_constant("store/outcome_limits.py", "MIN_EXCESS_SHARE", ("0.009", "0.011"), LIMITS),
    _make_constant(
        "reports/analysis/eight_bit_worst_case.py", "MAX_EIGHT_BIT_GAP_SHARE", ("0.009", "0.011"), LIMITS
    ),
    _make_constant("reports/analysis/attempts.py", "MIN_QUERIES", ("999", "1001"), LIMITS),
    _make_constant("reports/analysis/run_diagnostics.py", "MIN_IMAGES", ("99", "101"), TRUST),
    _make_constant(
        "store/outcome_limits.py",
        "MAX_LOSS_GAP_SHARE",
        ("0.04", "0.06"),
        "reports/analysis/test_disagreements.py",
    ),
    _make_constant(
        "attacks/adaptive/findings.py",
        "MAX_ROUNDING_DIFFERENCE",
        ("9e-5", "1.1e-4"),
        "evaluation/diagnostics/test_diagnostic_limits.py",
    ),
    _make_constant(
        "evaluation/diagnostics/vanishing_gradient.py",
        "MAX_ZERO_SHARE",
        ("0.009", "0.011"),
        "evaluation/diagnostics/test_diagnostic_limits.py",
    ),
    _make_constant(
        "evaluation/diagnostics/saturated_softmax.py",
        "MAX_LOST_SHARE",
        ("0.49", "0.51"),
        "evaluation/diagnostics/test_diagnostic_limits.py",
    ),
    _make_constant(
        "evaluation/diagnostics/saturated_softmax.py",
        "MAX_TINY_SHARE",
        ("0.49", "0.51"),
        "evaluation/diagnostics/test_diagnostic_limits.py",
    ),
    _make_constant(
        "evaluation/diagnostics/gradient_reach.py",
        "MIN_KEPT_SHARE",
        ("0.23", "0.27"),
        "evaluation/diagnostics/test_gradient_reach.py",
    ),
    _make_constant(
        "evaluation/diagnostics/gradient_reach.py",
        "MAX_KEPT_SHARE",
        ("4.8", "5.2"),
        "evaluation/diagnostics/test_gradient_reach.py",
    ),
    _make_constant(
        "evaluation/diagnostics/gradient_reach.py",
        "PROMISED_MARGINS",
        ("1.9", "2.1"),
        "evaluation/diagnostics/test_gradient_reach.py",
    ),
    _make_constant(
        "evaluation/diagnostics/gradient_reach.py",
        "MIN_IMAGES",
        ("1", "3"),
        "evaluation/diagnostics/test_gradient_reach.py",
    ),
    _make_constant(
        "evaluation/diagnostics/gradient_agreement.py",
        "MIN_COSINE",
        ("0.94", "0.96"),
        "evaluation/diagnostics/test_diagnostic_limits.py",
    ),
    _make_constant(
        "evaluation/diagnostics/gradient_agreement.py",
        "MIN_CALM_COSINE",
        ("0.97", "0.99"),
        "evaluation/diagnostics/test_diagnostic_limits.py",
    ),
    _make_constant(
        "evaluation/diagnostics/gradient_agreement.py",
        "MAX_RELATIVE_ERROR",
        ("0.49", "0.51"),
        "evaluation/diagnostics/test_diagnostic_limits.py",
    ),
    _make_constant(
        "evaluation/diagnostics/gradient_agreement.py",
        "MIN_INFORMATIVE_SHARE",
        ("0.24", "0.26"),
        "evaluation/diagnostics/test_diagnostic_limits.py",
    ),
    _make_constant(
        "evaluation/diagnostics/logit_scale.py",
        "MAX_LOGIT_RANGE",
        ("490.0", "510.0"),
        "evaluation/diagnostics/test_diagnostic_limits.py",
    ),
    _make_constant(
        "evaluation/diagnostics/logit_scale.py",
        "MIN_LOGIT_RANGE",
        ("0.04", "0.06"),
        "evaluation/diagnostics/test_diagnostic_limits.py",
    ),
    _make_constant(
        "evaluation/diagnostics/input_scale.py",
        "MAX_ACCURACY_LOSS",
        ("0.01", "0.03"),
        "evaluation/diagnostics/test_diagnostic_limits.py",
    ),
    _make_constant(
        "evaluation/diagnostics/input_scale.py",
        "MIN_IMAGES",
        ("7", "9"),
        "evaluation/diagnostics/test_diagnostic_limits.py",
    ),
    _make_constant(
        "evaluation/diagnostics/input_range.py",
        "MAX_OVERSHOOT",
        ("5e-7", "2e-6"),
        "evaluation/diagnostics/test_diagnostic_limits.py",
    ),
    _make_constant(
        "evaluation/diagnostics/unbounded_attack.py",
        "MAX_STRAY_IMAGES",
        ("0", "2"),
        "evaluation/diagnostics/test_diagnostic_limits.py",
    ),
    _make_constant(
        "evaluation/diagnostics/input_form.py",
        "MAX_CHANCE",
        ("0.0009", "0.002"),
        "evaluation/diagnostics/test_diagnostic_limits.py",
    ),
    *(
        _make_constant(f"evaluation/probes/{file}.py", name, values, f"evaluation/probes/test_{test}.py")
        for file, name, values, test in (
            ("form_comparison", "MAX_FAMILY_CHANCE", ("0.007", "0.016"), "preprocessing_probe"),
            ("form_comparison", "MIN_GAIN", ("0.0495", "0.0505"), "preprocessing_probe"),
            ("class_orders", "MIN_ORDER_ACCURACY", ("0.49", "0.51"), "class_orders"),
            ("class_orders", "MIN_IMAGES_PER_CLASS", ("3", "5"), "class_orders"),
            ("class_orders", "MAX_ASSIGNED_CLASSES", ("63", "65"), "class_orders"),
            ("preprocessing_probe", "MIN_SCREENING_SHARE", ("0.16", "0.3"), "preprocessing_probe"),
            ("preprocessing_probe", "NEAR_BEST_SHARE", ("0.03", "0.07"), "preprocessing_probe"),
        )
    ),
    _make_constant(
        "evaluation/diagnostics/own_surrogates.py",
        "MIN_SURROGATE_COSINE",
        ("0.94", "0.96"),
        "evaluation/diagnostics/test_diagnostic_limits.py",
    ),
    _make_constant(
        "evaluation/diagnostics/pass_budget.py",
        "MAX_PASSES_SHARE",
        ("0.09", "0.11"),
        "evaluation/diagnostics/test_diagnostic_limits.py",
    ),
    _make_constant(
        "store/outcome_limits.py",
        "MIN_GUESSING_IMAGES",
        ("19", "21"),
        "reports/analysis/test_trust.py",
    ),
    _make_constant(
        "store/outcome_limits.py",
        "MIN_BINARY_ACCURACY",
        ("0.74", "0.76"),
        "reports/analysis/test_trust.py",
    ),
    _make_constant(
        "store/outcome_limits.py",
        "MIN_CHANCE_RATIO",
        ("1.9", "2.1"),
        "reports/analysis/test_trust.py",
    ),
    _make_constant(
        "reports/analysis/run_diagnostics.py",
        "MAX_DECLARED_GAP",
        ("0.004", "0.006"),
        "reports/analysis/test_trust.py",
    ),
    _make_constant(
        "reports/analysis/convergence_diagnostics.py",
        "MIN_STEPS_RATIO",
        ("1.9", "2.1"),
        "reports/analysis/test_trust.py",
    ),
    _make_constant(
        "attacks/adaptive/view_spec.py", "MIN_COSINE", ("0.94", "0.96"), "attacks/adaptive/test_limits.py"
    ),
    _make_constant(
        "attacks/adaptive/view_spec.py",
        "MAX_RELATIVE_ERROR",
        ("0.19", "0.21"),
        "attacks/adaptive/test_limits.py",
    ),
    _make_constant(
        "attacks/adaptive/view_spec.py",
        "MIN_FAULT_SHARE",
        ("0.009", "0.011"),
        "attacks/adaptive/test_limits.py",
    ),
    _make_constant(
        "attacks/adaptive/view_spec.py",
        "MAX_LOGIT_RANGE",
        ("98.0", "102.0"),
        "attacks/adaptive/test_limits.py",
    ),
    _make_constant(
        "attacks/adaptive/view_spec.py",
        "MIN_LOGIT_RANGE",
        ("0.09", "0.11"),
        "attacks/adaptive/test_limits.py",
    ),
    _make_constant(
        "attacks/adaptive/local_slopes.py",
        "MAX_LOCAL_ERROR",
        ("0.28", "0.32"),
        "attacks/adaptive/test_limits.py",
    ),
    _make_constant(
        "attacks/adaptive/local_slopes.py",
        "MIN_FAULTY_SHARE",
        ("0.19", "0.35"),
        "attacks/adaptive/test_limits.py",
    ),
    *(
        _make_constant(
            f"attacks/adaptive/{file}.py", name, values, "attacks/adaptive/test_answer_rounding.py"
        )
        for file, name, values in (
            ("answer_rounding", "MIN_NOISE_PER_EPSILON", ("0.2", "0.3")),
            ("answer_rounding", "MAX_NOISE_PER_EPSILON", ("3.8", "4.2")),
            ("answer_rounding", "MIN_CHANGE_PER_MEASURED_NOISE", ("3.8", "4.2")),
            ("gradient_checks", "MIN_RANDOM_COSINE", ("0.83", "0.87")),
        )
    ),
    _make_constant(
        "attacks/adaptive/measured_jacobian.py",
        "MAX_CURVATURE",
        ("0.09", "0.11"),
        "attacks/adaptive/test_limits.py",
    ),
    _make_constant(
        "attacks/adaptive/operator_scan.py",
        "MIN_JUMP_SHARE",
        ("0.28", "0.32"),
        "attacks/adaptive/test_limits.py",
    ),
    _make_constant(
        "attacks/adaptive/activation_rules.py",
        "MIN_SATURATED_SHARE",
        ("0.48", "0.52"),
        "attacks/adaptive/test_limits.py",
    ),
    _make_constant(
        "attacks/adaptive/part_search.py", "MIN_AGREEMENT", ("0.4", "0.6"), "attacks/adaptive/test_limits.py"
    ),
    _make_constant(
        "attacks/adaptive/part_search.py",
        "MAX_NONLINEARITY",
        ("8e-4", "1.2e-3"),
        "attacks/adaptive/test_limits.py",
    ),
    _make_constant(
        "data/photographs.py",
        "MIN_PHOTOGRAPH_SIDE",
        ("127", "129"),
        "evaluation/planning/test_image_preparation.py",
    ),
    _make_constant(
        "classifier/image_resize.py", "MAX_ROUNDING", ("9e-6", "1.1e-5"), "classifier/test_image_resize.py"
    ),
    _make_constant("classifier/image_borders.py", "DEFAULT_INSET", ("5e-7", "2e-6"), GRADIENTS),
    _make_constant("classifier/image_borders.py", "MIN_BROKEN_SHARE", ("0.49", "0.51"), GRADIENTS),
    _make_constant("classifier/gradient_repair.py", "MAX_SLOPE_RATIO", ("2.8", "3.2"), GRADIENTS),
    _make_constant("classifier/gradient_repair.py", "ROUNDING_SHARE", ("4e-6", "8e-6"), GRADIENTS),
    _make_constant("classifier/binary_output.py", "MIN_CHECKED_SCORES", ("7", "9"), GRADIENTS),
    _make_constant(ANSWER_DIFFERENCES, "SAME_SHAPE_TOLERANCE", ("9e-5", "1.1e-4"), PROBES),
    _make_constant(ANSWER_DIFFERENCES, "ROUNDING_FACTOR", ("9.5", "10.5"), PROBES),
    _make_constant(ANSWER_DIFFERENCES, "MAX_ROUNDING_SHARE", ("0.095", "0.105"), PROBES),
    _make_constant(ANSWER_DIFFERENCES, "QUANTIZED_TOLERANCE", ("7 / 256", "9 / 256"), PROBES),
    _make_constant(ANSWER_DIFFERENCES, "SERVICE_TOLERANCE", ("9e-3", "1.1e-2"), PROBES),
    _make_constant(ANSWER_DIFFERENCES, "RECORDED_TOLERANCE", ("9e-3", "1.1e-2"), PROBES),
    _make_constant(GRADIENT_PROBE, "MIN_CHANGE_SHARE", ("0.09", "0.11"), PROBES),
    _make_constant(GRADIENT_PROBE, "MAX_SHARE_RATIO", ("2.8", "3.2"), PROBES),
    _make_constant(GRADIENT_PROBE, "MIN_INFORMATIVE_SHARE", ("0.3", "0.7"), PROBES),
    _make_constant(PROBE_IMAGES, "SIMILAR_DISTANCE", ("7 / 255", "9 / 255"), PROBES),
    _make_constant(PROBE_IMAGES, "TWIN_SHARE", ("0.03", "0.05"), PROBES),
    _make_constant("evaluation/probes/batch_composition_checks.py", "LARGE_BATCH_SIZE", ("16", "18"), PROBES),
    _make_constant("evaluation/probes/query_history_checks.py", "EXTRA_CALLS", ("127", "129"), PROBES),
    _make_constant(
        "evaluation/harness/sticker_scene.py",
        "RANDOM_STICKERS",
        ("7", "9"),
        "evaluation/harness/test_sticker_scene.py",
    ),
    _make_constant(
        "classifier/image_borders.py", "MIN_JUMP_SHARE", ("0.23", "0.27"), "classifier/test_image_borders.py"
    ),
    _make_constant("store/cross_checks.py", "RADIUS_SLACK_SHARE", ("4e-7", "3e-6"), "store/test_damage.py"),
    _make_constant(
        "reports/analysis/disagreements.py",
        "RADIUS_SLACK_SHARE",
        ("8e-5", "1.2e-4"),
        "reports/analysis/test_disagreements.py",
    ),
    _make_constant(
        "reports/analysis/run_warnings.py",
        "MAX_FRAGILE_SHARE",
        ("0.009", "0.02"),
        "reports/analysis/test_worst_case_8bit.py",
    ),
    _make_constant("reports/analysis/sticker_warnings.py", "MIN_SIGNS", ("19", "21"), LIMITS),
    _make_constant("reports/analysis/checklist.py", "MIN_CURVE_POINTS", ("2", "4"), LIMITS),
    _make_constant(
        "reports/analysis/attack_phases.py",
        "MAX_CLASS_SHIFT",
        ("0.03", "0.08"),
        "reports/analysis/test_attack_phases.py",
    ),
    _make_constant("confidence_sequences.py", "BET_WEIGHT", ("2.0", "20.0"), "test_confidence_sequences.py"),
    _make_constant("phased_sequences.py", "EARLY_PHASE_SHARE", ("0.1", "0.4"), "test_phased_sequences.py"),
    _make_constant("data/checks/label_checks.py", "MIN_LABEL_LEAD", ("0.58", "0.62"), LABELS),
    _make_constant("data/checks/label_checks.py", "MIN_LABEL_ACCURACY", ("0.54", "0.61"), LABELS),
    _make_constant("data/checks/near_duplicates.py", "MIN_ALIGNED_LIKENESS", ("0.978", "0.982"), LABELS),
    _make_constant("data/checks/near_duplicates.py", "SURE_LIKENESS", ("0.988", "0.992"), LABELS),
    _make_constant("data/checks/class_checks.py", "ADVISED_IMAGES_PER_CLASS", ("99", "101"), CHECKS),
    _make_constant("data/checks/class_checks.py", "MAX_IMBALANCE", ("9.9", "10.02"), CHECKS),
    _make_constant("models/onnx_check.py", "MAX_DIFFERENCE", ("9.8e-4", "1.02e-3"), ONNX),
    _make_constant("models/onnx_check.py", "MAX_HALF_DIFFERENCE", ("1.98e-2", "2.02e-2"), ONNX),
    _make_constant("models/onnx_check.py", "MAX_SLOPE_ERROR", ("0.24", "0.26"), ONNX),
)
