"""Bugs planted by an author who did not know the audit, and clean pipelines of every kind."""

from __future__ import annotations

import pytest

from maskpool import audit_padding
from tests import fresh_plants
from tests.audit.planted import FEW
from tests.fresh_plants import Plant
from tests.matrix import sampled

# The expected answers, judged by hand against the statement of each author: named right, or not named at all
# ("padding of unknown cause", "pads reach real tokens inside the encoder", "… read by the pooling").
NAMED: dict[tuple[str, ...], tuple[str, ...]] = {
    (): (
        "every_word_unknown",
        "numpy_fixed_width_attention",
        "numpy_fixed_width_mean",
        "numpy_fixed_width_sum_over_width",
    ),
    ("NaN at pads read by the pooling",): ("nan_at_pads_times_zero", "nan_hidden_by_nan_to_num"),
    ("NaN in the encoder of padded texts",): ("nan_bias_when_padded",),
    ("all-ones mask",): ("max_length_ones_mask", "own_collate_ones_mask"),
    ("convolution across pads",): ("st_cnn_pad_row", "text_cnn", "text_cnn_window_only"),
    ("coupling through the batch",): (
        "attention_over_the_batch_axis",
        "causal_mask_skipped_for_equal_lengths",
        "centred_over_the_batch",
        "component_of_the_batch_removed",
        "divided_by_all_tokens",
        "packed_segment_one_too_long",
        "packed_without_boundaries",
        "scaled_to_the_range_of_the_batch",
        "word_weights_of_the_batch",
    ),
    ("coupling through the batch", "normalisation over positions"): ("batch_norm_in_training_mode",),
    ("coupling through the batch", "pads reach real tokens inside the encoder"): ("int8_scale_of_the_batch",),
    ("cut to a shorter text of the batch",): ("cut_at_the_shortest",),
    ("divided by the batch width",): ("sum_over_width",),
    ("first column taken as cls",): ("first_column_left",),
    ("last column taken as last token",): (
        "last_column_right",
        "last_end_of_text_is_a_pad",
        "lstm_last_step",
        "max_length_last_column",
    ),
    ("last token counted by column",): ("last_token_by_count_left", "tuple_last_token_left"),
    ("mask not passed to the encoder",): (
        "max_length_mask_in_pooling_only",
        "t5_without_mask",
        "two_encoders_averaged",
    ),
    ("mask not passed to the encoder", "mean over pads"): ("max_length_no_mask",),
    ("mask of other tokens",): (
        "cls_counted_as_pad",
        "mask_from_ids_drops_a_word",
        "mask_of_the_other_side",
        "mask_one_too_long",
    ),
    ("max over pads",): ("mean_and_leaking_max",),
    ("mean over pads",): (
        "cls_and_leaking_mean",
        "edge_padding",
        "encoder_function",
        "feature_extraction_pipeline",
        "first_last_average_over_pads",
        "max_length_first_last_average",
        "max_length_mean_over_all",
        "mean_over_pads_then_dense",
        "mean_over_pads_then_tanh",
        "mean_over_pads_then_whitening",
        "pad_is_end_of_text",
        "pad_to_multiple_of_16",
        "second_last_layer_over_pads",
        "st_own_pooling",
        "tuple_mean_over_pads",
        "two_encoders_concatenated",
    ),
    ("non-determinism",): ("dropout_left_on",),
    ("normalisation over positions",): ("norm_over_positions",),
    ("other path where nothing is padded",): ("causal_when_unpadded",),
    ("padded length read by the pooling",): ("tuple_root_of_width",),
    ("padding of unknown cause",): (
        "chunks_of_pads",
        "embedding_bag_without_padding_idx",
        "numpy_bucketed_widths",
        "relative_position_by_width",
        "top_quarter_by_width",
    ),
    ("pads reach real tokens inside the encoder",): (
        "bias_cached_by_shape",
        "expert_capacity_taken_by_pads",
        "int8_mask_overflow",
        "masked_after_softmax",
        "unsigned_mask_bias",
        "weak_mask_bias",
    ),
    ("pads read by the pooling",): ("attention_pooling_unmasked", "pooling_mask_rolled", "tuple_attention_pooling"),
    ("position ids under left padding",): ("gpt2_left_positions", "st_left_padded_bert"),
    ("position weights counted by column",): ("weighted_mean_by_column_left",),
    ("prompt counted by column",): ("prompt_sliced_left",),
    ("recurrent state through pads",): ("bidirectional_gru_unpacked",),
    ("rows in another order",): ("sorted_and_not_restored",),
    ("state kept between calls",): ("stale_buffer",),
    ("vectors cached from a padded run",): ("leak_kept_in_cache",),
    ("zeroed pads in a max",): ("max_with_zeros",),
}
CAUSES_OF = {plant: causes for causes, plants in NAMED.items() for plant in plants}


@pytest.mark.parametrize("plant", sampled(fresh_plants.PLANTS, every=6), ids=lambda plant: plant.name)
def test_plants_of_fresh_eyes_are_found(plant: Plant) -> None:
    """The author of the bug allows the verdict, and the causes are those above."""
    report = audit_padding(plant.wrong())
    assert report.verdict in plant.verdicts, report
    assert tuple(finding.cause for finding in report.findings) == CAUSES_OF[plant.name], report


@pytest.mark.parametrize("plant", sampled(fresh_plants.PLANTS, every=6), ids=lambda plant: plant.name)
def test_their_clean_twins_raise_no_alarm(plant: Plant) -> None:
    """The pipeline without the bug has no leak."""
    report = audit_padding(plant.clean(), FEW)
    assert report.verdict != "leaks", report


@pytest.mark.parametrize("name", sampled([name for name, _ in fresh_plants.CLEAN], every=6))
def test_clean_pipelines_of_every_kind_raise_no_alarm(name: str) -> None:
    """A correct pipeline has no leak."""
    report = audit_padding(dict(fresh_plants.CLEAN)[name](), FEW)
    assert report.verdict != "leaks", report
