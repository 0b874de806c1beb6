"""How right the labels of a curriculum are, and how sure one can be: what auditors compute.

Light parts come from `rzero_core.intervals`, which the operator shares; the rest needs the `stages`
extra.
"""

from rzero_core.intervals import Interval, difference, mcnemar, newcombe, wilson
from rzero_core.label_accuracy.combined import (
    AuditedStratum,
    AuditorUnusableError,
    Estimate,
    Method,
    Probes,
    audited,
)
from rzero_core.label_accuracy.latent import dawid_skene, triplet
from rzero_core.label_accuracy.predicted import Calibration, calibrate, ppi, ppi_cross_fit
from rzero_core.label_accuracy.sampled import Stratum, allocate, rogan_gladen, stratified

__all__ = [
    "AuditedStratum",
    "AuditorUnusableError",
    "Calibration",
    "Estimate",
    "Interval",
    "Method",
    "Probes",
    "Stratum",
    "allocate",
    "audited",
    "calibrate",
    "dawid_skene",
    "difference",
    "mcnemar",
    "newcombe",
    "ppi",
    "ppi_cross_fit",
    "rogan_gladen",
    "stratified",
    "triplet",
    "wilson",
]
