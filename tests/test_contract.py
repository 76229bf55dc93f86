"""What the API promises, and the test that holds it: the table at the end of docs/api.md.

Every address and method of the API stands in a row as `images/ID/fits/` or `POST batches/`, and every filter that does not simply
compare a column as `images/?name=`; what does is compared in all lists by one test.

`CONTIMG_WRITE_DOCS=1 pytest tests/test_contract.py` writes the table anew.
"""

# ruff: noqa: E501 - a row is a line
from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from django.conf import settings
from django.urls import reverse

from contimg.api.filters import CONE
from contimg.urls import router
from tests.access.test_matrix import OF_NO_ROW, routes
from tests.contimg.api.test_filters import is_plain

PAGE = Path(settings.BASE_DIR, "docs", "api.md")
HEADING = "## What is promised, and the tests that hold it\n"
PRODUCTS = ("subband-groups", "measurement-sets", "calibration-tables", "images")


def addresses(*forms: str, of: Sequence[str] = tuple(prefix for prefix, _, _ in router.registry)) -> str:
    """Of every list, for what one test sees in all of them."""
    return ", ".join(f"`{form.format(prefix)}`" for prefix in of for form in forms)


CONTRACT = [
    # Rules of all
    ("JSON, names with units, `null` and 0", "contimg/api/test_filters.py::test_zero_is_a_value_and_null_is_not_zero"),
    ("Fields that clients rely on", "contimg/test_urls.py::test_lists_and_details_have_the_promised_fields"),
    ("Pages by cursor", "contimg/api/test_pagination.py::test_any_values_come_back_once_and_in_order"),
    ("A page far behind costs what the first does", "contimg/api/test_pagination.py::test_a_page_reads_by_position_and_never_by_offset"),
    ("`limit` 1 to 1000", "contimg/api/test_pagination.py::test_other_limits_are_refused"),
    ("`count`, exact and estimated", "contimg/api/test_pagination.py::test_a_count_above_the_cap_is_an_estimate_near_the_truth"),
    ("A page that takes too long is refused", "contimg/api/test_limits.py::*"),
    ("Orderings, nulls last", "contimg/api/test_pagination.py::test_every_documented_ordering_of_every_list_works"),
    ("An index for every ordering", "contimg/api/test_plans.py::test_every_ordering_reads_an_index_in_its_order"),
    ("Unknown filters are refused", "contimg/api/test_filters.py::test_an_unknown_parameter_is_refused_and_the_valid_ones_are_named"),
    ("Filters named as their column, in every list", "contimg/api/test_filters.py::test_every_filter_chooses_the_rows_of_its_column"),
    ("A cone in every list of what has a position", "contimg/api/test_filters.py::test_every_resource_with_a_position_has_a_cone"),
    ("Cone search, nearest first", "contimg/api/test_filters.py::test_a_cone_finds_what_the_great_circle_says_nearest_first"),
    ("Cones at poles and across RA 0", "contimg/test_sky.py::*"),
    ("Images that cover a point: `images/?covers_ra_deg=`, `images/?covers_dec_deg=`", "images/test_viewsets.py::test_a_tile_covers_what_is_inside_of_its_four_sides"),
    ("CSV of a whole list", "contimg/api/test_exports.py::test_csv_has_all_rows_of_all_pages_with_what_json_says"),
    ("VOTable with units and UCDs", "contimg/api/test_exports.py::test_votable_is_read_by_astropy_with_units_and_nulls"),
    ("Exports in bounded memory", "contimg/api/test_exports.py::test_memory_does_not_grow_with_the_rows"),
    ("A constant number of queries of every list, detail, view and change", "test_query_budgets.py::*"),
    ("ETag and 304", "contimg/test_urls.py::test_an_answer_that_the_caller_has_is_not_sent_again"),
    ("If-Match and 412", "contimg/test_middleware.py::test_a_precondition_that_fails_is_a_problem_as_any_other"),
    ("A POST without its last slash keeps its method", "contimg/test_middleware.py::test_what_is_posted_without_the_slash_is_posted_again_with_it"),
    ("HEAD", "contimg/test_urls.py::test_head_has_the_headers_of_get"),
    ("Range", "images/test_viewsets.py::test_a_byte_range_is_answered_in_part"),
    ("Errors are problems with codes", "contimg/api/test_errors.py::test_every_error_of_ours_is_a_problem_with_the_status_and_code_of_its_class"),
    ("Nothing shows a server path, SQL or traceback", "test_inside.py::*"),
    ("A 503 says when to come back", "contimg/api/test_errors.py::test_every_error_of_ours_is_a_problem_with_the_status_and_code_of_its_class"),
    ("Public read switch", "contimg/api/test_errors.py::test_reading_needs_a_login_when_it_is_not_public"),
    ("Tokens, scopes, audit", "access/test_matrix.py::test_each_role_may_do_what_the_table_says_and_each_change_is_noted_once"),
    ("Tokens are kept as a digest, and expire", "access/test_tokens.py::*"),
    ("The audit log is only added to", "access/test_append_only.py::*"),
    ("`audit/`: who, what, when, from which request", "access/test_matrix.py::test_an_entry_says_who_did_it_with_which_token_from_where"),
    ("Throttles", "access/test_throttles.py::test_one_too_many_is_told_to_wait"),
    ("What is refused counts too", "access/test_throttles.py::test_what_is_not_for_everybody_counts_though_it_is_refused"),
    ("No trust in X-Forwarded-For", "access/test_throttles.py::test_an_address_that_the_caller_made_up_is_not_believed"),
    ("Throttled login", "access/test_throttles.py::test_guessing_a_password_ends_soon"),
    ("A login for who is not staff", "contimg/test_middleware.py::test_who_is_not_staff_logs_in_where_he_reads"),
    ("Request ids", "contimg/test_observability.py::*"),
    ("OpenAPI, Swagger, Redoc", "test_api_docs.py::test_swagger_and_redoc_are_served_without_a_network"),
    ("Every answer is as OpenAPI says", "contimg/api/test_fuzz.py::test_every_answer_is_as_the_schema_says"),
    ("OpenAPI says every parameter, header and error", "contimg/api/test_described.py::test_every_parameter_property_and_answer_has_a_description"),
    ("Its examples are real answers", "contimg/api/test_described.py::test_the_examples_are_what_the_api_takes_and_answers"),
    ("OpenAPI describes every parameter and answer, with examples", "contimg/api/test_described.py::*"),
    ("A typed client made of OpenAPI reads it", "contimg/api/test_client.py::*"),
    ("`Deprecation` and `Sunset` headers", "contimg/api/test_deprecation.py::*"),
    # Outside of the version
    ("`/`: the start page", "contimg/test_urls.py::test_the_start_page_counts_and_shows_the_latest_images"),
    ("`/api/v1/` lists what there is", "contimg/test_urls.py::test_the_root_lists_every_resource"),
    ("`/admin/` of every model", "test_query_budgets.py::test_the_admin_of_every_model_takes_as_many_queries_for_30_rows_as_for_one"),
    ("`/health/live`", "contimg/test_health.py::test_it_is_alive_without_a_database"),
    ("`/health/ready`, 503 when it cannot serve", "contimg/test_health.py::test_it_is_not_ready_when_products_cannot_be_written"),
    ("`/health/` with every dependency, `/metrics`", "contimg/test_health.py::test_health_and_metrics_can_be_scraped"),
    ("the same, for the inside only", "contimg/test_health.py::test_the_details_of_health_and_metrics_are_for_the_inside"),
    # Commands
    ("Commands have a line in the README", "test_docs.py::test_every_command_is_in_the_readme_and_every_one_there_exists"),
    ("What a user can mend is one sentence and no exit status 0", "contimg/test_commands.py::test_what_a_user_can_mend_is_one_sentence"),
    ("`index_subbands`", "observations/test_index_subbands_command.py::*"),
    ("`simulate`", "batch/test_simulate_command.py::*"),
    ("`process`", "batch/test_process.py::*"),
    ("`watch`", "batch/test_watch.py::*"),
    ("`register_images`", "images/test_register_images_command.py::*"),
    ("`light_curve`", "sources/test_light_curve_command.py::*"),
    ("`batch create`, `show`, `watch`, `cancel`, `retry`", "batch/test_worker.py::test_batches_are_made_shown_listed_cancelled_and_retried"),
    ("`worker`", "batch/test_worker.py::test_a_worker_runs_chains_and_drains_on_term"),
    ("`status`", "batch/test_status.py::*"),
    ("`pause`, `resume`", "batch/test_worker.py::test_stages_are_paused_and_resumed"),
    ("`token create`: the token alone is the last line", "access/test_tokens.py::test_a_token_is_shown_once_and_stored_as_a_digest"),
    ("`import_catalogue`", "sources/test_import_catalogue_command.py::*"),
    ("`night_report`", "batch/test_night_report.py::*"),
    ("`verify`", "provenance/test_verify_command.py::*"),
    ("`backup`, `restore`", "provenance/test_backups.py::test_a_destroyed_service_is_restored_to_the_same"),
    ("`doctor`", "contimg/test_health.py::test_the_doctor_says_each_finding_and_ends_with_1_when_there_is_one"),
    # Resources
    (addresses("{0}/", "{0}/ID/"), "contimg/test_urls.py::test_lists_and_details_have_the_promised_fields"),
    ("`subband-groups/ID/`: files, missing and duplicate subbands", "observations/test_viewsets.py::test_a_group_says_which_files_and_subbands_it_has"),
    ("`measurement-sets/ID/`: tables applied", "observations/test_viewsets.py::test_a_calibrated_set_names_the_tables_applied_to_it"),
    ("`measurement-sets/ID/antennas/`", "calibration/test_viewsets.py::test_the_antennas_of_a_raw_set_have_their_places_and_the_fractions_of_its_flag_table"),
    ("`measurement-sets/ID/raster.png`", "observations/test_raster.py::test_a_raster_is_a_picture_of_the_size_that_was_asked_for_and_is_made_once"),
    (addresses("{0}/ID/provenance/", "{0}/ID/provenance.svg", "{0}/ID/impact/", of=PRODUCTS), "provenance/test_viewsets.py::test_a_product_shows_its_graph_its_picture_and_its_impact"),
    ("`epochs/ID/provenance/`, `epochs/ID/provenance.svg`, `epochs/ID/impact/`", "provenance/test_viewsets.py::test_an_epoch_has_the_graph_of_its_current_mosaic"),
    ("`impact/` of an antenna, a time, software", "provenance/test_viewsets.py::test_an_impact_is_asked_of_one_thing"),
    ("`calibrators/ID/`: flux model", "calibration/test_viewsets.py::test_a_calibrator_has_its_flux_model_and_paper"),
    ("`calibrators/?transiting_at=`", "calibration/test_viewsets.py::test_calibrators_within_the_beam_of_the_meridian_are_transiting"),
    ("`calibrators/ID/`: next transits", "calibration/test_viewsets.py::test_next_transits_are_when_the_meridian_is_there"),
    ("`calibration-tables/?valid_at=`", "calibration/test_viewsets.py::test_tables_valid_at_a_time_are_found_at_both_ends_of_their_interval"),
    ("`calibration-tables/?calibrator=`", "calibration/test_viewsets.py::test_tables_are_found_by_the_calibrator_s_name_or_id"),
    ("`calibration-tables/ID/`: solver, metrics, source, verdict", "calibration/test_viewsets.py::test_a_table_is_shown_with_its_current_verdict"),
    ("`POST calibration-tables/ID/retire/`", "batch/test_again.py::test_a_retired_table_is_in_use_no_more_and_the_log_says_why"),
    ("`calibration-tables/ID/solutions.png`", "calibration/test_viewsets.py::test_solutions_are_drawn_and_flagged_antennas_are_marked"),
    ("`POST antenna-flags/`, `POST antenna-flags/ID/withdraw/`, `antenna-flags/?in_use=`", "calibration/test_antenna_flags.py::test_the_api_enters_withdraws_and_filters"),
    ("`images/ID/`: how it was made and judged", "images/test_viewsets.py::test_the_detail_says_how_the_image_was_made_and_judged"),
    ("`images/ID/`: wcs", "images/test_viewsets.py::test_the_detail_has_the_celestial_cards_of_the_file"),
    ("`images/ID/fits/`", "images/test_viewsets.py::test_the_fits_file_is_streamed_whole_whatever_is_accepted"),
    ("`images/ID/preview.png`", "images/test_viewsets.py::test_the_preview_is_a_png"),
    ("`images/ID/cutout/`", "images/test_cutouts.py::test_a_cutout_has_the_pixels_of_the_image_at_their_places_and_nan_beyond_it"),
    ("`images/ID/`: tiles of a mosaic, `images/ID/noise/`", "images/test_mosaics.py::test_an_image_shows_the_tiles_of_a_mosaic_and_its_noise_can_be_fetched"),
    ("`images/ID/versions/`", "images/test_viewsets.py::test_the_versions_of_a_tile_are_those_of_its_group_the_newest_first"),
    ("`images/ID/measurements/`", "sources/test_viewsets.py::test_measurements_of_one_image_are_listed_filtered_and_paged_as_all_are"),
    ("`POST images/ID/reimage/`", "batch/test_again.py::test_a_tile_is_imaged_again_with_other_parameters"),
    ("`epochs/ID/`: tiles, mosaic", "images/test_mosaics.py::test_an_epoch_shows_its_tiles_and_its_mosaic"),
    ("`epochs/ID/`: gates, catalogue comparison", "images/test_mosaics.py::test_an_epoch_shows_its_gates_and_how_its_mosaic_compares"),
    ("`epochs/` by time, dec strip and grade", "images/test_mosaics.py::test_epochs_are_found_by_time_strip_and_grade"),
    ("`sources/ID/`: images that cover it", "sources/test_viewsets.py::test_a_source_names_the_images_that_have_its_forced_flux"),
    ("`sources/ID/`: links", "sources/test_viewsets.py::test_a_source_links_to_all_that_hangs_on_it"),
    ("`measurements/ID/`: names of source and image", "sources/test_viewsets.py::test_measurements_of_one_source_are_found"),
    ("`reference-sources/` by catalogue, flux and cone", "sources/test_viewsets.py::test_reference_sources_are_found_by_catalogue_flux_and_cone"),
    ("`sources/ID/light-curve/`", "sources/test_viewsets.py::test_a_light_curve_has_every_epoch_and_its_statistics"),
    ("the same as CSV", "sources/test_files.py::test_the_csv_has_what_the_json_has"),
    ("the same as VOTable", "sources/test_files.py::test_the_votable_has_units_ucds_and_every_value"),
    ("the same as PNG", "sources/test_files.py::test_the_plot_is_made_once_until_the_light_curve_changes"),
    ("`sources/ID/cutouts/`", "sources/test_files.py::test_the_cutouts_of_a_source_are_linked_newest_first_and_every_link_works"),
    ("`sources/ID/neighbours/`", "sources/test_files.py::test_neighbours_are_the_other_sources_within_the_radius_nearest_first"),
    ("`POST batches/`", "batch/test_viewsets.py::test_a_batch_is_made_with_its_items_owner_and_audit"),
    ("the same, refused by name", "batch/test_viewsets.py::test_a_wrong_request_is_refused_with_one_code_and_nothing_is_stored"),
    ("the same, idempotency keys", "batch/test_viewsets.py::test_the_same_key_gives_the_same_batch_and_another_request_with_it_is_refused"),
    ("`POST batches/ID/cancel/`, `POST batches/ID/retry/`, `POST items/ID/cancel/`, `POST items/ID/retry/`", "batch/test_viewsets.py::test_cancel_and_retry_of_batch_and_item_and_what_has_nothing_left"),
    ("`batches/ID/`: progress and ETA", "batch/test_viewsets.py::test_the_estimate_follows_the_medians_of_tiles_of_that_size_and_the_workers"),
    ("`POST batches/ID/priority/`", "batch/test_viewsets.py::test_what_is_retried_has_the_priority_that_its_batch_has_now"),
    ("`batches/ID/items/`", "batch/test_viewsets.py::test_a_batch_is_made_with_its_items_owner_and_audit"),
    ("`batches/ID/events/`", "batch/test_viewsets.py::test_a_stream_tells_states_progress_log_and_end_and_goes_on_where_it_stopped"),
    ("`items/ID/`: attempts, evidence; `items/ID/log/`", "batch/test_viewsets.py::test_evidence_and_logs_are_for_the_inside_only"),
    ("`POST pauses/`, `DELETE pauses/ID/`", "batch/test_viewsets.py::test_a_stage_is_paused_and_resumed"),
    ("`POST quarantines/`, `POST quarantines/ID/lift/`", "provenance/test_viewsets.py::test_a_quarantine_over_http"),
    ("`quarantines/ID/plan/`, `POST quarantines/ID/reprocess/`", "batch/test_reprocess.py::test_exactly_the_affected_tiles_are_rebuilt_and_as_without_the_table"),
    ("`assessments/?subject_kind=`, `assessments/?image=`", "qa/test_viewsets.py::test_a_verdict_names_its_subject_and_policy"),
    ("`assessments/?rule=`", "qa/test_viewsets.py::test_verdicts_are_found_by_the_rule_that_objected"),
    ("`assessments/ID/`: findings", "qa/test_viewsets.py::test_the_detail_has_every_finding_and_metric"),
    ("`POST assessments/`", "batch/test_again.py::test_images_are_judged_again_by_id_or_by_query"),
    ("`policies/ID/`: the rules", "qa/test_viewsets.py::test_a_policy_shows_its_rules"),
    ("`POST policies/`, `PATCH policies/ID/`, `DELETE policies/ID/`", "qa/test_policies.py::test_the_api_drafts_changes_tries_and_activates"),
    ("`POST policies/ID/evaluate/`: a shadow run over history", "qa/test_policies.py::test_evaluating_says_what_would_change_and_changes_nothing"),
    ("`POST policies/ID/activate/`", "qa/test_policies.py::test_activating_judges_tables_at_once_and_current_images_by_a_batch"),
    ("`drift/`", "qa/test_drift.py::test_a_series_is_asked_for_over_http"),
    ("`POST alerts/ID/acknowledge/`, `POST alerts/ID/silence/`", "qa/test_viewsets.py::test_an_alert_is_acknowledged_and_silenced_over_http"),
    ("`POST reviews/`", "qa/test_reviews.py::test_a_review_is_written_over_http_and_is_the_grade"),
    ("`POST reviews/ID/withdraw/`", "qa/test_reviews.py::test_only_an_administrator_withdraws_what_another_wrote"),
    ("`POST reviews/epoch/`", "qa/test_reviews.py::test_an_epoch_is_reviewed_over_http"),
    ("`reviews/agreement/`", "qa/test_reviews.py::test_agreement_is_of_the_time_that_is_asked_for"),
    ("What nobody has reviewed", "qa/test_reviews.py::test_what_nobody_has_reviewed_is_found_by_the_source_of_its_grade"),
    ("`reviews/next/`", "qa/test_reviews.py::test_next_gives_one_image_after_the_other_until_nothing_is_left"),
    ("`reviews/?reviewer=`, `reviews/?verdict=`, `reviews/?tag=`", "qa/test_reviews.py::test_reviews_are_listed_by_what_they_say_and_who_wrote_them"),
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


def offered() -> Iterator[str]:
    """What the API answers, as the table calls it."""
    for name, methods in routes().items():
        is_of_a_row = not name.endswith("-list") and name not in OF_NO_ROW
        address = reverse(name, args=[7] if is_of_a_row else []).removeprefix("/api/v1/").replace("/7/", "/ID/")
        for method in methods.keys() - {"head"}:
            yield address if method == "get" else f"{method.upper()} {address}"
    for prefix, view, _ in router.registry:
        for name, filter_ in view.filterset_class.base_filters.items():
            if not is_plain(filter_) and name not in CONE:  # those are each in one test of all lists
                yield f"{prefix}/?{name}="


def test_every_address_method_and_filter_has_a_row():
    told = {word for promise, _ in CONTRACT for word in re.findall("`([^`]+)`", promise)}
    assert set(offered()) - told == set()
    promised = {word for word in told if re.match(r"(POST |PATCH |DELETE )?[a-z-]+/", word)}
    known = {word.partition("?")[0] for word in offered()}
    assert {word.partition("?")[0] for word in promised} - known == set()  # and none that there is not
