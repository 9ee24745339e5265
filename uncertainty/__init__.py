"""The science, numpy only: metrics, calibration, novelty and resampling."""
