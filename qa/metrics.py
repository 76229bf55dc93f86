"""The figures that rules may be about, by kind of subject. A policy with any other could never be judged by."""

from __future__ import annotations

from qa.models import SubjectKind

# Against a reference catalogue.
SKY = (
    "flux_ratio", "flux_ratio_n", "flux_ratio_step", "strip_flux_ratio", "strip_flux_ratio_n",
    "flux_ratio_gradient_per_deg", "flux_ratio_gradient_sigma", "flux_ratio_gradient_at_least_per_deg",
    "completeness", "completeness_n",
)  # fmt: skip
METRICS: dict[str, frozenset[str]] = {
    SubjectKind.IMAGE: frozenset(
        (
            "dynamic_range", "dynamic_range_at_thermal_noise", "rms_over_thermal",
            "finite_fraction", "rms_jy_per_beam", "peak_jy_per_beam",
            "rms_over_strip", "strip_rms_jy_per_beam", "strip_rms_jy_per_beam_n", "beam_over_strip",
            "strip_bmaj_arcsec", "strip_bmaj_arcsec_n", "duty_fraction", "flagged_fraction", "strip_flagged_fraction",
            "strip_flagged_fraction_n", "flagged_above_strip", *SKY, "flux_ratio_certainly_off",
            "flux_ratio_max", "astrometric_offset_arcsec", "astrometric_offset_over_beam",
            "peak_over_expected", "expected_over_peak", "brightest_over_peak", "negative_excess_over_peak",
            "worst_antenna_gain_off", "antenna_gain_scatter",
        )
    ),
    SubjectKind.CALIBRATION_TABLE: frozenset(
        (
            "flagged_fraction", "median_snr", "median_amplitude", "phase_scatter_deg",
            "worst_window_flagged_fraction", "worst_window_bad_channel_fraction",
            "worst_antenna_flagged_fraction", "worst_antenna_phase_scatter_deg", "worst_antenna_time_phase_scatter_deg",
        )
    ),
    SubjectKind.EPOCH: frozenset(
        (
            *SKY, "n_sky_gates", "worst_tile_deviation", "rms_jy_per_beam", "rms_over_strip", "strip_rms_jy_per_beam",
            "strip_rms_n",
        )
    ),
}  # fmt: skip
