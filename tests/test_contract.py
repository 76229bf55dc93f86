"""What the API promises, and the test that holds it: the table at the end of docs/api.md.

`CONTIMG_WRITE_DOCS=1 pytest tests/test_contract.py` writes the table anew.
"""

# ruff: noqa: E501 - a row is a line
from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
from django.conf import settings

PAGE = Path(settings.BASE_DIR, "docs", "api.md")
HEADING = "## What is promised, and the tests that hold it\n"
CONTRACT = [
    # Rules of all
    ("JSON, names with units, `null` and 0", "contimg/api/test_filters.py::test_zero_is_a_value_and_null_is_not_zero"),
    ("Fields that clients rely on", "contimg/test_urls.py::test_lists_and_details_have_the_promised_fields"),
    ("Pages by cursor", "contimg/api/test_pagination.py::test_any_values_come_back_once_and_in_order"),
    ("`limit` 1 to 1000", "contimg/api/test_pagination.py::test_other_limits_are_refused"),
    ("`count`, exact and estimated", "contimg/api/test_pagination.py::test_a_count_above_the_cap_is_an_estimate_near_the_truth"),
    ("A page that takes too long is refused", "contimg/api/test_limits.py::*"),
    ("Orderings, nulls last", "contimg/api/test_pagination.py::test_every_documented_ordering_of_every_list_works"),
    ("An index for every ordering", "contimg/api/test_plans.py::test_every_ordering_reads_an_index_in_its_order"),
    ("Unknown filters are refused", "contimg/api/test_filters.py::test_an_unknown_parameter_is_refused_and_the_valid_ones_are_named"),
    ("Cone search, nearest first", "contimg/api/test_filters.py::test_a_cone_finds_what_the_great_circle_says_nearest_first"),
    ("Cones at poles and across RA 0", "contimg/test_sky.py::*"),
    ("Images that cover a point", "images/test_viewsets.py::test_a_tile_covers_what_is_inside_of_its_four_sides"),
    ("CSV of a whole list", "contimg/api/test_exports.py::test_csv_has_all_rows_of_all_pages_with_what_json_says"),
    ("VOTable with units and UCDs", "contimg/api/test_exports.py::test_votable_is_read_by_astropy_with_units_and_nulls"),
    ("Exports in bounded memory", "contimg/api/test_exports.py::test_memory_does_not_grow_with_the_rows"),
    ("ETag and 304", "contimg/test_urls.py::test_an_answer_that_the_caller_has_is_not_sent_again"),
    ("HEAD", "contimg/test_urls.py::test_head_has_the_headers_of_get"),
    ("Range", "images/test_viewsets.py::test_a_byte_range_is_answered_in_part"),
    ("Errors are problems with codes", "contimg/api/test_errors.py::test_every_error_of_ours_is_a_problem_with_the_status_and_code_of_its_class"),
    ("Nothing shows a server path, SQL or traceback", "test_inside.py::*"),
    ("Public read switch", "contimg/api/test_errors.py::test_reading_needs_a_login_when_it_is_not_public"),
    ("Tokens, scopes, audit", "access/test_matrix.py::test_each_role_may_do_what_the_table_says_and_each_change_is_noted_once"),
    ("Throttles", "access/test_throttles.py::test_one_too_many_is_told_to_wait"),
    ("Throttled login", "access/test_throttles.py::test_guessing_a_password_ends_soon"),
    ("Request ids", "contimg/test_observability.py::*"),
    ("OpenAPI, Swagger, Redoc", "test_api_docs.py::test_swagger_and_redoc_are_served_without_a_network"),
    ("Every answer is as OpenAPI says", "contimg/api/test_fuzz.py::test_every_answer_is_as_the_schema_says"),
    ("OpenAPI says every parameter, header and error", "contimg/api/test_described.py::test_every_parameter_property_and_answer_has_a_description"),
    ("Its examples are real answers", "contimg/api/test_described.py::test_the_examples_are_what_the_api_takes_and_answers"),
    ("A typed client made of OpenAPI reads it", "contimg/api/test_client.py::*"),
    ("`Deprecation` and `Sunset` headers", "contimg/api/test_deprecation.py::*"),
    # Resources
    ("`subband-groups/`: files, missing and duplicate subbands", "observations/test_viewsets.py::test_a_group_says_which_files_and_subbands_it_has"),
    ("`measurement-sets/`: tables applied", "observations/test_viewsets.py::test_a_calibrated_set_names_the_tables_applied_to_it"),
    ("`measurement-sets/ID/antennas/`", "calibration/test_viewsets.py::test_the_antennas_of_a_raw_set_have_their_places_and_the_fractions_of_its_flag_table"),
    ("`measurement-sets/ID/raster.png`", "observations/test_raster.py::test_a_raster_is_a_picture_of_the_size_that_was_asked_for_and_is_made_once"),
    ("`ID/provenance/`, `impact/`", "provenance/test_viewsets.py::test_a_product_shows_its_graph_its_picture_and_its_impact"),
    ("`epochs/ID/provenance/`", "provenance/test_viewsets.py::test_an_epoch_has_the_graph_of_its_current_mosaic"),
    ("`calibrators/`: flux model", "calibration/test_viewsets.py::test_a_calibrator_has_its_flux_model_and_paper"),
    ("`calibrators/?transiting_at=`, next transits", "calibration/test_viewsets.py::test_next_transits_are_when_the_meridian_is_there"),
    ("`calibration-tables/?valid_at=`", "calibration/test_viewsets.py::test_tables_valid_at_a_time_are_found_at_both_ends_of_their_interval"),
    ("`calibration-tables/ID/retire/`", "batch/test_again.py::test_a_retired_table_is_in_use_no_more_and_the_log_says_why"),
    ("`calibration-tables/ID/solutions.png`", "calibration/test_viewsets.py::test_solutions_are_drawn_and_flagged_antennas_are_marked"),
    ("`images/ID/`: how it was made and judged", "images/test_viewsets.py::test_the_detail_says_how_the_image_was_made_and_judged"),
    ("`images/ID/`: wcs", "images/test_viewsets.py::test_the_detail_has_the_celestial_cards_of_the_file"),
    ("`images/ID/fits/`", "images/test_viewsets.py::test_the_fits_file_is_streamed_whole_whatever_is_accepted"),
    ("`images/ID/preview.png`", "images/test_viewsets.py::test_the_preview_is_a_png"),
    ("`images/ID/cutout/`", "images/test_cutouts.py::test_a_cutout_has_the_pixels_of_the_image_at_their_places_and_nan_beyond_it"),
    ("`images/ID/versions/`", "images/test_viewsets.py::test_the_versions_of_a_tile_are_those_of_its_group_the_newest_first"),
    ("`images/ID/measurements/`", "sources/test_viewsets.py::test_measurements_of_one_image_are_listed_filtered_and_paged_as_all_are"),
    ("`images/ID/reimage/`", "batch/test_again.py::test_a_tile_is_imaged_again_with_other_parameters"),
    ("`sources/ID/light-curve/`", "sources/test_viewsets.py::test_a_light_curve_has_every_epoch_and_its_statistics"),
    ("the same as CSV", "sources/test_files.py::test_the_csv_has_what_the_json_has"),
    ("the same as VOTable", "sources/test_files.py::test_the_votable_has_units_ucds_and_every_value"),
    ("the same as PNG", "sources/test_files.py::test_the_plot_is_made_once_until_the_light_curve_changes"),
    ("`sources/ID/cutouts/`", "sources/test_files.py::test_the_cutouts_of_a_source_are_linked_newest_first_and_every_link_works"),
    ("`sources/ID/neighbours/`", "sources/test_files.py::test_neighbours_are_the_other_sources_within_the_radius_nearest_first"),
    ("`POST batches/`", "batch/test_viewsets.py::test_a_batch_is_made_with_its_items_owner_and_audit"),
    ("the same, refused by name", "batch/test_viewsets.py::test_a_wrong_request_is_refused_with_one_code_and_nothing_is_stored"),
    ("the same, idempotency keys", "batch/test_viewsets.py::test_the_same_key_gives_the_same_batch_and_another_request_with_it_is_refused"),
    ("`cancel/`, `retry/` of batches and items", "batch/test_viewsets.py::test_cancel_and_retry_of_batch_and_item_and_what_has_nothing_left"),
    ("`batches/ID/events/`", "batch/test_viewsets.py::test_a_stream_tells_states_progress_log_and_end_and_goes_on_where_it_stopped"),
    ("`items/ID/`: evidence and log", "batch/test_viewsets.py::test_evidence_and_logs_are_for_the_inside_only"),
    ("`assessments/`: findings", "qa/test_viewsets.py::test_the_detail_has_every_finding_and_metric"),
    ("`POST assessments/`", "batch/test_again.py::test_images_are_judged_again_by_id_or_by_query"),
    ("`policies/`", "qa/test_viewsets.py::test_a_policy_shows_its_rules"),
    ("`reviews/next/`", "qa/test_reviews.py::test_next_gives_one_image_after_the_other_until_nothing_is_left"),
    ("`reviews/` by what they say", "qa/test_reviews.py::test_reviews_are_listed_by_what_they_say_and_who_wrote_them"),
    ("`stats/`", "contimg/test_stats.py::test_what_there_is_is_counted_by_state_grade_and_day"),
]  # fmt: skip


def table() -> str:
    rows = [f"| {promise} | {f'`{test}`' if test else '**not built**'} |" for promise, test in CONTRACT]
    return "\n".join([HEADING, "| promise | test below `tests/` |", "|---|---|", *rows, ""])


def test_the_table_is_that_of_the_page():
    before, _, after = PAGE.read_text().partition(HEADING)
    if os.environ.get("CONTIMG_WRITE_DOCS"):
        PAGE.write_text(f"{before.rstrip()}\n\n{table()}")
    elif HEADING + after != table():
        pytest.fail("docs/api.md has another table; write it with CONTIMG_WRITE_DOCS=1.")


@pytest.mark.parametrize("test", [test for _, test in CONTRACT if test])
def test_every_named_test_exists(test):
    file, _, name = test.partition("::")
    tree = ast.parse(Path(settings.BASE_DIR, "tests", file).read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert name in names or (name == "*" and any(found.startswith("test_") for found in names))
